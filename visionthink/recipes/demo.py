"""The main job in miniature: measure the base model, train it to ask only when needed, measure again, write the report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from visionthink.evals.metrics import random_mix
from visionthink.evals.report import report
from visionthink.evals.runner import evaluate
from visionthink.model import load
from visionthink.recipes import recipe, suite
from visionthink.train.run import train

POLICIES = ("low", "full", "oracle", "adaptive")
EXAMPLES = 300


def demo(out: Path, console: Console) -> dict[str, Any]:
    """Run it and return what was measured: one summary per model and policy, and the seconds training took.

    Three models: `base` before training, `trained` by this very run, and `tuned`, the shipped one that was trained for longer.
    """
    shutil.rmtree(out, ignore_errors=True)
    summaries: dict[str, dict[str, Any]] = {}
    console.print(f"[bold]1/4[/] the base model on {EXAMPLES} questions it has never seen")
    _measure("base", "tiny-base", out, summaries)
    console.print("[bold]2/4[/] multi-turn GRPO with TRL: ask for full resolution only when the question needs it")
    chosen = recipe("tiny")
    started = time.perf_counter()
    final = train(chosen.config.replace(out=out / "training"), chosen.examples)
    seconds = time.perf_counter() - started
    console.print(f"      {chosen.config.steps} steps in {seconds:.0f} s")
    console.print("[bold]3/4[/] the trained model, and the shipped one")
    _measure("trained", str(final), out, summaries)
    _measure("tuned", "tiny", out, summaries)
    console.print("[bold]4/4[/] the report")
    report([*(out / name for name in summaries), out / "training"], out / "report.html")
    console.print(summary_table(list(summaries.values())))
    before, after = summaries["base-adaptive"], summaries["trained-adaptive"]
    console.print(
        f"requests on hard minus requests on easy: {_gap(before):+.1f} points before, {_gap(after):+.1f} after training"
    )
    console.print(f"open [bold]{out / 'report.html'}[/] to look at the episodes")
    return {"training_seconds": seconds, "runs": summaries}


def _measure(name: str, model_name: str, out: Path, summaries: dict[str, dict[str, Any]]) -> None:
    model = load(model_name, max_new_tokens=8, batch_size=64)
    for policy in POLICIES:
        run = f"{name}-{policy}"
        summaries[run] = evaluate(suite("mini", EXAMPLES), model, policy, out / run, suite="mini", model_name=name)


def _gap(summary: dict[str, Any]) -> float:
    need = summary["by_need"]
    return 100 * (need["hard"]["request_ratio"] - need["easy"]["request_ratio"])


def summary_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """Results side by side; the random mix is the expected accuracy of a coin at the same number of visual tokens."""
    table = Table(title="in miniature: a 2 M-parameter model on generated questions")
    for column in (
        "model",
        "policy",
        "accuracy",
        "random mix",
        "asks, easy",
        "asks, hard",
        "last view",
        "every view",
        "output tokens",
    ):
        table.add_column(column, justify="left" if column in ("model", "policy") else "right")
    points = {(s["model"], s["policy"]): (s["retain_cumulative"], s["accuracy"]) for s in summaries}
    for s in summaries:
        low, full = points.get((s["model"], "low")), points.get((s["model"], "full"))
        mix = random_mix(low, full, s["retain_cumulative"]) if low and full else None
        need = s["by_need"]
        table.add_row(
            s["model"],
            s["policy"],
            _percent(s["accuracy"]),
            _percent(mix),
            *(_percent(need[n]["request_ratio"] if n in need else None) for n in ("easy", "hard")),
            _percent(s["retain_final"]),
            _percent(s["retain_cumulative"]),
            f"{s['output_tokens']:.1f}",
        )
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
