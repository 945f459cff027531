"""Options for the settings of a run, from the fields of its record, and their values as a table."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import tempfile
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from visionthink.cli.common import MODELS, folder, suggest, wide, write_json
from visionthink.errors import OptionError
from visionthink.rewards.judge import JUDGES

_NO_OPTION = ("out", "resume")
"""Fields that the commands have options of their own for."""
_SUGGESTED = {"judge": JUDGES, "model": MODELS}
"""Values that a shell offers for settings whose help does not list any."""
SHOWN_AS_JSON = "with --show: print the settings as one JSON object"


def add_settings(parser: argparse.ArgumentParser, record: type, described: Mapping[str, str], choices: Mapping[str, str]) -> None:
    """--out, --show, and one option for each field.

    Args:
        described: what help says of each.
        choices: what help shows in place of a type.
    """
    text = "folder to write to; required without --show and --dry-run"
    parser.add_argument("--out", type=folder, metavar="DIR", help=text)
    text = "print every setting with its value and its meaning, and stop"
    parser.add_argument("--show", action="store_true", help=text)
    group = parser.add_argument_group("settings", "Each replaces a value of the recipe; --show prints the values.")
    hints = typing.get_type_hints(record).items()
    literal = {name: "|".join(typing.get_args(kind)) for name, kind in hints if typing.get_origin(kind) is typing.Literal}
    for name, kind in _kinds(record).items():
        several: dict[str, Any] = {"action": "append", "metavar": "KEY=VALUE"} if kind is _key_and_value else {}
        action = group.add_argument(
            option(name),
            type=kind,
            default=argparse.SUPPRESS,
            help=described[name].replace("%", "%%"),
            **({"metavar": choices.get(name) or literal.get(name) or kind.__name__.upper()} | several),
        )
        listed = re.sub(r"[\[=].*", "", choices.get(name) or literal.get(name) or "").split("|")
        if suggested := _SUGGESTED.get(name) or (listed[1:] and listed):
            suggest(action, suggested)


def given_settings(options: argparse.Namespace, record: type) -> dict[str, Any]:
    """The settings that are on the command line."""
    given = {name: (kind, getattr(options, name)) for name, kind in _kinds(record).items() if hasattr(options, name)}
    return {name: dict(value) if kind is _key_and_value else value for name, (kind, value) in given.items()}


def option(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def shown(
    options: argparse.Namespace, values: Mapping[str, Any], described: Mapping[str, str], about: str, note: str = ""
) -> bool:
    """With --show, print settings; whether that was all there is to do. Sets `options.out` of a dry run that names no folder.

    Args:
        values: of the settings, by name.
        described: what help says of each.
        about: what the recipe is, as a docstring.
        note: a line to print behind the table.

    Raises:
        OptionError: there is no folder to write to, which only --show and a dry run can do without.
    """
    if not options.show:
        if options.out is None and options.dry_run:
            options.out = Path(tempfile.gettempdir()) / f"visionthink-{options.command}"  # a dry run leaves nothing there
        if options.out is None:
            raise OptionError(
                f"{options.command}: name the folder to write to, as --out runs/{options.command}; or use --show or --dry-run"
            )
        return False
    values = {name: value for name, value in values.items() if name not in _NO_OPTION}
    if options.json:
        write_json({"about": inspect.cleandoc(about), "settings": values, "note": note})
        return True
    console = wide()
    console.print(inspect.cleandoc(about), markup=False, highlight=False)
    table = Table("setting", "value", "meaning", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in values.items():
        table.add_row(option(name), escape(_said(value)), escape(" ".join(described[name].split())))
    console.print(table)
    if note:
        console.print(note, markup=False, highlight=False)
    return True


def _said(value: Any) -> str:
    """A value as its option takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return " ".join(f"{key}={item}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"


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
