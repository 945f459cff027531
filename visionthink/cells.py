"""What a cell of a table, or a value of a JSON line, says as text.

A cell is None, text, a number, true or false, bytes, a list, or a mapping. What has a type of its own but one usual spelling (a
date, a time, an amount with its decimals) is `TypedText`; what has none (a duration, an infinite number) is `Refused`, which
names its type and is an error only where it is asked for.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink.errors import DataError, one_line
from visionthink.records import KINDS


class Number(float):
    """A number that keeps the digits it was written with: 1.10 stays "1.10"."""

    text: str

    def __new__(cls, text: str) -> Number:
        number = super().__new__(cls, text)
        number.text = text
        return number


class TypedText(str):
    """Text that stands for a value of another type, `kind`: where a sentence or a file name is wanted, it is neither."""

    kind: str

    def __new__(cls, text: str, kind: str) -> TypedText:
        written = super().__new__(cls, text)
        written.kind = kind
        return written


@dataclass(frozen=True)
class Refused:
    """A value that has no one text; `kind` says what it is."""

    kind: str


def kind_of(cell: Any) -> str:
    """What a cell is, in words, for errors."""
    if isinstance(cell, (Refused, TypedText)):
        return cell.kind
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)
    return next((words for kind, words in KINDS.items() if isinstance(cell, kind)), type(cell).__name__)


def is_text(cell: Any) -> bool:
    """Whether a cell was text, and not what is only written as text."""
    return isinstance(cell, str) and not isinstance(cell, TypedText)


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


def read_object(line: bytes) -> dict[str, Any]:
    """The JSON object in a line of UTF-8 text, as cells.

    Raises:
        DataError: there is none; the message says why, not where.
    """
    try:
        record = read_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text") from None
    except (json.JSONDecodeError, RecursionError):
        record = None
    except ValueError as error:
        raise DataError(one_line(error)) from None
    if not isinstance(record, dict):
        raise DataError("not a JSON object")
    return record


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
    """Return the encoding of a text file from its first four bytes: by its byte-order mark, or by its zero bytes."""
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")
    if marked or b"\0" not in head[:4]:
        return marked or "utf-8-sig"
    low = "le" if head[0] else "be"
    return f"utf-32-{low}" if head[:4].count(0) == 3 else f"utf-16-{low}"


def check_utf8(head: bytes, path: Path) -> None:
    """
    Raises:
        DataError: the text file that begins with these four bytes is in UTF-16 or UTF-32.
    """
    if (encoding := encoding_of(head)) != "utf-8-sig":
        raise DataError(f"{path}: is {encoding.upper()[:6]} text; save it as UTF-8")
