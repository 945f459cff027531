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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.evals.metrics import Scored, summarise
from visionthink.evals.report.plots import curves_over_seeds
from visionthink.menu import Menu
from visionthink.model import load
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.policies.render import Renderer
from visionthink.progress import stage
from visionthink.recipes.claims import CLAIMS, VARIANTS, Claim, Outcome, Start
from visionthink.recipes.cold_start import cold_start_tiny, sampled
from visionthink.recipes.tiny import tiny
from visionthink.rewards.judge import judge_transcripts
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.config import TrainConfig
from visionthink.train.demonstrations import Demonstrations, choose, demonstrate
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.run import train
from visionthink.train.sft import fine_tune

MOST_AT_ONCE = 8
"""Runs at a time at most; each takes about 2 GB."""


@dataclass(frozen=True)
class Scale:
    """How much of everything; all variants alike. Fig. 3a and Fig. 8 show 80 steps of a larger model."""

    steps: int = 80
    prompts_per_step: int = 14
    evaluated: int = 600

    def settings(self) -> TrainConfig:
        """The tiny recipe's, but with the paper's constant learning rate and its weak KL, which let a run go where its reward
        pulls it: with the recipe's own, made to end well, no variant gets there."""
        return tiny().config.replace(
            steps=self.steps,
            prompts_per_step=self.prompts_per_step,
            save_steps=self.steps,
            learning_rate=4e-4,
            lr_schedule="constant",
            kl_coef=0.001,
        )


def reproduce(names: Sequence[str], seeds: int, out: Path, console: Console, scale: Scale = Scale()) -> dict[str, Any]:
    """Run what the claims need, judge them, write `reproduction.md`, a figure for each, and `reproduction.json`.

    Raises:
        OptionError: an unknown claim, or fewer than one seed.
    """
    for name in names:
        if name not in CLAIMS:
            raise OptionError(f"--claims {name!r}: choose from {', '.join(CLAIMS)}")
    if seeds < 1:
        raise OptionError(f"--seeds {seeds}: must be at least 1")
    claims = [CLAIMS[name] for name in names]
    variants = list(dict.fromkeys(v for claim in claims for v in claim.variants))
    starts = {VARIANTS[variant].start for variant in variants} - {"base"}
    _at_once(_make_start, [(start, seed, out) for start in sorted(starts) for seed in range(seeds)], out, console)
    runs = [(variant, seed) for variant in variants for seed in range(seeds)]
    found = dict(zip(runs, _at_once(_outcome, [(*run, out, scale) for run in runs], out, console), strict=True))
    outcomes = {variant: [found[variant, seed] for seed in range(seeds)] for variant in variants}
    results = [_result(claim, outcomes) for claim in claims]
    for claim in claims:
        (out / f"{claim.name}.svg").write_text(
            curves_over_seeds({v: [o.requests for o in outcomes[v]] for v in claim.variants}), "utf-8"
        )
    (out / "reproduction.md").write_text(_page(results, seeds, scale), "utf-8")
    record = {"date": date.today().isoformat(), "seeds": seeds, "claims": results}
    (out / "reproduction.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    console.print(_table(results))
    return record


def _at_once(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], out: Path, console: Console) -> list[Any]:
    """Results of `work(*job)` in the order of the jobs; what the processes have to say goes to a log file."""
    if not jobs:
        return []
    out.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(
        max_workers=min(os.cpu_count() or 1, MOST_AT_ONCE, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_process,
        initargs=(out / "log.txt",),
    )
    try:
        with stage("runs", len(jobs)) as advance:
            # processes that begin while interrupts are ignored ignore them for good: an interrupt is for this one to act on
            interrupts = signal.signal(signal.SIGINT, signal.SIG_IGN)
            futures = {pool.submit(work, *job): f"{job[0]}, seed {job[1]}" for job in jobs}
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


def _outcome(name: str, seed: int, out: Path, scale: Scale) -> Outcome:
    """Of one seed of a variant; from its file if it has run before."""
    variant, folder = VARIANTS[name], out / "runs" / f"{name}-{seed}"
    saved = folder / "outcome.json"
    start = _start(variant.start, seed, out)
    config = scale.settings().replace(model=start, out=folder, seed=seed, **variant.changes)
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
    if variant.trained:
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
        steps = {"reluctant": 60, "sft": 60, "sft-long": 240}[start]
        config = cold_start_tiny().config.replace(out=final.parent, steps=steps, seed=seed)
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


# ------------------------------------------------------------------------------------------------ what is shown


def _result(claim: Claim, outcomes: dict[str, list[Outcome]]) -> dict[str, Any]:
    values = {v: [round(claim.shown(o), 3) for o in outcomes[v]] for v in claim.variants}
    return {
        "claim": claim.name,
        "source": claim.source,
        "statement": claim.statement,
        "paper": claim.paper,
        "unit": claim.unit,
        "rule": claim.rule,
        "values": values,
        "verdict": claim.judge(outcomes),
    }


def _row(values: Sequence[float]) -> str:
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}"


def _table(results: Sequence[dict[str, Any]]) -> Table:
    table = Table("claim", "source", "measured", "verdict")
    for r in results:
        measured = "\n".join(f"{variant}: {_row(values)}" for variant, values in r["values"].items())
        table.add_row(r["claim"], r["source"], f"{r['unit']}\n{measured}", r["verdict"])
    return table


def _page(results: Sequence[dict[str, Any]], seeds: int, scale: Scale) -> str:
    """The reproduction as Markdown."""
    config = scale.settings()
    lines = [
        "# The paper's claims about training, in miniature",
        "",
        f"{date.today().isoformat()}, `visionthink reproduce --seeds {seeds}`: the tiny model (2 M parameters), "
        f"{scale.evaluated} unseen generated questions, {config.steps} steps of {config.prompts_per_step} examples x "
        f"{config.group_size} rollouts, constant learning rate {config.learning_rate:g}, KL {config.kl_coef:g}; mean over seeds "
        "(lowest to highest). What is found here holds for this model and these questions; the paper's figures are of "
        "Qwen2.5-VL-7B. Verdicts follow rules that stand in the code (`recipes/claims.py`). Figures show the share of rollouts "
        "that ask, of every step: mean over seeds, smoothed over 5 steps, with the range of the seeds as a band.",
        "",
        "| claim | paper | verdict |",
        "|---|---|---|",
        *(f"| [{r['claim']}](#{r['claim']}) | {r['source']} | **{r['verdict']}** |" for r in results),
    ]
    for r in results:
        lines += ["", f"## {r['claim']}", "", f"{r['source']}: {r['statement']}", "", f"Paper: {r['paper']}.", ""]
        lines += [f"| run | {r['unit']} |", "|---|---|"]
        lines += [f"| {variant} | {_row(values)} |" for variant, values in r["values"].items()]
        lines += ["", f"Verdict: **{r['verdict']}** ({r['rule']}).", "", f"![request ratio over steps]({r['claim']}.svg)"]
    return "\n".join(lines) + "\n"
