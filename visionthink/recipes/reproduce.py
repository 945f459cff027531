"""The paper in miniature: every claim about training, run with several seeds on the tiny model and judged.

A run lives in its own folder and is not repeated once its outcome is there, so an interrupted reproduction goes on where it was.
Runs are of one thread each, as many at a time as there are cores: a model this small gains little from a second thread.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.evals.metrics import Scored
from visionthink.evals.report.plots import curves_over_seeds
from visionthink.evals.summary import summarise
from visionthink.menu import Menu
from visionthink.model import load
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.policies.render import Renderer
from visionthink.progress import stage
from visionthink.recipes.claims import CLAIMS, VARIANTS, Claim, Outcome, Start
from visionthink.recipes.cold_start import cold_start_tiny, sampled
from visionthink.recipes.reproduction_page import figure_name, page, result, table
from visionthink.recipes.settings import SCALE, Scale, Setting
from visionthink.recipes.tiny import tiny
from visionthink.rewards.judge import judge_transcripts
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.demonstrations import Demonstrations, choose, demonstrate
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.run import train
from visionthink.train.sft import fine_tune

MOST_AT_ONCE = 8
"""Runs at a time at most; each takes about 2 GB."""

DEMONSTRATING, PER_UPDATE = 9.0, 0.2
"""Seconds of making demonstrations and of an update of fine-tuning."""
START_STEPS: dict[Start, int] = {"reluctant": 60, "sft": 60, "sft-long": 240}


@dataclass(frozen=True)
class Run:
    """One seed of a variant in a setting; a variant that is not trained has none."""

    variant: str
    setting: Setting | None
    seed: int

    def __str__(self) -> str:
        return f"{self.variant}, {self.setting.name if self.setting else 'not trained'}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        return out / "runs" / (self.setting.name if self.setting else "untrained") / f"{self.variant}-{self.seed}"


def reproduce(names: Sequence[str], seeds: int, out: Path, console: Console, scale: Scale = SCALE) -> dict[str, Any]:
    """Run what the claims need, judge them, write `reproduction.md`, a figure for each verdict, and `reproduction.json`.

    Raises:
        OptionError: an unknown claim, or fewer than one seed.
    """
    for name in names:
        if name not in CLAIMS:
            raise OptionError(f"--claims {name!r}: choose from {', '.join(CLAIMS)}")
    if seeds < 1:
        raise OptionError(f"--seeds {seeds}: must be at least 1")
    judged = [(CLAIMS[name], setting) for name in names for setting in scale.settings if setting.name in CLAIMS[name].settings]

    def needed(claim: Claim, setting: Setting) -> dict[str, list[Run]]:
        """What is trained in the setting, and what need not be."""
        return {v: [Run(v, setting if VARIANTS[v].trained else None, seed) for seed in range(seeds)] for v in claim.variants}

    runs = list(dict.fromkeys(run for pair in judged for of_variant in needed(*pair).values() for run in of_variant))
    starts = sorted({(VARIANTS[run.variant].start, run.seed) for run in runs} - {("base", seed) for seed in range(seeds)})
    console.print(_plan(runs, starts, out, scale))
    _at_once(_make_start, {f"{start}, seed {seed}": (start, seed, out) for start, seed in starts}, out, console)
    found = dict(zip(runs, _at_once(_outcome, {str(run): (run, out, scale) for run in runs}, out, console), strict=True))
    results = []
    for claim, setting in judged:
        outcomes = {variant: [found[run] for run in of_variant] for variant, of_variant in needed(claim, setting).items()}
        results.append(result(claim, setting, outcomes))
        curves = curves_over_seeds({v: [o.requests for o in outcomes[v]] for v in claim.variants})
        (out / figure_name(claim.name, setting.name)).write_text(curves, "utf-8")
    (out / "reproduction.md").write_text(page(results, seeds, scale), "utf-8")
    record = {"date": date.today().isoformat(), "seeds": seeds, "claims": results}
    (out / "reproduction.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    console.print(table(results))
    return record


def _plan(runs: Sequence[Run], starts: Sequence[tuple[Start, int]], out: Path, scale: Scale) -> str:
    """What is to be run and about how long that takes here; folders whose outcome is there are taken as done."""
    cores = _processes()
    left = [run for run in runs if not (run.folder(out) / "outcome.json").is_file()]
    tuned = [start for start, seed in starts if not Path(_start(start, seed, out)).is_dir()]
    minutes = scale.minutes([run.setting.steps if run.setting else 0 for run in left], cores)
    minutes += sum(DEMONSTRATING + PER_UPDATE * START_STEPS[start] for start in tuned) / cores / 60
    settings = {s.name: s for run in runs if (s := run.setting)}
    done = f", of which {len(runs) - len(left)} are done" if len(left) < len(runs) else ""
    trained = "".join(f"\n{name}: {s.described}; {sum(r.setting == s for r in runs)} runs" for name, s in settings.items())
    before = f", after {len(tuned)} of supervised fine-tuning" if tuned else ""
    return f"{len(runs)} runs{done}{before}: about {minutes:.0f} minutes on {cores} cores{trained}"


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


# ------------------------------------------------------------------------------------------------ one run


def _outcome(run: Run, out: Path, scale: Scale) -> Outcome:
    """What a run comes to; from its file if it has run before."""
    variant, folder = VARIANTS[run.variant], run.folder(out)
    saved = folder / "outcome.json"
    start = _start(variant.start, run.seed, out)
    config = scale.config(run.setting) if run.setting else tiny().config
    config = config.replace(model=start, out=folder, seed=run.seed, **variant.changes)
    made_with = json.loads(json.dumps({**dataclasses.asdict(config), "out": "", "evaluated": scale.evaluated, "base": _base()}))
    if saved.is_file():
        try:
            record = json.loads(saved.read_text("utf-8"))
            if record["made_with"] == made_with:
                return Outcome(**record["outcome"])
        except (ValueError, TypeError, KeyError):
            pass
        shutil.rmtree(folder)  # damaged, of other settings, or from another base model
    requests: tuple[float, ...] = ()
    model = start
    if run.setting:
        config = config.replace(resume=(folder / "config.json").exists())
        model = str(train(config, tiny().examples(config)))
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        requests = tuple(m["request_ratio"] for m in metrics)
    outcome = _evaluate(model, config.rollout_menu(), requests, scale.evaluated)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"outcome": dataclasses.asdict(outcome), "made_with": made_with}
    saved.with_suffix(".partial").write_text(json.dumps(record) + "\n", "utf-8")
    saved.with_suffix(".partial").replace(saved)
    return outcome


@functools.cache
def _base() -> str:
    """Which base model, as a digest of its weights."""
    return hashlib.sha256((Path(resolve("tiny-base")) / "model.safetensors").read_bytes()).hexdigest()[:16]


def _evaluate(model: str, menu: Menu, requests: tuple[float, ...], n: int) -> Outcome:
    transcripts = load(model, menu=menu, max_new_tokens=8, batch_size=64).run(synth.suite(n, split="validation"))
    verdicts = judge_transcripts(RulesJudge(closed=True), transcripts)
    scored = [Scored(*both) for both in zip(transcripts, verdicts, strict=True)]
    summary = summarise(scored, suite="mini", model=model, policy="adaptive")
    return Outcome(
        requests=requests,
        asks=summary["request_ratio"],
        asks_easy=summary["by_need"]["easy"]["request_ratio"],
        asks_hard=summary["by_need"]["hard"]["request_ratio"],
        asks_by_family={name: family["request_ratio"] for name, family in summary["by_family"].items()},
        accuracy=summary["accuracy"],
    )


def _start(start: Start, seed: int, out: Path) -> str:
    """The checkpoint a run begins with."""
    return "tiny-base" if start == "base" else str(out / "starts" / f"{start}-{seed}-{_base()}" / "final")


def _make_start(start: Start, seed: int, out: Path) -> None:
    """Fine-tune the base model, where that was not done yet."""
    final = Path(_start(start, seed, out))
    if not final.is_dir():
        config = cold_start_tiny().config.replace(out=final.parent, steps=START_STEPS[start], seed=seed)
        fine_tune(config, _demonstrations(seed, direct_only=start == "reluctant"))


def _demonstrations(seed: int, *, direct_only: bool) -> Demonstrations:
    """From the base model's own good transcripts: as many requests as direct answers, or direct ones only."""
    material, checkpoint = sampled("tiny-base", seed), open_checkpoint("tiny-base")
    source = EpisodeSource(examples=material.examples, menu=Menu(), protocol=checkpoint.protocol, budget=checkpoint.budget)
    transcripts, verdicts = material.judged()
    chosen = choose(transcripts, verdicts, checkpoint.protocol, seed=seed)
    if direct_only:
        chosen = [t for t in chosen if not t.requested]
    return demonstrate(chosen, source, Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary))
