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

from visionthink.data.rows import Rows, open_rows
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
        OptionError: not of this form, or not a part of an example.
    """
    columns = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, column = (p.strip() for p in part.partition("="))
        if name not in _COLUMNS or not equals or not column:
            raise OptionError(f"columns {part!r}: expected question=NAME, image=NAME or answer=NAME")
        columns[name] = column
    return columns


_SHORT = 200
"""Characters of a value that is kept beside an example, and values of a list."""


def _is_short(value: Any) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= _SHORT and all(_is_short(v) and not isinstance(v, list) for v in value)
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and 0 < len(value) <= _SHORT)


class ExampleTable(Mapping[str, Example]):
    """Rows of a table as examples, by their number. Nothing but the row asked for is in memory; images stay encoded.

    Paths of images are relative to `image_root`, and must not lead out of it.

    Raises:
        DataError: a column is missing; when read, a row without question, answer or image, named by its number.
    """

    def __init__(self, name: str, rows: Rows, image_root: Path, columns: Mapping[str, str] | None = None):
        self.name, self._rows, self._root, self._resolved = name, rows, image_root.absolute(), image_root.resolve()
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
                raise DataError(f"{name}: no column {asked}; it has {', '.join(rows.column_names)}")
            self._columns[part] = found
        self._used = {"aliases", "data_source", "earlier", *(name for names in self._columns.values() for name in names)}

    def __len__(self) -> int:
        return len(self._rows)

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
            raise DataError(f"{self.name}, row {key}: {error}") from None
        answers = self._cell(row, "answer", key)
        answers = list(answers) if isinstance(answers, list) else [answers]
        aliases = row.get("aliases")
        if isinstance(aliases, list):
            answers += aliases
        if any(isinstance(a, (dict, list)) or a is None for a in answers):
            raise DataError(f"{self.name}, row {key}: the answer is nested; text or a list of texts is expected")
        question = self._cell(row, "question", key)
        if not isinstance(question, str):
            raise DataError(f"{self.name}, row {key}: the question is {type(question).__name__}, not text")
        family = row.get("data_source")
        texts = [question, *map(str, answers), *([family] if isinstance(family, str) else [])]
        if any("\ud800" <= c <= "\udfff" for text in texts for c in text):
            raise DataError(f"{self.name}, row {key}: holds half of a UTF-16 pair, which is no text")
        return Example(
            id=key,
            question=question,
            image=self._images(row, key),
            answer=str(answers[0]),
            aliases=tuple(map(str, answers[1:])),
            need=_need(row),
            family=None if family is None else str(family),
            earlier=self._earlier(row, key),
            metadata={name: value for name, value in row.items() if name not in self._used and _is_short(value)},
        )

    def _earlier(self, row: Mapping[str, Any], key: str) -> tuple[tuple[Role, str], ...]:
        """The messages before the question, where the row has some."""
        said: list[tuple[Role, str]] = []
        messages = row.get("earlier") or []
        for message in messages if isinstance(messages, list) else [None]:
            role, text = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
            if role not in ("system", "user", "assistant") or not isinstance(text, str):
                raise DataError(f"{self.name}, row {key}: earlier is not a list of messages with role and content")
            said.append((role, text))
        return tuple(said)

    def _cell(self, row: Mapping[str, Any], part: str, key: str) -> Any:
        for column in self._columns[part]:
            value = _reach(row, column)
            if isinstance(value, float) and math.isnan(value):
                continue  # an empty cell of a column of numbers
            if value not in (None, "", [], [""], b"") and not (isinstance(value, str) and not value.strip()):
                return value
        raise DataError(f"{self.name}, row {key}: no {part} in column {' or '.join(self._columns[part])}")

    def _images(self, row: Mapping[str, Any], key: str) -> ImageSource | tuple[ImageSource, ...]:
        """The image of a row, or several."""
        cell = self._cell(row, "image", key)
        images = tuple(self._image(each, key) for each in (cell if isinstance(cell, list) else [cell]))
        return images if len(images) > 1 else images[0]

    def _image(self, cell: Any, key: str) -> bytes | Path:
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if not isinstance(cell, (bytes, str)) or not cell:
            raise DataError(f"{self.name}, row {key}: the image is {type(cell).__name__}, not a file")
        return self._inside(cell, key) if isinstance(cell, str) else cell

    def _inside(self, path: str, key: str) -> Path:
        """A path below the root; links are followed before it is looked at."""
        if "://" in path or path.startswith("data:"):
            raise DataError(f"{self.name}, row {key}: the image is an address; files are read, addresses are not")
        if "\0" in path:
            raise DataError(f"{self.name}, row {key}: the image's path holds a zero byte")
        full = self._root / path
        try:
            inside = full.resolve().is_relative_to(self._resolved)
            full.exists()
        except (OSError, RuntimeError, ValueError):  # a name that is too long, a loop of links
            raise DataError(f"{self.name}, row {key}: the image's path cannot be used: {path[:60]!r}") from None
        if not inside:
            raise DataError(f"{self.name}, row {key}: the image {path} lies outside of {self._root}")
        return full


class _First(Mapping[str, Example]):
    def __init__(self, table: ExampleTable, count: int):
        self.name, self._table, self._count = table.name, table, min(count, len(table))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (str(i) for i in range(self._count))

    def __getitem__(self, key: str) -> Example:
        return self._table[key]


def _reach(row: Mapping[str, Any], column: str) -> Any:
    if column in row or "." not in column:
        return row.get(column)
    outer, _, inner = column.partition(".")
    value = row.get(outer)
    return value.get(inner) if isinstance(value, Mapping) else None


def _nested(rows: Rows, column: str) -> list[str]:
    value = rows[0].get(column) if len(rows) else None
    return list(value) if isinstance(value, Mapping) else []


def _need(row: Mapping[str, Any]) -> Need | None:
    info = row.get("info")
    use_tool = info.get("use_tool") if isinstance(info, Mapping) else None
    return ("hard" if use_tool else "easy") if isinstance(use_tool, bool) else None


def read_examples(source: str, split: str = "train", *, columns: str = "", image_root: str = "") -> ExampleTable:
    """Open a table of examples.

    Args:
        source: a .jsonl, .csv, .tsv, .parquet or .tar file, a folder with images and metadata.csv (or .jsonl, .parquet), a folder
            written by `datasets.save_to_disk`, or a hub id. A pattern such as `part-*.parquet` names several files.
        split: of a hub dataset or a saved dictionary of splits.
        columns: other names of the columns, as "question=q,image=picture,answer=label".
        image_root: the folder that images lie in; default is the table's own.

    Raises:
        DataError: it cannot be opened, or lacks a column.
    """
    mapping = parse_columns(columns)
    rows, folder = open_rows(source, split)
    return ExampleTable(source, rows, Path(image_root) if image_root else folder, mapping)
