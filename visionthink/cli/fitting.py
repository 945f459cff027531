"""`visionthink fit`."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any

from rich import box
from rich.table import Table

from visionthink import records
from visionthink.addresses import is_endpoint
from visionthink.cli.common import MODELS, AddCommand, given, placement, placement_options, suggest, wide, write_json
from visionthink.cli.settings import add_settings, given_settings, shown
from visionthink.compress.fit_config import FitConfig
from visionthink.errors import OptionError
from visionthink.recipes.fits import FITS, fit_recipe

_DESCRIBED = {
    "model": "Model that the method is trained for: tiny, tiny-base, a checkpoint folder or a hub id (default: the recipe's).",
    "keep": "Share of the visual tokens to keep, above 0 and at most 1 (default: the recipe's).",
}
METHODS = (
    f"for the tiny model: {', '.join(name for name, recipe in FITS.items() if not recipe.stand_in)}. For a real model the same "
    "names, followed by _3b or _7b (Qwen2.5-VL) or _qwen3_8b (Qwen3-VL), as fcot_7b; these need --data"
)


def add(command: AddCommand) -> None:
    text = "Train a compression method, which removes visual tokens of a model. For comparison, a control is trained in the same "
    text += "way: the method without its essential part. visionthink eval SUITE --policy learned:DIR evaluates the "
    text += "method in the output folder. A method that is already in the folder is replaced."
    fit = command("fit", _fit, text, needs="train", as_json=True)
    suggest(fit.add_argument("method", metavar="METHOD", help=METHODS), FITS)
    suggest(fit.add_argument("--model", type=given, help=_DESCRIBED["model"]), MODELS)
    fit.add_argument("--keep", type=float, metavar="SHARE", help=_DESCRIBED["keep"])
    text = "table of examples to train and test on (default for the tiny model: generated questions)"
    fit.add_argument("--data", type=given, help=text)
    fit.add_argument("--limit", type=int, metavar="N", help="use only the first N examples; a fifth of them is for testing")
    text = "take one optimizer step of method and control on two examples, and save nothing"
    add_settings(fit, FitConfig, records.documentation(FitConfig), {})
    fit.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    fit.add_argument("--dry-run", action="store_true", help=text)
    placement_options(fit, attention=False)


def _fit(options: argparse.Namespace) -> None:
    recipe = fit_recipe(options.method)
    changes = {name: getattr(options, name) for name in _DESCRIBED if getattr(options, name) is not None}
    recipe = replace(recipe, config=replace(recipe.config, **given_settings(options, FitConfig)), **placement(options), **changes)
    described = _DESCRIBED | records.documentation(FitConfig)
    values = {name: getattr(recipe, name) for name in _DESCRIBED} | asdict(recipe.config)
    if shown(options, values, described, f"{options.method}: trains the compression method {recipe.family}."):
        return
    if options.limit is not None and options.limit < 10:
        raise OptionError(f"--limit {options.limit}: must be at least 10")
    if is_endpoint(recipe.model):
        raise OptionError(f"--model {recipe.model}: is an endpoint, and fitting needs the weights; name a folder or a hub id")
    if recipe.stand_in and not options.dry_run and not options.data:
        raise OptionError(f"{options.method}: needs --data, a table of examples to learn from")
    import accelerate  # noqa: F401  # transformers asks for it late, and with a traceback

    from visionthink.recipes.fitting import run_fit

    report = run_fit(
        recipe, options.out, data=options.data or "", limit=options.limit, dry_run=options.dry_run, resume=options.resume
    )
    if options.json:
        write_json(report)
    else:
        _print(
            report,
            "nothing was saved" if options.dry_run else f"saved to {options.out}, the control to {options.out / 'control'}",
        )


def _print(report: dict[str, Any], ending: str) -> None:
    from visionthink.recipes.compressors import difference

    caption = (
        f"correct: answers to {report['tested']} test questions, each token predicted after the correct ones before it; "
        "KL: divergence from the model with all visual tokens, per token of the answers"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("")
    for column in ("visual tokens", "correct, %", "KL"):
        table.add_column(column, justify="right")
    names = {"full": "all visual tokens", "untrained": "untrained", "control": "trained control", "trained": "trained"}
    for name, label in names.items():
        found = report[name]
        table.add_row(label, f"{found['tokens']:.1f}", f"{100 * found['accuracy']:.1f}", f"{found['divergence']:.3f}")
    console = wide()
    console.print(table)
    if gain := difference([report]):
        low, middle, high = (f"{100 * x:+.1f}" for x in (gain.low, gain.mean, gain.high))
        interval = f"95 % interval {low} to {high}{'' if gain.sure else ': undecided'}"
        console.print(f"trained - control: {middle} points ({interval})", highlight=False)
    console.print(ending, highlight=False)
