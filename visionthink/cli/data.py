"""`visionthink curate`."""

from __future__ import annotations

import argparse
import dataclasses
import typing

from rich.table import Table

from visionthink.cli.common import (
    JUDGE_HELP,
    MODELS,
    AddCommand,
    folder,
    given,
    omit_option,
    placement_options,
    pool,
    pool_options,
    suggest,
    wide,
    write_json,
)
from visionthink.recipes import SUITES

_HELP = {
    "judge": JUDGE_HELP,
    "ladder": "resolutions of the image, as shares of its pixels; the lowest and the highest are compared",
    "rollouts": "number of answers that are sampled from each of the two views",
    "difference": "label an example as needing the full view if at least this many more of its answers are right from that view",
    "wrong": "label an example as not needing the full view if at most this many answers of both views together are wrong",
    "select": "largest number of examples of each label to select; 0: as many as the rarer label has",
    "temperature": "sampling temperature",
    "max_new_tokens": "maximum of tokens in an answer",
    "max_tokens": "leave out examples whose prompt with both views is longer than this many tokens; 0: no limit",
    "definite": "leave out questions that have no single definite answer, as judged by the language model at URL#MODEL",
    "validation": "data set for validation; examples whose image is in it are left out",
    "columns": "names of the table's columns where they differ from question, image and answer, as question=q,image=picture",
    "image_root": "folder that image paths are relative to (default: the table's folder)",
    "seed": "random seed of sampling",
    "limit": "use only the first N rows; 0: all",
}

_ASKING = ("ladder", "rollouts", "temperature", "max_new_tokens", "max_tokens", "seed")
_CHOOSING = ("difference", "wrong", "select", "definite", "validation")
_TABLE = ("columns", "image_root")
_METAVARS = {
    **dict.fromkeys(("rollouts", "difference", "wrong", "select", "max_new_tokens", "max_tokens", "limit", "seed"), "N"),
    **{"ladder": "SHARES", "columns": "NAME=COLUMN,...", "image_root": "DIR", "validation": "DATA", "definite": "URL#MODEL"},
}


def add(command: AddCommand) -> None:
    from visionthink.recipes.curate import CurateConfig

    text = "Find the examples that a model answers only at full resolution, and those that it also answers from the low view "
    text += "(section 3.5 of the paper). An interrupted run continues in its folder."
    curate = command("curate", _curate, text, needs="train", as_json=True)
    text = "table of examples as a file, a folder or a hub id; or mini or another generated suite "
    text += "(docs/how-to/data.md)"
    suggest(curate.add_argument("data", type=given, metavar="DATA", help=text), SUITES)
    text = "tiny-base, a checkpoint folder, a hub id, or an endpoint as http://host/v1#MODEL"
    suggest(curate.add_argument("--model", type=given, required=True, help=text), MODELS)
    text = "folder for sampled answers, tables and the report"
    curate.add_argument("--out", type=folder, required=True, metavar="DIR", help=text)
    running, asking, choosing, table = (
        curate.add_argument_group(title)
        for title in ("how the model runs", "how the model is asked", "which examples are chosen", "how the table is read")
    )
    pool_options(running)
    placement_options(running)
    omit_option(running)
    groups = {name: group for group, names in ((asking, _ASKING), (choosing, _CHOOSING), (table, _TABLE)) for name in names}
    kinds = typing.get_type_hints(CurateConfig)
    for field in dataclasses.fields(CurateConfig):
        if field.name in _HELP:
            described = _HELP[field.name] if "%(default)" in _HELP[field.name] else f"{_HELP[field.name]} (default: %(default)s)"
            if field.default == "":
                described = _HELP[field.name]
            option = f"--{field.name.replace('_', '-')}"
            place = groups.get(field.name, curate)
            metavar = _METAVARS.get(field.name)
            place.add_argument(option, type=kinds[field.name], default=field.default, metavar=metavar, help=described)
    table.add_argument("--strict", action="store_true", help="stop at a row that cannot be used, instead of recording why")


def _curate(options: argparse.Namespace) -> None:
    from visionthink.recipes.curate import CurateConfig, curate

    spread = {"engine": options.engine.model, "pool": pool(options, [options.model])}
    names = [field.name for field in dataclasses.fields(CurateConfig) if field.name not in spread]
    config = CurateConfig(**{name: getattr(options, name) for name in names}, **spread)
    console = wide(stderr=options.json)
    summary = curate(config, console)
    if options.json:
        write_json(summary)
        return
    table = Table("label", "examples")
    for name in ("needs_full", "low_suffices", "drop", "rejected", "selected"):
        table.add_row(name, str(summary[name]))
    console.print(table)
    if summary["unscored_answers"]:
        console.print(
            f"{summary['unscored_answers']} answers could not be judged; their examples count as drop until it is run again"
        )
    console.print(f"curated.parquet, counts.parquet, rejects.jsonl and report.html in {config.out}", markup=False)
