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
    literal = {name: "|".join(typing.get_args(kind)) for name, kind in typing.get_type_hints(record).items()}
    for name, kind in _kinds(record).items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=argparse.SUPPRESS,
            metavar=choices.get(name) or literal[name] or kind.__name__.upper(),
            help=described[name].replace("%", "%%"),
        )


def given_settings(options: argparse.Namespace, record: type) -> dict[str, Any]:
    """The settings that are on the command line."""
    return {name: getattr(options, name) for name in _kinds(record) if hasattr(options, name)}


def _kinds(record: type) -> dict[str, Callable[[str], Any]]:
    """Name and type of every field that has an option."""
    kinds = typing.get_type_hints(record)
    names = [f.name for f in dataclasses.fields(record) if f.name not in _NO_OPTION]
    return {name: _on_off if kinds[name] is bool else kinds[name] if kinds[name] in (int, float) else str for name in names}


def _on_off(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


_on_off.__name__ = "true|false"
