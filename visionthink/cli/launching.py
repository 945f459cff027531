"""Options that run a training command on several processes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visionthink.cli.common import given, suggest
from visionthink.errors import OptionError
from visionthink.train.launch import SHIPPED, Launch, launch_file


def add_launching(parser: argparse.ArgumentParser) -> None:
    """--launch and --processes."""
    text = f"train on several processes: {', '.join(SHIPPED)}, or a file that accelerate config has written"
    suggest(parser.add_argument("--launch", type=_known, metavar="NAME|FILE", help=text), SHIPPED)
    text = "with --launch: number of processes (default: the number of GPUs)"
    parser.add_argument("--processes", type=int, metavar="N", help=text)


def _known(text: str) -> str:
    launch_file(given(text))
    return text


def launch(options: argparse.Namespace, check: Callable[[int], Any]) -> None:
    """With --launch, hand over to `accelerate launch`, which replaces this process; without, return.

    Args:
        check: raises where the run cannot be divided among so many processes.

    Raises:
        OptionError: see `Launch.read`; also, a number of processes below 1, or without --launch.
    """
    if options.processes is not None and not options.launch:
        raise OptionError(f"--processes {options.processes}: is for --launch")
    if not options.launch:
        return
    if options.processes is not None and options.processes < 1:
        raise OptionError(f"--processes {options.processes}: must be at least 1")
    ready = Launch.read(options.launch, options.processes)
    check(ready.processes)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--launch")
    own.add_argument("--processes")
    _, others = own.parse_known_args(options.arguments)
    ready.start(others)


def end(options: argparse.Namespace, out: Path) -> None:
    """Say where the model is, and leave the other processes of the run."""
    from visionthink.train.processes import this_process
    from visionthink.train.progress import say

    say("dry run: one step taken, nothing saved" if options.dry_run else f"saved to {out / 'final'}")
    this_process().destroy_process_group()  # threads of it that still run at the end may abort the process
