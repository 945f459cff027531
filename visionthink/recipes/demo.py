"""The main job in miniature: measure the base model, train it to ask only when needed, measure again, write the report. Or, in a
minute and without training, the shipped models side by side."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visionthink.errors import OptionError
from visionthink.evals.mixes import mix_share
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.report.page import report
from visionthink.evals.report.plots import frontier
from visionthink.evals.report.runs import Run, compared, read
from visionthink.evals.runner import evaluate
from visionthink.evals.table import summary_table
from visionthink.evals.words import overview
from visionthink.model import Model, load
from visionthink.recipes import recipe, suite
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.types import Example

EXAMPLES = 300
QUICK_EXAMPLES = 120
_MARK = ".visionthink-demo"


def demo(out: Path, console: Console) -> dict[str, Any]:
    """Run it and return what was measured: a summary per model and policy, the gap before and after, the seconds of training.

    Three models: `tiny-base` before training, `trained` by this very run, and `tiny`, which the package holds and which was
    trained by the same recipe.

    Raises:
        OptionError: the folder holds something that no demo wrote.
    """
    from visionthink.train.run import train

    _begin(out)
    examples = suite("mini", EXAMPLES)
    summaries: dict[str, dict[str, Any]] = {}
    console.print(f"[bold]1/4[/] tiny-base, the model before training, on {EXAMPLES} questions that it has never seen")
    _measure("tiny-base", "tiny-base", examples, out, summaries)
    console.print("[bold]2/4[/] training tiny-base by multi-turn GRPO to ask for the full view only when a question needs it")
    chosen = recipe("tiny")
    config = chosen.config.replace(out=out / "training")
    started = time.perf_counter()
    final = train(config, chosen.examples(config))
    seconds = time.perf_counter() - started
    console.print(f"      {config.steps} steps in {seconds:.0f} s")
    console.print("[bold]3/4[/] the model that was just trained, and tiny, which was trained by the same recipe before")
    _measure("trained", str(final), examples, out, summaries)
    _measure("tiny", "tiny", examples, out, summaries)
    console.print("[bold]4/4[/] the report")
    shown = [
        out / name for name, s in summaries.items() if s["model"] != "tiny"
    ]  # where it equals `trained`, it would only cover it
    (out / "frontier.svg").write_text(frontier(report([*shown, config.out], out / "report.html")), "utf-8")
    summaries = {run.folder.name: run.to_dict() for run in compared([read(out / name) for name in summaries])}
    _print_summaries(summaries, console)
    gap = {name: _gap(summaries[f"{name}-adaptive"]) for name in ("tiny-base", "trained", "tiny")}
    margin = {name: 100 * summaries[f"{name}-adaptive"]["comparison"]["against_mix"]["mean"] for name in gap}
    for name in gap:
        console.print(
            f"{name:9} requests on hard minus requests on easy {gap[name]:+6.1f} points; "
            f"accuracy minus the random mix at equal visual tokens {margin[name]:+6.1f} points"
        )
    console.print(f"open [bold]{escape(str(out / 'report.html'))}[/] to look at the episodes")
    return _written(out, {"training_seconds": seconds, "gap_points": gap, "margin_points": margin, "runs": summaries})


def quick_demo(out: Path, console: Console) -> dict[str, Any]:
    """The shipped models side by side, without training. Returns what was measured: a summary per run, and for the questions that
    are shown what each run saw, answered and spent.

    Raises:
        OptionError: the folder holds something that no demo wrote.
    """
    _begin(out)
    started = time.perf_counter()
    examples = suite("mini", QUICK_EXAMPLES)
    console.print(f"[bold]1/2[/] {QUICK_EXAMPLES} questions to tiny-base, and to tiny, which is tiny-base after training")
    summaries: dict[str, dict[str, Any]] = {}
    for name in ("tiny-base", "tiny"):
        model = load(name, max_new_tokens=8, batch_size=64)
        for policy in ("low", "full", "adaptive"):
            summaries[f"{name}-{policy}"] = _run(name, model, policy, examples, out / f"{name}-{policy}")
    console.print("[bold]2/2[/] the report")
    report([out / name for name in summaries], out / "report.html")
    runs = {run.folder.name: run for run in compared([read(out / name) for name in summaries])}
    questions = [_side_by_side(example, runs) for example in _few(examples)]
    for question in questions:
        console.print(_question_table(question))
    summaries = {name: run.to_dict() for name, run in runs.items()}
    _print_summaries(summaries, console)
    console.print(f"open [bold]{escape(str(out / 'report.html'))}[/] to look at the episodes; visionthink demo trains the model")
    seconds = time.perf_counter() - started
    return _written(out, {"seconds": seconds, "questions": questions, "runs": summaries})


def _print_summaries(summaries: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    """The table, and the summary in words that `visionthink eval` prints as well."""
    found = list(summaries.values())
    console.print(summary_table(found))
    console.print(f"\n{overview(found)}\n", markup=False, highlight=False)


def _begin(out: Path) -> None:
    """Empty the folder, if it is that of an earlier demo."""
    if out.exists() and any(out.iterdir()) and not (out / _MARK).exists():
        raise OptionError(f"--out {out}: the folder is not empty and holds no earlier demo; name another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARK).touch()


def _written(out: Path, result: dict[str, Any]) -> dict[str, Any]:
    (out / "demo.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result


def _few(examples: Sequence[Example]) -> list[Example]:
    """The first two easy and the first two hard questions, each of another family."""
    found: dict[str | None, Example] = {}
    for need in ("easy", "easy", "hard", "hard"):
        example = next(e for e in examples if e.need == need and e.family not in found)
        found[example.family] = example
    return list(found.values())


_SHOWN_RUNS = {
    "tiny-base-adaptive": "tiny-base",
    "tiny-adaptive": "tiny",
    "tiny-low": "tiny, always low",
    "tiny-full": "tiny, always full",
}
"""Runs that are shown side by side, and what they are called there."""


def _side_by_side(example: Example, runs: Mapping[str, Run]) -> dict[str, Any]:
    found = {}
    for run, name in _SHOWN_RUNS.items():
        scored = next(s for s in runs[run].scored if s.transcript.example_id == example.id)
        levels = [f"{100 * level:g} %" for level in scored.transcript.levels_seen]
        found[name] = {
            "sees": ", then ".join(levels),
            "answers": scored.transcript.answer,
            "verdict": scored.verdict.verdict,
            "visual_tokens": scored.transcript.usage()["visual_tokens"],
        }
    return {"question": example.question, "answer": example.answer, "family": example.family, "need": example.need, "runs": found}


def _question_table(question: Mapping[str, Any]) -> Table:
    needs = {"easy": "a quarter of the pixels suffices", "hard": "needs all pixels"}[question["need"]]
    title = f"{question['question']} (right: {question['answer']}; {needs})"
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "pixels seen", "answer", "", "visual tokens"):
        table.add_column(column, justify="right" if column == "visual tokens" else "left")
    for name, run in question["runs"].items():
        table.add_row(name, run["sees"], escape(run["answers"] or "nothing"), run["verdict"], f"{run['visual_tokens']:g}")
    return table


def _measure(name: str, model_name: str, examples: Sequence[Example], out: Path, summaries: dict[str, dict[str, Any]]) -> None:
    """All policies of a model; the random mix last, at the number of visual tokens the adaptive policy used."""
    model = load(model_name, max_new_tokens=8, batch_size=64)

    def run(policy: str, label: str) -> dict[str, Any]:
        folder = f"{name}-{label}"
        summaries[folder] = _run(name, model, policy, examples, out / folder)
        return summaries[folder]

    low, full = run("low", "low"), run("full", "full")
    run("oracle", "oracle")
    spent = run("adaptive", "adaptive")["retain_cumulative"]
    share = mix_share(low["retain_cumulative"], full["retain_cumulative"], spent)
    run(f"random:{share:.3f}", "random")


def _run(name: str, model: Model, policy: str, examples: Sequence[Example], out: Path) -> dict[str, Any]:
    judge = RulesJudge(closed=True)
    spec = PolicySpec.parse(policy)
    return evaluate(examples, model, spec, out, suite="mini", model_name=name, judge=judge, batch_size=64)


def _gap(summary: dict[str, Any]) -> float:
    need = summary["by_need"]
    return 100 * (need["hard"]["request_ratio"] - need["easy"]["request_ratio"])
