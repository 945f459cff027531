"""Tables of questions about images, read a row at a time: JSON lines, CSV, parquet, a folder of images with its table, WebDataset
shards, a `datasets` folder, or a hub id.

The schema of the released VisionThink sets is read as it is: `problem` (with `<image>`), `images` (a list of one),
`original_answer` or `solution`, and `info.use_tool` for the need. Plain names (`question`, `image`, `answer`) are read too, and
other names can be mapped; of a list of answers the first is the reference and the others are as good.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from visionthink.cells import is_blank, is_text, kind_of, quoted, text_of
from visionthink.data.encoded import from_base64
from visionthink.data.folders import folder_at
from visionthink.data.rows import Rows, place
from visionthink.data.sources import open_rows
from visionthink.errors import DataError, OptionError
from visionthink.types import Example, ImageSource, Need, Role

_COLUMNS: dict[str, Sequence[str]] = {
    "question": ("question", "problem"),
    "image": ("image", "images", "file_name", "jpg", "jpeg", "png", "webp"),
    "answer": ("answer", "original_answer", "solution"),
}


def parse_columns(text: str) -> dict[str, str]:
    """ "question=q,image=picture" to a mapping. A dot reaches into a column: `answer=json.answer`.

    Raises:
        OptionError: not of this form, not a part of an example, or a part twice.
    """
    columns: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, column = (p.strip() for p in part.partition("="))
        if name not in _COLUMNS or not equals or not column:
            raise OptionError(f"columns {part!r}: expected question=NAME, image=NAME or answer=NAME")
        if name in columns:
            raise OptionError(f"columns {part!r}: {name} is named already, as {columns[name]}")
        columns[name] = column
    return columns


_SHORT = 200
"""Characters of a value that is kept beside an example, and values of a list."""


def _is_short(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= _SHORT and all(_is_short(v) and not isinstance(v, list) for v in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, (bool, int)) or (isinstance(value, str) and 0 < len(value) <= _SHORT)


def _plain(value: Any) -> Any:
    """A short value without what cells know of how it was written."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return float(value) if isinstance(value, float) else str(value) if isinstance(value, str) else value


class ExampleTable(Mapping[str, Example]):
    """Rows of a table as examples, by their number. Nothing but the row asked for is in memory; images stay encoded.

    Paths of images are relative to `image_root`, and must not lead out of it.

    Raises:
        DataError: a column is missing; when read, a row without question, answer or image, named by its place.
    """

    def __init__(self, name: str, rows: Rows, image_root: Path | str, columns: Mapping[str, str] | None = None):
        self.name, self._rows, self._folder = name, rows, folder_at(image_root)
        self._columns: dict[str, Sequence[str]] = {}
        present = rows.column_names
        if "json" in present:  # of a WebDataset shard
            present = [*present, *(f"json.{part}" for part in _nested(rows, "json"))]
        for part, usual in _COLUMNS.items():
            given = (columns or {}).get(part)
            wanted: Sequence[str] = (given,) if given else (*usual, *(f"json.{n}" for n in usual))
            found = [n for n in wanted if n in present or (given and n.partition(".")[0] in present)]
            if not found:
                asked = given or " or ".join(usual[:3])
                there = quoted(rows.column_names)
                raise DataError(f"{name}: no column {asked}; it has {there}; name it by --columns {part}=NAME")
            self._columns[part] = found
        self._used = {"aliases", "data_source", "earlier", *(name for names in self._columns.values() for name in names)}

    @property
    def fingerprint(self) -> str:
        """Another one where the examples may be others, but for what image files of this machine hold; empty where that cannot be
        told."""
        rows, folder = getattr(self._rows, "fingerprint", ""), self._folder.fingerprint  # rows that somebody else holds have none
        return f"{self.name} {rows} {folder} {self._columns}" if rows and folder else ""

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, key: str) -> str:
        """How messages name a row."""
        return f"{self.name}, {place(self._rows, int(key))}"

    def first(self, count: int) -> Mapping[str, Example]:
        """The first rows alone."""
        return _First(self, count)

    def __iter__(self) -> Iterator[str]:
        return (str(i) for i in range(len(self)))

    def __getitem__(self, key: str) -> Example:
        if not key.isdecimal() or int(key) >= len(self):
            raise KeyError(key)
        try:
            row = self._rows[int(key)]
        except DataError as error:
            raise DataError(f"{self.where(key)}: {error}") from None
        answers = self._answers(row, key)
        column, question = self._cell(row, "question", key)
        if not is_text(question):
            raise self._refused(key, f"the question is {kind_of(question)}, not text", column)
        family = self._text(row["data_source"], "family", "data_source", key) if not is_blank(row.get("data_source")) else None
        earlier = self._earlier(row, key)
        texts = [question, *answers, *(text for _, text in earlier), *([family] if family else [])]
        if any("\ud800" <= c <= "\udfff" for text in texts for c in text):
            raise DataError(f"{self.where(key)}: holds half of a UTF-16 pair, which is no text")
        return Example(
            id=key,
            question=question,
            image=self._images(row, key),
            answer=answers[0],
            aliases=tuple(answers[1:]),
            need=self._need(row, key),
            family=family,
            earlier=earlier,
            metadata={name: _plain(value) for name, value in row.items() if name not in self._used and _is_short(value)},
        )

    def _refused(self, key: str, why: str, column: str) -> DataError:
        return DataError(f"{self.where(key)}: {why} (column {column!r})")

    def _text(self, cell: Any, part: str, column: str, key: str) -> str:
        try:
            return text_of(cell)
        except DataError as error:
            raise self._refused(key, f"the {part} is {error}", column) from None

    def _answers(self, row: Mapping[str, Any], key: str) -> list[str]:
        """The reference answer, then the others that are as good; blank ones are none."""
        column, cell = self._cell(row, "answer", key)
        answers: list[str] = []
        for name, part, found in ((column, "answer", cell), ("aliases", "alias", row.get("aliases"))):
            for each in found if isinstance(found, list) else [found]:
                if isinstance(each, (list, dict)):
                    raise self._refused(key, f"the {part} is nested; text or a list of texts is expected", name)
                answers += [] if is_blank(each) else [self._text(each, part, name, key)]
        return answers

    def _need(self, row: Mapping[str, Any], key: str) -> Need | None:
        use_tool = _reach(row, "info.use_tool")
        if use_tool is None:
            return None
        if not isinstance(use_tool, bool):
            raise self._refused(key, f"the need is {kind_of(use_tool)}, not true or false", "info.use_tool")
        return "hard" if use_tool else "easy"

    def _earlier(self, row: Mapping[str, Any], key: str) -> tuple[tuple[Role, str], ...]:
        """The messages before the question, where the row has some."""
        said: list[tuple[Role, str]] = []
        messages = [] if is_blank(row.get("earlier")) else row["earlier"]
        for message in messages if isinstance(messages, list) else [messages]:
            role, text = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
            if role not in ("system", "user", "assistant") or not isinstance(text, str) or not is_text(text):
                kind = kind_of(message if not isinstance(message, Mapping) else text if role else role)
                why = f"earlier is not a list of messages with role and content: {kind}"
                raise self._refused(key, why, "earlier")
            said.append((role, text))
        return tuple(said)

    def _cell(self, row: Mapping[str, Any], part: str, key: str) -> tuple[str, Any]:
        """The first column of a part in which something stands, and what."""
        for column in self._columns[part]:
            value = _reach(row, column)
            if not is_blank(value) and not (isinstance(value, list) and all(map(is_blank, value))):
                return column, value
        raise DataError(f"{self.where(key)}: no {part} in column {' or '.join(self._columns[part])}")

    def _images(self, row: Mapping[str, Any], key: str) -> ImageSource | tuple[ImageSource, ...]:
        """The image of a row, or several."""
        column, cell = self._cell(row, "image", key)
        images = tuple(self._image(each, column, key) for each in (cell if isinstance(cell, list) else [cell]))
        return images if len(images) > 1 else images[0]

    def _image(self, cell: Any, column: str, key: str) -> bytes | Path:
        if isinstance(cell, dict) and cell and not ({"bytes", "path"} & cell.keys()):
            raise self._refused(key, f"the image has {quoted(cell)}; bytes or a path are expected", column)
        if isinstance(cell, dict):
            cell = cell.get("path") if is_blank(cell.get("bytes")) else cell["bytes"]
        if not (isinstance(cell, bytes) or is_text(cell)) or not cell:
            raise self._refused(key, f"the image is {kind_of(cell)}, not a file", column)
        if isinstance(cell, bytes):
            return cell
        try:
            return from_base64(cell) or self._folder.image(cell)
        except DataError as error:
            raise self._refused(key, str(error), column) from None


class _First(Mapping[str, Example]):
    def __init__(self, table: ExampleTable, count: int):
        self.name, self._table, self._count = table.name, table, min(count, len(table))
        self.fingerprint = table.fingerprint and f"{table.fingerprint} {self._count}"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (str(i) for i in range(self._count))

    def __getitem__(self, key: str) -> Example:
        return self._table[key]

    def where(self, key: str) -> str:
        return self._table.where(key)


def _reach(row: Mapping[str, Any], column: str) -> Any:
    if column in row or "." not in column:
        return row.get(column)
    outer, _, inner = column.partition(".")
    value = row.get(outer)
    return value.get(inner) if isinstance(value, Mapping) else None


def _nested(rows: Rows, column: str) -> list[str]:
    value = rows[0].get(column) if len(rows) else None
    return list(value) if isinstance(value, Mapping) else []


def read_examples(source: str, split: str = "train", *, columns: str = "", image_root: str = "") -> ExampleTable:
    """Open a table of examples.

    Args:
        source: a .jsonl, .csv, .tsv, .parquet or .tar file, a folder with images and metadata.csv (or .jsonl, .parquet), a folder
            written by `datasets.save_to_disk`, or a hub id. A pattern such as `part-*.parquet` names several files. A file, a
            pattern or a folder with a table may be an address that fsspec knows, as s3://bucket/rows.parquet.
        split: of a hub dataset or a saved dictionary of splits.
        columns: other names of the columns, as "question=q,image=picture,answer=label".
        image_root: the folder that images lie in; default is the table's own.

    Raises:
        DataError: it cannot be opened, or lacks a column.
    """
    mapping = parse_columns(columns)
    rows, folder = open_rows(source, split)
    return ExampleTable(source, rows, image_root or folder, mapping)
