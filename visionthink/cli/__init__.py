"""The command line: thin. Every command prints a table for people or, with `--json`, one object for programs."""

from __future__ import annotations

import argparse
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NoReturn

from visionthink import __version__
from visionthink.cli import completion, data, doctor, evaluation, fitting, gate, inference, serving, sft, training
from visionthink.errors import OptionError, VisionThinkError, choose_from, did_you_mean
from visionthink.recipes.doctor import covers, install, missing
from visionthink.threads import wait_passively

_EXTRAS = {
    library: extra
    for extra, libraries in {
        "local": "torch transformers tokenizers safetensors",
        "train": "trl accelerate peft",
        "deepspeed": "deepspeed",
        "eval": "datasets pyarrow sklearn scipy matplotlib jinja2",
        "judge": "babel dateutil latex2sympy2_extended math_verify pint sympy text_to_num",
        "remote": "aiohttp aiolimiter",
        "serve": "starlette pydantic uvicorn httptools prometheus_client",
        "ray": "ray",
    }.items()
    for library in libraries.split()
}
"""The smallest extra that brings a library along."""


class _Parser(argparse.ArgumentParser):
    """Errors are one line that says what may have been meant, and where to read on."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Misspelled options are named before argparse complains of one that is missing. The options of a command are checked by
        # its own parser, and a word with spaces is text.
        own = takewhile(lambda a: a != "--" and (a.startswith("-") or not self._subparsers), args or ())
        known = self._option_string_actions
        self._refuse([a for a in own if a.startswith("--") and " " not in a and a.partition("=")[0] not in known])
        found, unknown = super().parse_known_args(args, namespace)
        self._refuse(unknown)
        return found, unknown

    def _refuse(self, unknown: Sequence[str]) -> None:
        if unknown:
            near = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
            raise OptionError(f"unrecognized arguments: {' '.join(unknown)}; {near}see {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is unknown; {choose_from(str(value), map(str, action.choices))}")


class _Command(_Parser):
    """Its usage names what is required; the options are listed below it, in groups."""

    def format_help(self) -> str:
        options = argparse.Action([], "options", nargs="*", metavar="OPTION")
        self.usage = None
        formatter = self._get_formatter()
        formatter.add_usage(None, [*(a for a in self._actions if a.required or not a.option_strings), options], [])
        self.usage = formatter.format_help().partition("usage: ")[2].strip().replace("%", "%%")
        return super().format_help()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 on bad input, 130 when interrupted."""
    wait_passively()
    arguments = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows only ASCII still gets its table
    if not debug:
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        logging.getLogger("trl").setLevel(logging.ERROR)  # it prints a page per unscored rollout; we count them
    options = None
    try:
        options = _parser().parse_args(arguments, argparse.Namespace(arguments=arguments))
        options.run(options)
    except VisionThinkError as error:
        return _failed(_with_all_needs(str(error), options), debug)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), debug)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0], "local,train,eval")
        return _failed(_with_all_needs(f"{error.name} is not installed; {install(extra)}", options), debug)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _with_all_needs(message: str, options: argparse.Namespace | None) -> str:
    """A message; if it names an extra to install and the command needs more that is missing, so that the next attempt would fail
    as well, with the extras of the command instead."""
    named = re.search(r"pip install 'visionthink\[(\w+)\]'", message)
    if named is None or options is None:
        return message
    extras = options.needs[options.command]
    return message.replace(named[0], install(extras)) if covers(extras, named[1]) and missing(extras) else message


def _failed(message: str, debug: bool) -> int:
    if debug:
        raise
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="visionthink",
        description="Vision-language models that look at a part of the pixels first, and ask for more when a question needs it.",
        epilog="visionthink COMMAND --help describes a command; visionthink doctor says what is missing for one.",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and the warnings of libraries")
    parser.add_argument("--version", action="version", version=f"visionthink {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)

    extras: dict[str, str] = {}
    in_json: dict[argparse.ArgumentParser, str] = {}

    def command(name: str, run: Any, summary: str, *, needs: str = "", as_json: bool | str = False) -> argparse.ArgumentParser:
        extras[name] = needs
        first = f"{summary.partition('. ')[0].rstrip('.')}."
        sub = commands.add_parser(name, help=first, description=summary, allow_abbrev=False)
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if as_json:
            in_json[sub] = "print the result as one JSON object" if as_json is True else as_json
        return sub

    for group in (inference, serving, evaluation, gate, training, sft, fitting, data, doctor, completion):
        group.add(command)
    for sub, shown in in_json.items():  # after the options of the command
        sub.add_argument("--json", action="store_true", help=shown)
    parser.set_defaults(parser=parser, needs=extras)
    return parser
