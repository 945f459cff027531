"""`visionthink demo`, `visionthink train` and `visionthink reproduce`."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from visionthink.cli.common import AddCommand, folder, given, wide, write_json
from visionthink.recipes import RECIPES, recipe
from visionthink.recipes.claims import CLAIMS
from visionthink.rewards.penalty import PENALTIES
from visionthink.train.config import TrainConfig


def add(command: AddCommand) -> None:
    demo = command("demo", _demo, "Train the tiny model to look closer only when needed, and report on it.", as_json=True)
    demo.add_argument("--out", type=folder, default=Path("runs/demo"), help="output folder (default: %(default)s)")

    train = command("train", _train, "Run a training recipe.")
    train.add_argument("recipe", metavar="RECIPE", help=", ".join(RECIPES))
    train.add_argument("--out", type=folder, required=True, help="folder for checkpoints, metrics.jsonl and the final model")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    train.add_argument("--dry-run", action="store_true", help="check the settings, take one optimiser step, save nothing")
    settings = train.add_argument_group("settings", "override the recipe's")
    described = TrainConfig.documentation()
    choices = {name: typing.get_args(kind) for name, kind in typing.get_type_hints(TrainConfig).items() if typing.get_args(kind)}
    choices["penalty"] = ("|".join(PENALTIES) + "[:AMOUNT]",)
    for name, kind in _train_settings().items():
        settings.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=argparse.SUPPRESS,
            metavar="|".join(choices.get(name, (kind.__name__.upper(),))),
            help=described[name].replace("%", "%%"),
        )

    again = command("reproduce", _reproduce, "Run the paper's claims about training in miniature and judge them.", as_json=True)
    again.add_argument("--claims", type=given, help=f"some of {', '.join(CLAIMS)}, separated by commas (default: all)")
    again.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: %(default)s)")
    again.add_argument("--out", type=folder, default=Path("runs/reproduction"), help="folder; an interrupted run goes on there")


def _demo(options: argparse.Namespace) -> None:
    from visionthink.recipes.demo import demo

    result = demo(options.out, wide(stderr=options.json))
    if options.json:
        write_json(result)


def _train_settings() -> dict[str, Callable[[str], Any]]:
    """Name and type of every setting of a run that has an option."""
    kinds = typing.get_type_hints(TrainConfig)
    names = [f.name for f in dataclasses.fields(TrainConfig) if f.name not in ("out", "resume")]
    return {name: _on_off if kinds[name] is bool else kinds[name] if kinds[name] in (int, float) else str for name in names}


def _on_off(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


_on_off.__name__ = "true|false"


def _train(options: argparse.Namespace) -> None:
    chosen = recipe(options.recipe)
    given = {name: getattr(options, name) for name in _train_settings() if hasattr(options, name)}
    config = chosen.config.replace(**given, out=options.out, resume=options.resume)
    from visionthink.policies.checkpoint import check_files, describe
    from visionthink.train.processes import this_process
    from visionthink.train.progress import say
    from visionthink.train.run import check_run, train

    check_run(config, dry_run=options.dry_run)
    check_files(config.model)
    rehearsed = options.dry_run and chosen.stand_in
    if not rehearsed:
        describe(config.model)
    if not config.data:
        say(f"preparing the examples of {options.recipe}")
    if rehearsed:
        if config.data:
            next(iter(chosen.examples(config).values()), None)  # type: ignore[union-attr]
        small = config.rehearsed(config.out, this_process().num_processes)
        checkpoint, examples = rehearsed(small)
        train(config, examples, dry_run=True, checkpoint=checkpoint)
    else:
        train(config, chosen.examples(config), dry_run=options.dry_run)
    this_process().destroy_process_group()  # threads of it that still run at the end may abort the process
    where = "dry run: one step taken, nothing saved" if options.dry_run else f"saved to {config.out / 'final'}"
    Console(stderr=True, soft_wrap=True).print(where, markup=False)


def _reproduce(options: argparse.Namespace) -> None:
    from visionthink.recipes.reproduce import reproduce

    names = [name.strip() for name in options.claims.split(",")] if options.claims else list(CLAIMS)
    record = reproduce(names, options.seeds, options.out, wide(stderr=options.json))
    if options.json:
        write_json(record)
