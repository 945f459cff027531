"""Rows in a dataset's own schema, read as rows with question, image and answer. One is made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from visionthink.cells import is_blank, text_of
from visionthink.errors import DataError

Row: TypeAlias = Mapping[str, Any]

Ask: TypeAlias = Callable[[Row], Row]
"""A row, its own columns and `question`, `image`, `answer`, to what the model is asked: what differs of these three, the family
as `data_source`, and whatever else the metric needs in the example's metadata (short values)."""


class Table(Protocol):
    """Rows by number."""

    @property
    def column_names(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Row: ...


class AskedRows:
    """A table of a dataset as a table of examples.

    Args:
        columns: the dataset's columns that hold question, image and answer.

    Raises:
        DataError: when read, a row without what the benchmark needs; the message says what, not where.
    """

    def __init__(self, rows: Table, columns: Mapping[str, str], ask: Ask):
        self._rows, self._columns, self._ask = rows, columns, ask
        self.line_of: Callable[[int], int] | None = getattr(rows, "line_of", None)

    @property
    def column_names(self) -> list[str]:
        return ["question", "image", "answer", "data_source"]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self._rows[number]
        row = {**row, **{part: row.get(column) for part, column in self._columns.items()}, "aliases": None, "data_source": None}
        return {**row, **self._ask(row)}


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, "nan", blank text."""
    return is_blank(value) or (isinstance(value, str) and value.strip() == "nan")


def text(row: Row, column: str) -> str:
    """A cell that must hold text or a number.

    Raises:
        DataError: it does not.
    """
    value = row.get(column)
    if missing(value):
        raise DataError(f"no {column}")
    try:
        return text_of(value)
    except DataError as error:
        raise DataError(f"{column} is {error}") from None


def one_of(row: Row, column: str, choices: Sequence[str]) -> str:
    """A cell that must hold one of the choices, in lower or upper case; as it stands among them.

    Raises:
        DataError: it does not.
    """
    value = text(row, column).strip().rstrip(".")
    for choice in choices:
        if choice.lower() == value.lower():
            return choice
    raise DataError(f"{column} {value[:60]!r} is none of {', '.join(choices)}")
