"""The main job in miniature: measure the base model, train it to ask only when needed, measure again, write the report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from visionthink.errors import OptionError
from visionthink.evals.mixes import mix_share
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.report.page import report
from visionthink.evals.report.plots import frontier
from visionthink.evals.report.runs import compared, read
from visionthink.evals.runner import evaluate
from visionthink.evals.table import summary_table
from visionthink.model import load
from visionthink.recipes import recipe, suite
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.run import train
from visionthink.types import Example

EXAMPLES = 300
_MARK = ".visionthink-demo"


def demo(out: Path, console: Console) -> dict[str, Any]:
    """Run it and return what was measured: a summary per model and policy, the gap before and after, the seconds of training.

    Three models: `base` before training, `trained` by this very run, and `tuned`, the shipped one, made by the same recipe.

    Raises:
        OptionError: the folder holds something that no demo wrote.
    """
    if out.exists() and any(out.iterdir()) and not (out / _MARK).exists():
        raise OptionError(f"--out {out}: the folder is not empty and holds no earlier demo")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARK).touch()
    examples = suite("mini", EXAMPLES)
    summaries: dict[str, dict[str, Any]] = {}
    console.print(f"[bold]1/4[/] the base model on {EXAMPLES} questions it has never seen")
    _measure("base", "tiny-base", examples, out, summaries)
    console.print("[bold]2/4[/] multi-turn GRPO with TRL: ask for full resolution only when the question needs it")
    chosen = recipe("tiny")
    config = chosen.config.replace(out=out / "training")
    started = time.perf_counter()
    final = train(config, chosen.examples(config))
    seconds = time.perf_counter() - started
    console.print(f"      {config.steps} steps in {seconds:.0f} s")
    console.print("[bold]3/4[/] the trained model, and the shipped one")
    _measure("trained", str(final), examples, out, summaries)
    _measure("tuned", "tiny", examples, out, summaries)
    console.print("[bold]4/4[/] the report")
    shown = [
        out / name for name in summaries if not name.startswith("tuned")
    ]  # where it equals `trained`, it would only cover it
    (out / "frontier.svg").write_text(frontier(report([*shown, config.out], out / "report.html")), "utf-8")
    summaries = {run.folder.name: run.to_dict() for run in compared([read(out / name) for name in summaries])}
    console.print(summary_table(list(summaries.values())))
    gap = {name: _gap(summaries[f"{name}-adaptive"]) for name in ("base", "trained", "tuned")}
    margin = {name: 100 * summaries[f"{name}-adaptive"]["comparison"]["against_mix"]["mean"] for name in gap}
    for name in gap:
        console.print(
            f"{name:8} requests on hard minus requests on easy {gap[name]:+6.1f} points; "
            f"accuracy minus the random mix at equal visual tokens {margin[name]:+6.1f} points"
        )
    console.print(f"open [bold]{escape(str(out / 'report.html'))}[/] to look at the episodes")
    result = {"training_seconds": seconds, "gap_points": gap, "margin_points": margin, "runs": summaries}
    (out / "demo.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def _measure(name: str, model_name: str, examples: Sequence[Example], out: Path, summaries: dict[str, dict[str, Any]]) -> None:
    """All policies of a model; the random mix last, at the number of visual tokens the adaptive policy used."""
    model = load(model_name, max_new_tokens=8, batch_size=64)

    def run(policy: str, label: str) -> dict[str, Any]:
        folder = f"{name}-{label}"
        summaries[folder] = evaluate(
            examples,
            model,
            PolicySpec.parse(policy),
            out / folder,
            suite="mini",
            model_name=name,
            judge=RulesJudge(closed=True),
            batch_size=64,
        )
        return summaries[folder]

    low, full = run("low", "low"), run("full", "full")
    run("oracle", "oracle")
    spent = run("adaptive", "adaptive")["retain_cumulative"]
    share = mix_share(low["retain_cumulative"], full["retain_cumulative"], spent)
    run(f"random:{share:.3f}", "random")


def _gap(summary: dict[str, Any]) -> float:
    need = summary["by_need"]
    return 100 * (need["hard"]["request_ratio"] - need["easy"]["request_ratio"])
