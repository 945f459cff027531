"""`visionthink fit`."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any

from visionthink import records
from visionthink.addresses import is_endpoint
from visionthink.cli.common import MODELS, AddCommand, given, placement, placement_options, suggest, wide, write_json
from visionthink.cli.settings import add_settings, given_settings, shown
from visionthink.compress.fit_config import FitConfig
from visionthink.errors import OptionError
from visionthink.recipes.fits import FITS, fit_recipe

_DESCRIBED = {
    "model": "Model that the method is trained for: tiny, tiny-base, a checkpoint folder or a hub id (default: the recipe's).",
    "keep": "Share of the visual tokens that the method keeps, from 0 to 1 (default: the recipe's).",
}


def add(command: AddCommand) -> None:
    text = "Train a method that compresses visual tokens for a model, and a control to compare it with. The output "
    text += "folder holds the method; use it as visionthink eval SUITE --policy learned:DIR."
    fit = command("fit", _fit, text, needs="train", as_json=True)
    suggest(fit.add_argument("method", metavar="METHOD", help=f"name of a method: {', '.join(FITS)}"), FITS)
    suggest(fit.add_argument("--model", type=given, help=_DESCRIBED["model"]), MODELS)
    fit.add_argument("--keep", type=float, metavar="SHARE", help=_DESCRIBED["keep"])
    fit.add_argument("--data", type=given, help="table of examples to learn from (default: generated questions)")
    fit.add_argument(
        "--limit", type=int, metavar="N", help="use only the first N examples; a fifth of them is held out for testing"
    )
    fit.add_argument("--dry-run", action="store_true", help="take one optimizer step of both; nothing is saved")
    placement_options(fit, attention=False)
    add_settings(fit, FitConfig, records.documentation(FitConfig), {})


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
    from visionthink.recipes.fitting import run_fit

    report = run_fit(recipe, options.out, data=options.data or "", limit=options.limit, dry_run=options.dry_run)
    if options.json:
        write_json(report)
    else:
        _print(report, "nothing was saved" if options.dry_run else f"saved to {options.out}")


def _print(report: dict[str, Any], ending: str) -> None:
    names = {"full": "all visual tokens", "untrained": "untrained", "control": "trained control", "trained": "trained"}
    for name, said in names.items():
        found = report[name]
        wide().print(
            f"{said}: {found['tokens']:.1f} visual tokens, {100 * found['accuracy']:.1f} % of {report['tested']} answers right, "
            f"KL to the model with all of them {found['divergence']:.3f}",
            highlight=False,
        )
    wide().print(ending, highlight=False)
