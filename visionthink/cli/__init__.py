"""The command line: thin. Every command prints a table for people or, with `--json`, one object for programs."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from visionthink import __version__
from visionthink.cli import data, evaluation, fitting, gate, inference, serving, sft, training
from visionthink.errors import OptionError, VisionThinkError
from visionthink.threads import wait_passively

_EXTRAS = {
    library: extra
    for extra, libraries in {
        "local": "torch transformers tokenizers safetensors",
        "train": "trl accelerate datasets peft",
        "deepspeed": "deepspeed",
        "eval": "sklearn scipy matplotlib jinja2",
        "judge": "babel dateutil latex2sympy2_extended math_verify pint sympy text_to_num",
        "remote": "aiohttp aiolimiter",
        "serve": "starlette pydantic uvicorn httptools prometheus_client",
        "ray": "ray",
    }.items()
    for library in libraries.split()
}
"""The smallest extra that brings a library along."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


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
    try:
        options = _parser().parse_args(arguments, argparse.Namespace(arguments=arguments))
        options.run(options)
    except VisionThinkError as error:
        return _failed(str(error), debug)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), debug)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0], "local,train,eval")
        return _failed(f"{error.name} is not installed; pip install 'visionthink[{extra}]'", debug)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _failed(message: str, debug: bool) -> int:
    if debug:
        raise
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="visionthink", description="Vision-language models that look closer only when they need to.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and library warnings")
    parser.add_argument("--version", action="version", version=f"visionthink {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, *, as_json: bool | str = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if as_json:
            shown = "print one JSON object" if as_json is True else as_json
            sub.add_argument("--json", action="store_true", help=shown)
        return sub

    for group in (inference, serving, training, sft, fitting, data, evaluation, gate):
        group.add(command)
    return parser
