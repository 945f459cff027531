"""Records read back from JSON: every field has the type that its annotation says, or the record is refused by name.

Knows the annotations that records of this package use: dataclasses, named tuples, tuples, sequences, mappings, literals,
enumerations, numbers, text, and each of them or None.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import functools
import inspect
import itertools
import json
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from visionthink.errors import one_line

KINDS: Mapping[Any, str] = {
    type(None): "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    bytes: "bytes",
    list: "a list",
    tuple: "a list",
    dict: "an object",
}
"""Values as messages name them."""


def read(kind: Any, value: Any, where: str = "") -> Any:
    """`value`, as `json.loads` or `dataclasses.asdict` gives it, as an instance of `kind`; `where` is what a message begins with.

    Raises:
        ValueError: it is something else; the message names the field, as `turns[0].usage.seconds: 'x' is not a number`.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        [other] = (part for part in parts if part is not type(None))
        return None if value is None else read(other, value, where)
    if origin is typing.Literal:
        if isinstance(value, str) and value in parts:
            return value
        raise _wrong(value, where, f"one of {', '.join(map(str, parts))}")
    if origin is tuple:
        return _sequence(parts, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise _wrong(value, where, "an object")
        return {name: read(parts[1], part, _inside(where, name)) for name, part in value.items()}
    if origin is not None and issubclass(origin, Sequence):
        return _sequence((*parts, ...), value, where)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if issubclass(kind, tuple):  # a NamedTuple, written as a list
        return kind(*_sequence(tuple(_hints(kind).values()), value, where))
    if issubclass(kind, enum.StrEnum):
        if value in [member.value for member in kind]:
            return kind(value)
        raise _wrong(value, where, f"one of {', '.join(kind)}")
    if type(value) is kind or (kind is float and type(value) is int and abs(value) <= sys.float_info.max):
        return value
    raise _wrong(value, where, KINDS[kind])


def read_arguments(function: Callable[..., Any], names: Collection[str], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Arguments of a function by name, each as `read` returns it for the annotation of its parameter.

    Args:
        names: parameters that may be given.

    Raises:
        ValueError: there is no such parameter, or a value is something else; the message names it.
    """
    hints = typing.get_type_hints(function)
    for name in values:
        if name not in names:
            raise ValueError(f"{_inside(where, name)}: there is no such option; choose from {', '.join(names)}")
    return {name: read(hints[name], value, _inside(where, name)) for name, value in values.items()}


def documentation(kind: type) -> dict[str, str]:
    """Name and description of the fields of a record, read from the strings below them in the class."""
    [body] = (n.body for n in ast.parse(inspect.getsource(kind)).body if isinstance(n, ast.ClassDef))
    described = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            described[ast.unparse(field.target)] = str(ast.literal_eval(text.value))
    return described


def parse(text: str | bytes) -> dict[str, Any]:
    """The object in a JSON text that this package, or another program for programs, has written.

    Raises:
        ValueError: it is none: not UTF-8, not JSON, nested too deeply, or another value.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(value, where, "an object")
    hints = _hints(kind)
    for name in value:
        if name not in hints:
            raise ValueError(f"{_inside(where, str(name))}: there is no such field")
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in value:
            raise ValueError(f"{_inside(where, field.name)}: is missing")
    return kind(**{name: read(hints[name], part, _inside(where, name)) for name, part in value.items()})


def _sequence(parts: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, where, "a list")
    if parts[-1] is Ellipsis:
        if parts[0] is int and all(type(v) is int for v in value):  # ids of tokens: many
            return tuple(value)
        parts = (parts[0],) * len(value)
    if len(parts) != len(value):
        raise _wrong(value, where, f"a list of {len(parts)}")
    return tuple(read(part, v, f"{where}[{i}]") for i, (part, v) in enumerate(zip(parts, value, strict=True)))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(value: Any, where: str, expected: str) -> ValueError:
    shown = reprlib.repr(value) if isinstance(value, (dict, list)) else repr(value)  # may be nested too deeply for repr
    return ValueError(f"{where + ': ' if where else ''}{one_line(shown, 60)} is not {expected}")
