"""`visionthink completion`."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visionthink.cli.common import AddCommand, folder, path

SHELLS = ("bash", "zsh", "fish")


def add(command: AddCommand) -> None:
    text = "Print a script that completes commands, options and names in a shell. Load it in the shell's start-up file: "
    text += 'eval "$(visionthink completion bash)" in ~/.bashrc, the same with zsh in ~/.zshrc, below compinit, or '
    text += "visionthink completion fish | source in ~/.config/fish/config.fish."
    completion = command("completion", _completion, text)
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def _completion(options: argparse.Namespace) -> None:
    import shtab

    for number, action in enumerate(_actions(options.parser)):
        if action.help and action.help != argparse.SUPPRESS:  # shells show it on one line
            action.help = textwrap.shorten(re.split(r"[;(]|\. ", action.help)[0], 80, placeholder=" ...")
        if suggested := getattr(action, "suggested", ()):
            action.complete = _complete(number, suggested)  # type: ignore[attr-defined]
        elif hasattr(action, "suggested") or action.type in (Path, path, folder):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(options.parser, options.shell) + "\n")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Options and arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)


def _complete(number: int, names: Sequence[str]) -> dict[str, Any]:
    """Names and files, as shtab writes them into a script for each shell."""
    # by _files in its name, shtab's script knows that a folder is completed further
    words, function = " ".join(names), f"_visionthink_names_or_files_{number}"
    bash = f'{function}() {{ compgen -W \'{words}\' -- "$1"; compgen -f -- "$1"; }}'
    return {
        "bash": function,
        "zsh": f" _alternative 'names\\:name\\:({words})' 'files\\:file\\:_files'",
        "fish": f"{words} (__fish_complete_path (commandline -ct))",
        "preamble": {"bash": bash},
    }
