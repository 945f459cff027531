"""Rows of a table by their number, whatever holds them. Only the row asked for is read.

JSON lines and CSV are read here, row by row, so that one damaged row costs one row; parquet, saved folders, WebDataset shards
and the hub are read by `datasets`.
"""

from __future__ import annotations

import array
import contextlib
import csv
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from visionthink.errors import DataError, one_line


class Rows(Protocol):
    """A table."""

    @property
    def column_names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        """A row.

        Raises:
            DataError: this row cannot be read; the message says why, not where.
        """
        ...


class JsonLines:
    """A file of JSON objects, one a line. What is kept in memory is where each line begins."""

    def __init__(self, path: Path):
        self._path = path
        self._begins = array.array("Q")
        with path.open("rb") as file:
            begin = 0
            for line in file:
                if line.strip():
                    self._begins.append(begin)
                begin += len(line)
        if not self._begins:
            raise DataError(f"{path}: is empty")

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def column_names(self) -> list[str]:
        """Of the first hundred lines together: a line may lack a value."""
        names: dict[str, None] = {}
        for number in range(min(len(self), 100)):
            with contextlib.suppress(DataError):
                names |= dict.fromkeys(self[number])
        if not names:
            raise DataError(f"{self._path}: none of the first lines is a JSON object")
        return list(names)

    def __getitem__(self, number: int) -> dict[str, Any]:
        with self._path.open("rb") as file:
            file.seek(self._begins[number])
            line = file.readline()
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise DataError("not UTF-8 text") from None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DataError("not a JSON object")
        return row


class Csv:
    """A file of values with a header, separated by commas or tabs; in memory, for it holds no images."""

    def __init__(self, path: Path):
        text = path.read_bytes()
        if not text.strip():
            raise DataError(f"{path}: is empty")
        lines = list(io.StringIO(text.decode("utf-8-sig", "surrogateescape"), newline=""))
        csv.field_size_limit(1 << 24)
        self._header, *self._rows = _records(lines, "\t" if path.suffix == ".tsv" else ",")
        if len(set(self._header)) < len(self._header):
            raise DataError(f"{path}: two columns have the same name: {', '.join(self._header)}")
        self._rows = [row for row in self._rows if row]
        if not self._rows:
            raise DataError(f"{path}: has no rows")

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def column_names(self) -> list[str]:
        return self._header

    def __getitem__(self, number: int) -> dict[str, str]:
        row = self._rows[number]
        if row is _UNCLOSED:
            raise DataError("a quote is not closed")
        if len(row) != len(self._header):
            raise DataError(f"has {len(row)} values for {len(self._header)} columns")
        if any("\udc80" <= c <= "\udcff" for value in row for c in value):
            raise DataError("not UTF-8 text")
        return dict(zip(self._header, row, strict=True))


_UNCLOSED = ['"']


def _records(lines: list[str], delimiter: str) -> list[list[str]]:
    """Values of each row. A quote that is not closed would take the rows behind it along: where a row of several lines does not
    fit the header, its first line counts as damaged and the next line begins a row."""
    records: list[list[str]] = []
    at = 0
    while at < len(lines):
        reader = csv.reader((lines[i] for i in range(at, len(lines))), delimiter=delimiter, strict=True)
        begun = 0
        try:
            for record in reader:
                if records and reader.line_num - begun > 1 and len(record) != len(records[0]):
                    raise csv.Error
                records.append(record)
                begun = reader.line_num
            at = len(lines)
        except csv.Error:
            records.append(_UNCLOSED)
            at += begun + 1
    return records


class ArrowRows:
    """A table that `datasets` reads. Images stay encoded: decoding is ours, and checked."""

    def __init__(self, rows: Any):
        from datasets import Image, List

        for column, feature in rows.features.items():
            if isinstance(feature, Image):
                rows = rows.cast_column(column, Image(decode=False))
            elif isinstance(getattr(feature, "feature", None), Image):
                rows = rows.cast_column(column, List(Image(decode=False)))
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def column_names(self) -> list[str]:
        return list(self._rows.column_names)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        row: Mapping[str, Any] = self._rows[number]
        return row


_TABLES = ("metadata.parquet", "metadata.jsonl", "metadata.csv")
"""Of a folder of images, as `datasets` names them."""


def open_rows(source: str, split: str) -> tuple[Rows, Path]:
    """Rows of a source, and the folder that paths in it are relative to.

    Raises:
        DataError: it cannot be opened.
    """
    path = Path(source)
    if path.is_dir() and (table := next((path / name for name in _TABLES if (path / name).is_file()), None)):
        path, source = table, str(table)
    if path.suffix in (".jsonl", ".csv", ".tsv"):
        if not path.is_file():
            raise DataError(f"{source}: no such file")
        return (JsonLines(path) if path.suffix == ".jsonl" else Csv(path)), path.parent
    return ArrowRows(_arrow(source, path, split)), path.parent if path.is_file() or _is_pattern(path.name) else path


def _is_pattern(source: str) -> bool:
    return any(c in source for c in "*?[")


def _arrow(source: str, path: Path, split: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it has to say of a damaged file is in the exception
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    readers = {".parquet": "parquet", ".tar": "webdataset"}
    try:
        if path.suffix in readers:
            if not path.is_file() and not _is_pattern(source):
                raise DataError(f"{source}: no such file")
            if path.is_file() and path.stat().st_size == 0:
                raise DataError(f"{source}: is empty")
            return datasets.load_dataset(readers[path.suffix], data_files=source, split="train")
        if path.is_dir() and not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            raise DataError(f"{source}: neither a saved data set nor a folder with {', '.join(_TABLES)}")
        if path.is_dir():
            rows = datasets.load_from_disk(source)
            if not isinstance(rows, datasets.DatasetDict):
                return rows
            if split not in rows:
                raise DataError(f"{source}: no split {split}; it has {', '.join(rows)}")
            return rows[split]
        if path.exists():
            raise DataError(f"{source}: expected a .parquet, .jsonl, .csv, .tsv or .tar file")
        return datasets.load_dataset(source, split=split)
    except DataError:
        raise
    except Exception as error:  # readers of damaged files raise nearly anything
        raise DataError(
            f"{source}: cannot be read ({one_line(cause if isinstance(cause := error.__cause__, Exception) else error)})"
        ) from None
