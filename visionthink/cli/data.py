"""`visionthink curate`."""

from __future__ import annotations

import argparse
import dataclasses
import typing

from rich.table import Table

from visionthink.cli.common import (
    JUDGE_HELP,
    AddCommand,
    attention_option,
    folder,
    given,
    omit_option,
    pool,
    pool_options,
    wide,
    write_json,
)

_HELP = {
    "judge": JUDGE_HELP,
    "ladder": "the lowest and the highest of these levels are compared",
    "rollouts": "answers sampled at each of the two resolutions",
    "difference": "needs the full view: so many more right answers there than at the low one",
    "wrong": "the low view suffices: so many wrong answers at most, of both together",
    "select": "examples of each label at most; 0: as many as both labels have",
    "temperature": "of sampling",
    "max_new_tokens": "per answer",
    "max_tokens": "leave out examples whose prompt with both views takes more; 0: no limit",
    "definite": "leave out questions without one definite answer, by the language model at URL#MODEL",
    "validation": "leave out examples whose image is in this data set",
    "columns": "names of the columns, as question=q,image=picture,answer=label",
    "image_root": "folder that the images lie in; default: the table's",
    "seed": "of sampling",
    "limit": "only the first N rows; 0: all",
}


def add(command: AddCommand) -> None:
    from visionthink.recipes.curate import CurateConfig

    text = "Find the examples that need full resolution and those that do not (Sec. 3.5 of the paper). Goes on where it was."
    curate = command("curate", _curate, text, as_json=True)
    curate.add_argument("data", type=given, metavar="DATA", help="a table of examples, a folder, a hub id, or mini")
    curate.add_argument("--model", type=given, required=True, help="tiny-base, a checkpoint folder, a hub id or an endpoint")
    curate.add_argument("--out", type=folder, required=True, help="folder for rollouts, tables and the report")
    attention_option(curate)
    omit_option(curate)
    pool_options(curate)
    curate.add_argument("--strict", action="store_true", help="stop at a row that cannot be used instead of writing it down")
    kinds = typing.get_type_hints(CurateConfig)
    for field in dataclasses.fields(CurateConfig):
        if field.name in _HELP:
            described = _HELP[field.name] if "%(default)" in _HELP[field.name] else f"{_HELP[field.name]} (default: %(default)s)"
            if field.default == "":
                described = _HELP[field.name]
            option = f"--{field.name.replace('_', '-')}"
            curate.add_argument(option, type=kinds[field.name], default=field.default, help=described)


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
