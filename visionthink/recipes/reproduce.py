"""Claims about training, in miniature: every run that they need, with several seeds on the embedded models, and their verdicts.

A run lives in its own folder and is not repeated once its outcome is there, so an interrupted reproduction goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from visionthink.errors import OptionError
from visionthink.evals.report.plots import curves_over_seeds
from visionthink.policies.checkpoint import resolve
from visionthink.recipes import starts
from visionthink.recipes.claim import Claim
from visionthink.recipes.claim_runs import Run, outcome_of
from visionthink.recipes.claims import VARIANTS, chosen
from visionthink.recipes.processes import at_once, processes
from visionthink.recipes.reproduction_page import figure_name, page, result, table
from visionthink.recipes.settings import SCALE, Scale, Setting
from visionthink.recipes.starts import Made


def reproduce(names: Sequence[str], seeds: int, out: Path, console: Console, scale: Scale = SCALE) -> dict[str, Any]:
    """Run what the claims need, judge them, write `reproduction.md`, a figure for each verdict, and `reproduction.json`.

    Args:
        names: of claims, or of groups of them (`recipes.claims`).

    Raises:
        OptionError: an unknown claim, fewer than one seed, or a base model that is not there.
    """
    claims = chosen(names)
    if seeds < 1:
        raise OptionError(f"--seeds {seeds}: must be at least 1")
    judged = [(claim, setting) for claim in claims for setting in scale.settings if setting.name in claim.settings]

    def needed(claim: Claim, setting: Setting) -> dict[str, list[Run]]:
        """What is trained is trained in the setting; what is not serves all settings."""
        places = {v: setting if VARIANTS[v].how == "train" else scale.untrained for v in claim.variants}
        return {v: [Run(v, place, seed) for seed in range(seeds)] for v, place in places.items()}

    runs = list(dict.fromkeys(run for pair in judged for of_variant in needed(*pair).values() for run in of_variant))
    _check_bases(judged)
    first = starts.in_turn(made for run in runs if (made := run.start))
    console.print(plan(runs, first, out, scale))
    for part in first:
        at_once(starts.make, {str(made): (made, out) for made in part}, out, console)
    found = dict(zip(runs, at_once(outcome_of, {str(run): (run, out, scale) for run in runs}, out, console), strict=True))
    results = []
    for claim, setting in judged:
        outcomes = {variant: [found[run] for run in of_variant] for variant, of_variant in needed(claim, setting).items()}
        results.append(result(claim, setting, outcomes))
        if any(o.requests for of_variant in outcomes.values() for o in of_variant):
            curves = curves_over_seeds({v: [claim.curve(o) for o in outcomes[v]] for v in claim.variants}, claim.curve_label)
            (out / figure_name(claim.name, setting.name)).write_text(curves, "utf-8")
    (out / "reproduction.md").write_text(page(results, names, seeds, scale), "utf-8")
    record = {"date": date.today().isoformat(), "seeds": seeds, "claims": results}
    (out / "reproduction.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    console.print(table(results))
    return record


def _check_bases(judged: Iterable[tuple[Claim, Setting]]) -> None:
    """Before anything is run."""
    for claim, setting in judged:
        if not Path(resolve(setting.base)).is_dir():
            raise OptionError(
                f"--claims {claim.name}: starts from {setting.base}, which is not there: leave this claim out, or make it with "
                f"`python -m visionthink.recipes.{setting.recipe}`"
            )


def plan(runs: Sequence[Run], first: Sequence[Sequence[Made]], out: Path, scale: Scale, cores: int = 0) -> str:
    """What is to be run and about how long that takes; folders whose outcome is there are taken as done.

    Args:
        cores: by default those of this machine.
    """
    cores = cores or processes()
    left = [run for run in runs if not run.saved(out).is_file()]
    tuned = [made for part in first for made in part if not made.path(out).is_dir()]
    seconds = sum(scale.seconds(run.setting, run.how) for run in left) + sum(made.seconds for made in tuned)
    settings = {run.setting.name: run.setting for run in runs}
    done = f", of which {len(runs) - len(left)} are done" if len(left) < len(runs) else ""
    counts = "".join(f"\n{name}: {s.described}; {sum(r.setting == s for r in runs)} runs" for name, s in settings.items())
    before = f", after {len(tuned)} of supervised fine-tuning" if tuned else ""
    return f"{len(runs)} runs{done}{before}: about {seconds / cores / 60:.0f} minutes on {cores} cores{counts}"
