"""Tables of questions about images, read a row at a time: parquet, JSON lines, a `datasets` folder, or a hub id.

The schema of the released VisionThink sets is read as it is: `problem` (with `<image>`), `images` (a list of one),
`original_answer` or `solution`, and `info.use_tool` for the need. Plain names (`question`, `image`, `answer`) are read too; of a
list of answers the first is the reference and the others are as good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionthink.errors import DataError, one_line
from visionthink.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

_COLUMNS: dict[str, Sequence[str]] = {
    "question": ("question", "problem"),
    "image": ("image", "images"),
    "answer": ("answer", "original_answer", "solution"),
}


class ExampleTable(Mapping[str, Example]):
    """Rows of a dataset as examples, by their number. Nothing but the row asked for is in memory; images stay encoded.

    Raises:
        DataError: a column is missing; when read, a row without question, answer or image, named by its number.
    """

    def __init__(self, name: str, rows: Dataset, folder: Path):
        from datasets import Image, List

        self.name, self._folder = name, folder
        self._columns = {}
        for part, names in _COLUMNS.items():
            present = [n for n in names if n in rows.column_names]
            if not present:
                raise DataError(f"{name}: no column {' or '.join(names)}; it has {', '.join(rows.column_names)}")
            self._columns[part] = present
        for column in self._columns["image"]:  # hand over the files' bytes: decoding is ours, and checked
            feature = rows.features[column]
            if isinstance(feature, Image):
                rows = rows.cast_column(column, Image(decode=False))
            elif isinstance(getattr(feature, "feature", None), Image):
                rows = rows.cast_column(column, List(Image(decode=False)))
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return (str(i) for i in range(len(self)))

    def __getitem__(self, key: str) -> Example:
        if not key.isdecimal() or int(key) >= len(self):
            raise KeyError(key)
        row = self._rows[int(key)]
        answer = self._cell(row, "answer", key)
        answer, *aliases = [str(a) for a in answer] if isinstance(answer, list) else [str(answer)]
        use_tool = (row.get("info") or {}).get("use_tool")
        return Example(
            id=key,
            question=str(self._cell(row, "question", key)),
            image=self._image(row, key),
            answer=answer,
            aliases=tuple(aliases),
            need=None if use_tool is None else "hard" if use_tool else "easy",
            family=row.get("data_source"),
            metadata={"doc_id": row.get("doc_id")},
        )

    def _cell(self, row: Mapping[str, Any], part: str, key: str) -> Any:
        for column in self._columns[part]:
            if row[column] not in (None, "", []):
                return row[column]
        raise DataError(f"{self.name}, row {key}: no {part} in column {' or '.join(self._columns[part])}")

    def _image(self, row: Mapping[str, Any], key: str) -> bytes | Path:
        cell = self._cell(row, "image", key)
        if isinstance(cell, list):
            if len(cell) > 1:
                raise DataError(f"{self.name}, row {key}: {len(cell)} images; one is supported")
            cell = cell[0]
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if not isinstance(cell, (bytes, str)) or not cell:
            raise DataError(f"{self.name}, row {key}: the image is {type(cell).__name__}, not a file")
        return self._folder / cell if isinstance(cell, str) else cell  # a path is relative to its table


def _check_lines(path: Path) -> None:
    """What Arrow's reader dies of without a word."""
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty")
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not line.lstrip().startswith(b"{"):
                    raise DataError(f"{path}, line {number}: not a JSON object")


def read_examples(source: str, split: str = "train") -> ExampleTable:
    """Open a table of examples.

    Args:
        source: a .parquet or .jsonl file, a folder written by `datasets.save_to_disk`, or a hub id.
        split: of a hub dataset or a saved dictionary of splits.

    Raises:
        DataError: it cannot be opened, or lacks a column.
    """
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it has to say of a damaged file is in the exception
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    path = Path(source)
    kinds = {".parquet": "parquet", ".jsonl": "json"}
    try:
        if path.suffix in kinds:
            if not path.is_file():
                raise DataError(f"{source}: no such file")
            _check_lines(path)
            rows = datasets.load_dataset(kinds[path.suffix], data_files=source, split="train")
        elif path.is_dir():
            rows = datasets.load_from_disk(source)
            rows = rows[split] if isinstance(rows, datasets.DatasetDict) else rows
        elif path.exists():
            raise DataError(f"{source}: expected a .parquet or .jsonl file")
        else:
            rows = datasets.load_dataset(source, split=split)
    except DataError:
        raise
    except Exception as error:  # readers of damaged files raise nearly anything
        raise DataError(f"{source}: cannot be read ({one_line(error)})") from None
    return ExampleTable(source, rows, path.parent if path.is_file() else path)
