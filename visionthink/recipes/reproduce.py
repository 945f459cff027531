"""Claims about training, in miniature: every run that they need, with several seeds on the embedded models, and their verdicts.

A run lives in its own folder and is not repeated once its outcome is there, so an interrupted reproduction goes on where it was.
Runs are of one thread each, as many at a time as there are cores: a model this small gains little from a second thread.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from visionthink.errors import OptionError
from visionthink.evals.report.plots import curves_over_seeds
from visionthink.policies.checkpoint import resolve
from visionthink.progress import stage
from visionthink.recipes import starts
from visionthink.recipes.claim import Claim
from visionthink.recipes.claim_runs import Run, outcome_of
from visionthink.recipes.claims import VARIANTS, chosen
from visionthink.recipes.reproduction_page import figure_name, page, result, table
from visionthink.recipes.settings import SCALE, Scale, Setting
from visionthink.recipes.starts import Made

MOST_AT_ONCE = 8
"""Runs at a time at most; each takes about 2 GB."""


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
        _at_once(starts.make, {str(made): (made, out) for made in part}, out, console)
    found = dict(zip(runs, _at_once(outcome_of, {str(run): (run, out, scale) for run in runs}, out, console), strict=True))
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
    cores = cores or _processes()
    left = [run for run in runs if not run.saved(out).is_file()]
    tuned = [made for part in first for made in part if not made.path(out).is_dir()]
    seconds = sum(scale.seconds(run.setting, run.how) for run in left) + sum(made.seconds for made in tuned)
    settings = {run.setting.name: run.setting for run in runs}
    done = f", of which {len(runs) - len(left)} are done" if len(left) < len(runs) else ""
    counts = "".join(f"\n{name}: {s.described}; {sum(r.setting == s for r in runs)} runs" for name, s in settings.items())
    before = f", after {len(tuned)} of supervised fine-tuning" if tuned else ""
    return f"{len(runs)} runs{done}{before}: about {seconds / cores / 60:.0f} minutes on {cores} cores{counts}"


def _processes() -> int:
    return min(os.cpu_count() or 1, MOST_AT_ONCE)


def _at_once(work: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], out: Path, console: Console) -> list[Any]:
    """Results of `work(*job)` in the order of the jobs, by name; what the processes have to say goes to a log file."""
    if not jobs:
        return []
    out.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(
        max_workers=min(_processes(), len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(out / "log.txt",),
    )
    try:
        with stage("runs", len(jobs)) as advance:
            # processes that begin while interrupts are ignored ignore them for good: an interrupt is for this one to act on
            interrupts = signal.signal(signal.SIGINT, signal.SIG_IGN)
            futures = {pool.submit(work, *job): name for name, job in jobs.items()}
            signal.signal(signal.SIGINT, interrupts)
            for done, future in enumerate(as_completed(futures), 1):
                future.result()  # a failed run ends the reproduction; those that are done are kept
                advance(1)
                console.print(f"[dim]{done}/{len(jobs)}[/] {futures[future]}")
    except BaseException:  # nobody waits for runs whose results are not wanted any more
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def _begin_process(log: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("trl").setLevel(logging.ERROR)
    sys.stdout = sys.stderr = log.open("a", encoding="utf-8")
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed reproduction must not leave runs behind that write beside the next one's."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
