"""Rows of a table by their number, whatever holds them. Only the row asked for is read.

JSON lines and CSV are read here, row by row, so that one damaged row costs one row; whatever `datasets` reads comes as Arrow.
"""

from __future__ import annotations

import array
import csv
import io
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from visionthink.cells import Refused, check_utf8, encoding_of, quoted, read_object
from visionthink.data.arrow import cell, named_classes
from visionthink.errors import DataError


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


def place(rows: Rows, number: int) -> str:
    """How messages name a row: by the line of its file that it begins in, as editors count them, where `rows` know it; else by
    its number, from 0."""
    line_of: Callable[[int], int] | None = getattr(rows, "line_of", None)
    return f"row {number}" if line_of is None else f"line {line_of(number)}"


class JsonLines:
    """A file of JSON objects, one a line. What is kept in memory is where each line begins."""

    def __init__(self, path: Path):
        self._path, self.fingerprint = path, _file_fingerprint(path)
        self._begins, self._blanks = array.array("Q"), array.array("Q")
        with path.open("rb") as file:
            begin = 0
            check_utf8(file.peek(4)[:4], path)
            for line in file:
                if line.strip():
                    self._begins.append(begin)
                else:  # before the row of this number
                    self._blanks.append(len(self._begins))
                begin += len(line)
        if not self._begins:
            raise DataError(f"{path}: is empty")

    def __len__(self) -> int:
        return len(self._begins)

    @property
    def column_names(self) -> list[str]:
        """The names in the first hundred lines together, since a line may lack a value."""
        names: dict[str, None] = {}
        why = ""
        for number in range(min(len(self), 100)):
            try:
                names |= dict.fromkeys(self[number])
            except DataError as error:
                why = why or f"; the first: {error}"
        if not names:
            raise DataError(f"{self._path}: none of the first lines is a JSON object{why}")
        return list(names)

    def __getitem__(self, number: int) -> dict[str, Any]:
        with self._path.open("rb") as file:
            file.seek(self._begins[number])
            return read_object(file.readline())

    def line_of(self, number: int) -> int:
        return number + 1 + bisect_right(self._blanks, number)


class Csv:
    """A file of values with a header, in memory, for it holds no images. All values are text, as it stands.

    They are separated by whichever of comma, semicolon, tab and bar splits the header into most columns. Where names in the
    header have spaces around them, the file is laid out as a table, and spaces around values are left out too.
    """

    def __init__(self, path: Path):
        self.fingerprint = _file_fingerprint(path)
        content = path.read_bytes()
        encoding = encoding_of(content[:4])
        try:
            text = content.decode(encoding, "surrogateescape" if encoding == "utf-8-sig" else "strict").removeprefix("\ufeff")
        except UnicodeDecodeError:
            raise DataError(f"{path}: is damaged {encoding.upper()[:6]} text") from None
        if not text.strip():
            raise DataError(f"{path}: is empty")
        lines = list(io.StringIO(text, newline=""))
        said = _SEPARATOR.fullmatch(lines[0])
        usual = ("\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|") if said is None else said[1]
        lines = lines[1:] if said else lines
        csv.field_size_limit(1 << 24)
        headers = {separator: _records(lines[:1], separator, False)[0][0] for separator in usual} if lines else {}
        separator = max(headers, key=lambda s: len(headers[s]), default=",")
        padded = any(name != name.strip() for name in headers.get(separator, ()))
        records, begins = _records(lines, separator, padded)
        header, *rows = records or [[]]
        if header is _UNCLOSED:
            raise DataError(f"{path}: the header cannot be read: {_QUOTE}")
        self._header = [name.strip() for name in header]
        if any("\udc80" <= c <= "\udcff" for name in self._header for c in name):
            raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8")
        if twice := [name for name in dict.fromkeys(self._header) if self._header.count(name) > 1]:
            raise DataError(f"{path}: two columns have the same name: {quoted(twice)}")
        self._rows = [[value.strip() for value in row] if padded and row is not _UNCLOSED else row for row in rows if row]
        self._lines = array.array("Q", (begin + 1 + bool(said) for begin, row in zip(begins[1:], rows, strict=True) if row))
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
            raise DataError(_QUOTE)
        if len(row) != len(self._header):
            raise DataError(f"has {len(row)} values for {len(self._header)} columns")
        if any("\udc80" <= c <= "\udcff" for value in row for c in value):
            raise DataError("not UTF-8 text")
        return dict(zip(self._header, row, strict=True))

    def line_of(self, number: int) -> int:
        return self._lines[number]


def _file_fingerprint(path: Path) -> str:
    found = path.stat()
    return f"{path.resolve()} {found.st_size} {found.st_mtime_ns}"


_UNCLOSED = ['"']
_QUOTE = "a quote is not closed, or text stands behind it"
_SEPARATOR = re.compile(r"sep=(.)\s*")
"""The first line that Excel understands."""


def _records(lines: list[str], delimiter: str, padded: bool) -> tuple[list[list[str]], list[int]]:
    """Values of each row, and the index of the line that it begins in. A quote that is not closed would take the rows behind it
    along: where a row of several lines does not fit the header, its first line counts as damaged and the next begins a row."""
    records, begins = list[list[str]](), list[int]()
    at = 0
    while at < len(lines):
        reader = csv.reader((lines[i] for i in range(at, len(lines))), delimiter=delimiter, skipinitialspace=padded, strict=True)
        begun = 0
        try:
            for record in reader:
                if records and reader.line_num - begun > 1 and len(record) != len(records[0]):
                    raise csv.Error
                records.append(record)
                begins.append(at + begun)
                begun = reader.line_num
            at = len(lines)
        except csv.Error:
            records.append(_UNCLOSED)
            begins.append(at + begun)
            at += begun + 1
    return records, begins


class ArrowRows:
    """A table that `datasets` reads, as cells. Images stay encoded: decoding is ours, and checked.

    Args:
        refused: types of columns that `datasets` cannot hold, by name: they are refused in the row that asks for one.
    """

    def __init__(self, rows: Any, refused: Mapping[str, str] | None = None):
        self._rows, self._refused = rows.with_format("arrow"), {n: Refused(kind) for n, kind in (refused or {}).items()}
        self.fingerprint: str = getattr(rows, "_fingerprint", "")
        self._classes = {name: feature for name, feature in rows.features.items() if "ClassLabel" in repr(feature)}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def column_names(self) -> list[str]:
        return [*self._rows.column_names, *self._refused]

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        table = self._rows[number]
        row = {name: cell(column[0]) for name, column in zip(table.column_names, table.columns, strict=True)}
        named = {name: named_classes(row[name], feature) for name, feature in self._classes.items()}
        return {**row, **named, **self._refused}
