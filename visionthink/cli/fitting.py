"""`visionthink fit`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from visionthink import records
from visionthink.addresses import is_endpoint
from visionthink.cli.common import AddCommand, folder, given, wide, write_json
from visionthink.cli.settings import add_settings, given_settings
from visionthink.compress.fit_config import FitConfig
from visionthink.errors import OptionError
from visionthink.recipes.fits import FITS, fit_recipe


def add(command: AddCommand) -> None:
    fit = command("fit", _fit, "Train a compression method for a model, together with its control.", as_json=True)
    fit.add_argument("method", metavar="METHOD", help=", ".join(FITS))
    fit.add_argument("--out", type=folder, required=True, help="folder of the fitted method, for --policy learned:FOLDER")
    fit.add_argument("--model", type=given, help="tiny, tiny-base, a folder or a hub id; default: the recipe's")
    fit.add_argument("--keep", type=float, metavar="SHARE", help="share of the visual tokens to keep; default: the recipe's")
    fit.add_argument("--data", type=given, help="table of examples to train and test on; default: generated questions")
    fit.add_argument("--limit", type=int, help="use only the first N examples, a fifth of them for testing")
    fit.add_argument("--dry-run", action="store_true", help="take one optimizer step of method and control, and save nothing")
    add_settings(fit, FitConfig, records.documentation(FitConfig), {})


def _fit(options: argparse.Namespace) -> None:
    recipe = fit_recipe(options.method)
    changes = {name: getattr(options, name) for name in ("model", "keep") if getattr(options, name) is not None}
    recipe = replace(recipe, config=replace(recipe.config, **given_settings(options, FitConfig)), **changes)
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
    names = {"full": "all visual tokens", "untrained": "untrained", "control": "control", "trained": "trained"}
    for name, label in names.items():
        found = report[name]
        wide().print(
            f"{label}: {found['tokens']:.1f} visual tokens, {100 * found['accuracy']:.1f} % of {report['tested']} answers right, "
            f"KL divergence from the model with all tokens {found['divergence']:.3f}",
            highlight=False,
        )
    wide().print(ending, highlight=False)
