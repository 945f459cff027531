"""`visionthink demo`, `visionthink train`, `visionthink measure` and `visionthink reproduce`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from visionthink.addresses import is_endpoint
from visionthink.cli.common import (
    MODELS,
    AddCommand,
    folder,
    given,
    placement,
    placement_options,
    suggest,
    wide,
    write_json,
)
from visionthink.cli.launching import add_launching, end, launch
from visionthink.cli.settings import SHOWN_AS_JSON, add_settings, given_settings, shown
from visionthink.errors import OptionError
from visionthink.recipes import RECIPES, recipe
from visionthink.recipes.claims import GROUPS
from visionthink.rewards.benefit import BENEFITS
from visionthink.rewards.costs import UNITS
from visionthink.rewards.credit import CREDITS
from visionthink.rewards.penalty import PENALTIES
from visionthink.train.config import TrainConfig
from visionthink.train.crediting import OVER_LIMIT


def add(command: AddCommand) -> None:
    text = (
        "Train the tiny model to ask for the full view only when a question needs it, and write a report (about 5 minutes on 2 "
    )
    text += "cores). With --quick, compare the models of this package before and after such a training instead, in seconds."
    demo = command("demo", _demo, text, needs="train,eval", as_json=True)
    demo.add_argument("--quick", action="store_true", help="compare tiny-base and tiny on a few questions; train nothing")
    text = "folder for the report (default: runs/demo, with --quick runs/demo-quick)"
    demo.add_argument("--out", type=folder, metavar="DIR", help=text)

    text = "Train a model by reinforcement learning (multi-turn GRPO) with the settings of a recipe. The output folder gets "
    text += "checkpoints, metrics.jsonl and the final model."
    train = command("train", _train, text, needs="train", as_json=SHOWN_AS_JSON)
    text = "name of a recipe, as tiny or smart_7b; docs/how-to/training.md lists them"
    suggest(train.add_argument("recipe", metavar="RECIPE", help=text), RECIPES)
    choices = {
        "penalty": "|".join(PENALTIES) + "[:AMOUNT]",
        "credit": "|".join(CREDITS) + "[:SETTING=VALUE,...]",
        "benefit": "|".join(BENEFITS) + "[:AMOUNT]",
        "budget": "|".join(UNITS) + "=SHARE",
        "over_limit": "|".join(OVER_LIMIT),
        "device_table": "FILE",
        "forced_actions": "ACTION,...",
    }
    add_settings(train, TrainConfig, TrainConfig.documentation(), choices)
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    train.add_argument("--dry-run", action="store_true", help="check the settings and take one optimizer step; nothing is saved")
    add_launching(train)

    text = (
        "Measure how long a model takes on this machine. The times are written to a file, with which visionthink train --budget "
    )
    text += "ms=SHARE --device-table FILE trains for a budget in milliseconds."
    timed = command("measure", _measure, text, needs="local", as_json=True)
    text = "tiny, tiny-base, a checkpoint folder or a hub id (default: %(default)s)"
    suggest(timed.add_argument("--model", type=given, default="tiny", help=text), MODELS)
    timed.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write the times to")
    placement_options(timed)

    text = "Test on the tiny model what papers claim about training, and judge for each claim whether it is reproduced. An "
    text += "interrupted run continues in its folder."
    again = command("reproduce", _reproduce, text, needs="train,eval", as_json=True)
    text = f"groups of claims ({', '.join(GROUPS)}) or names of single claims, for example theta, separated by commas "
    again.add_argument("--claims", type=given, default="paper", help=text + "(default: %(default)s)")
    again.add_argument("--seeds", type=int, default=5, help="number of training runs of each variant (default: %(default)s)")
    text = "folder for runs and verdicts (default: %(default)s)"
    again.add_argument("--out", type=folder, default=Path("runs/reproduction"), metavar="DIR", help=text)


def _demo(options: argparse.Namespace) -> None:
    if options.quick:
        options.needs["demo"] = "eval"
    from visionthink.recipes.demo import demo, quick_demo

    run, usual = (quick_demo, "runs/demo-quick") if options.quick else (demo, "runs/demo")
    result = run(options.out or Path(usual), wide(stderr=options.json))
    if options.json:
        write_json(result)


def _train(options: argparse.Namespace) -> None:
    chosen = recipe(options.recipe)
    given = given_settings(options, TrainConfig)
    if "trl" in given:
        given["trl"] = {**chosen.config.trl, **given["trl"]}
    config = chosen.config.replace(**given)
    differences = chosen.differences(config)
    note = f"settings that differ from the paper's, with the paper's in brackets: {differences}" if differences else ""
    if shown(options, dataclasses.asdict(config), TrainConfig.documentation(), RECIPES[options.recipe].__doc__ or "", note):
        return
    if options.json:
        raise OptionError("--json: goes with --show")
    config = config.replace(out=options.out, resume=options.resume)
    launch(options, config.rollouts_per_process)
    from visionthink.evals.cost import flops_of
    from visionthink.policies.checkpoint import check_files, describe
    from visionthink.recipes.published import published_sizes
    from visionthink.train.hardware import intended_hardware
    from visionthink.train.memory import estimate
    from visionthink.train.processes import this_process
    from visionthink.train.progress import say
    from visionthink.train.run import check_run, train

    check_run(config, dry_run=options.dry_run)
    check_files(config.model)
    rehearsed = options.dry_run and chosen.stand_in
    if not rehearsed:
        describe(config.model)
    if note:
        say(note)
    if not config.data:
        say(f"preparing the examples of {options.recipe}")
    if rehearsed:
        if config.data:
            next(iter(chosen.examples(config).values()), None)  # type: ignore[union-attr]
        if sizes := published_sizes(config.model):
            for line in estimate(config, sizes, intended_hardware(chosen.hardware)).lines():
                say(line)
        small = config.rehearsed(config.out, this_process().num_processes)
        checkpoint, examples = rehearsed(small)
        train(config, examples, dry_run=True, checkpoint=checkpoint, flops=flops_of)
    else:
        train(config, chosen.examples(config), dry_run=options.dry_run, flops=flops_of)
    end(options, config.out)


def _measure(options: argparse.Namespace) -> None:
    if is_endpoint(options.model):
        raise OptionError(f"--model {options.model}: is an endpoint, whose device is not ours to time; name a folder or a hub id")
    if options.out.is_dir() or not options.out.absolute().parent.is_dir():
        raise OptionError(f"--out {options.out}: name a file in a folder that exists")
    from visionthink.model import load
    from visionthink.recipes.measure import measure

    table = measure(load(options.model, **placement(options)), options.model)
    table.write(options.out)
    if options.json:
        write_json(dataclasses.asdict(table))
    else:
        wide().print(
            f"{table.k0:.3g} ms per call, {table.k1:.3g} per prefilled token, {table.k2:.3g} per patch, "
            f"{table.k3:.3g} per output token; {100 * table.error:.0f} % off on average over {table.calls} calls; "
            f"saved to {options.out}",
            highlight=False,
        )


def _reproduce(options: argparse.Namespace) -> None:
    from visionthink.recipes.reproduce import reproduce

    names = [name.strip() for name in options.claims.split(",")]
    record = reproduce(names, options.seeds, options.out, wide(stderr=options.json))
    if options.json:
        write_json(record)
