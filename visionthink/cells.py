"""What a cell of a table, or a value of a JSON line, says as text.

A cell is None, text, a number, true or false, bytes, a list, or a mapping. What has a type of its own but one usual spelling (a
date, a time, an amount with its decimals) is `Written`; what has none (a duration, an infinite number) is `Refused`, which names
its type and is an error only where it is asked for.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from visionthink.errors import DataError


class Number(float):
    """A number that keeps the digits it was written with: 1.10 stays "1.10"."""

    text: str

    def __new__(cls, text: str) -> Number:
        number = super().__new__(cls, text)
        number.text = text
        return number


class Written(str):
    """Text that stands for a value of another type, `kind`: where a sentence or a file name is wanted, it is neither."""

    kind: str

    def __new__(cls, text: str, kind: str) -> Written:
        written = super().__new__(cls, text)
        written.kind = kind
        return written


@dataclass(frozen=True)
class Refused:
    """A value that has no one text; `kind` says what it is."""

    kind: str


def kind_of(cell: Any) -> str:
    """The type of a cell, for errors."""
    if isinstance(cell, (Refused, Written)):
        return cell.kind
    if isinstance(cell, float):
        return "float" if math.isfinite(cell) else str(cell)
    return type(cell).__name__


def is_text(cell: Any) -> bool:
    """Whether a cell was text, and not what is only written as text."""
    return isinstance(cell, str) and not isinstance(cell, Written)


def is_blank(cell: Any) -> bool:
    """Whether nothing stands in a cell: null, not a number, blank text, no bytes."""
    return (
        cell is None or cell == b"" or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and cell != cell)
    )


def text_of(cell: Any) -> str:
    """What a person would read in a cell. True and false are "true" and "false".

    Raises:
        DataError: it holds what has no one text: bytes, a list, a mapping, an infinite number, nothing.
    """
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, Number):
        return cell.text
    if isinstance(cell, (str, int)) or (isinstance(cell, float) and math.isfinite(cell)):
        return str(cell)
    raise DataError(f"{kind_of(cell)}, not text")


def quoted(names: Iterable[str]) -> str:
    """Names of columns for errors, so that a space in one is seen."""
    return ", ".join(map(repr, names))


def read_json(text: str | bytes) -> Any:
    """JSON to cells: numbers keep their digits, NaN is nothing.

    Raises:
        ValueError: not JSON, or an object says one name twice.
    """
    return json.loads(text, parse_float=Number, parse_constant=_constant, object_pairs_hook=_object)


def _constant(name: str) -> Refused | None:
    return None if name == "NaN" else Refused(name)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"says {next(name for name in names if names.count(name) > 1)!r} twice")
    return record


_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(head: bytes) -> str:
    """Of a text file by its first four bytes: its mark, or the zero bytes of UTF-16 and UTF-32 that have none."""
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")
    if marked or b"\0" not in head[:4]:
        return marked or "utf-8-sig"
    low = "le" if head[0] else "be"
    return f"utf-32-{low}" if head[:4].count(0) == 3 else f"utf-16-{low}"
