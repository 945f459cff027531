"""Options for the settings of a run, from the fields of its record."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

_NO_OPTION = ("out", "resume")
"""Fields that the commands have options of their own for."""


def add_settings(parser: argparse.ArgumentParser, record: type, described: Mapping[str, str], choices: Mapping[str, str]) -> None:
    """One option for each field.

    Args:
        described: what help says of each.
        choices: what help shows in place of a type.
    """
    group = parser.add_argument_group("settings", "override the recipe's")
    hints = typing.get_type_hints(record).items()
    literal = {name: "|".join(typing.get_args(kind)) for name, kind in hints if typing.get_origin(kind) is typing.Literal}
    for name, kind in _kinds(record).items():
        several: dict[str, Any] = {"action": "append", "metavar": "KEY=VALUE"} if kind is _key_and_value else {}
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=argparse.SUPPRESS,
            help=described[name].replace("%", "%%"),
            **({"metavar": choices.get(name) or literal.get(name) or kind.__name__.upper()} | several),
        )


def given_settings(options: argparse.Namespace, record: type) -> dict[str, Any]:
    """The settings that are on the command line."""
    given = {name: (kind, getattr(options, name)) for name, kind in _kinds(record).items() if hasattr(options, name)}
    return {name: dict(value) if kind is _key_and_value else value for name, (kind, value) in given.items()}


def _kinds(record: type) -> dict[str, Callable[[str], Any]]:
    """Name and type of every field that has an option."""
    kinds = typing.get_type_hints(record)
    names = [f.name for f in dataclasses.fields(record) if f.name not in _NO_OPTION]
    readers: dict[Any, Callable[[str], Any]] = {bool: _on_off, int: int, float: float}
    return {
        name: _key_and_value if typing.get_origin(kinds[name]) is Mapping else readers.get(kinds[name], str) for name in names
    }


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: expected KEY=VALUE")
    return key.strip(), value.strip()


def _on_off(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


_on_off.__name__ = "true|false"
