"""Evaluation and training folders to one self-contained HTML page: plots, tables, episodes to look at."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from visionthink.durable import replace_text
from visionthink.errors import DataError, OptionError
from visionthink.evals.policy_spec import ADAPTIVE, FULL, LOW
from visionthink.evals.report.gallery import gallery
from visionthink.evals.report.plots import COSTS, bars, frontier, requests_by_family
from visionthink.evals.report.published import beside_awares, beside_the_paper
from visionthink.evals.report.runs import Run, as_csv, compared, missing_lines, read
from visionthink.evals.report.training import training


def report(folders: Sequence[Path], out: Path) -> list[Run]:
    """Write the page, and beside it every figure as CSV; returns the evaluations that were read.

    A folder is an evaluation (summary.json, transcripts.jsonl), a training run (metrics.jsonl), or holds folders of such runs.
    Earlier pages and their figures, as `runs/*` names them too, are left out.

    Raises:
        OptionError: `out` names a folder, or the figures.
        DataError: a folder is none of these, one is a file, or there are none.
    """
    if not folders:
        raise DataError("report: no folders given")
    if out.is_dir():
        raise OptionError(f"--out {out}: is a folder; name the page, as {out / 'report.html'}")
    if out.suffix == ".csv":
        raise OptionError(f"--out {out}: names the page; the figures go to a .csv file beside it")
    runs, trainings = [], []
    found = dict.fromkeys(run for folder in folders for run in _runs(folder))
    if not found:
        raise DataError(f"{folders[0]}: is a report; name the folders of runs")
    for folder in found:
        if (folder / "metrics.jsonl").is_file():
            trainings.append(training(folder))
        else:
            runs.append(read(folder))
    runs = compared(runs)
    from jinja2 import Environment

    template = (resources.files("visionthink") / "evals" / "report" / "page.html.jinja").read_text("utf-8")
    suites = list(dict.fromkeys(run.suite for run in runs))
    html = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            suites=[_suite(name, [r for r in runs if r.suite == name]) for name in suites],
            paper=beside_the_paper(runs),
            awares=beside_awares(runs),
            trainings=trainings,
            gallery=gallery(runs),
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, html)
    if runs:
        replace_text(out.with_suffix(".csv"), as_csv(runs))
    return runs


def _runs(path: Path) -> list[Path]:
    """The folders of runs that a path names: itself, or those directly in it."""
    if path.is_file():
        if _is_report(path):
            return []
        raise DataError(f"{path}: is a file; name the folder of a run")
    if not path.is_dir() or _is_run(path):
        return [path]
    return [inside for inside in sorted(path.iterdir()) if _is_run(inside)] or [path]


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("summary.json", "metrics.jsonl"))


def _is_report(file: Path) -> bool:
    """A page of ours, or the figures beside one."""
    page = file.with_suffix(".html")
    return file.suffix in (".html", ".csv") and page.is_file() and _TITLE in page.read_bytes()[:2000]


_TITLE = b"<title>VisionThink report</title>"


def _suite(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """One section: its frontier against every cost, and its tables."""
    compressed = any(r.summary["retain_layers"] != r.summary["retain_cumulative"] for r in runs)
    return {
        "name": name,
        "judges": sorted({r.summary.get("judge") or "a judge that was not written down" for r in runs}),
        "frontiers": [drawn for cost in COSTS if (drawn := frontier(runs, cost))],
        "rows": [_row(run) for run in runs],
        "compressed": compressed,
        "gates": [(run.name, model, gate) for run in runs for model, gate in run.gates.items()],
        "ungated": [run.name for run in runs if run.policy.is_adaptive and not run.gates],
        "trained": [(run.name, t) for run in runs if (t := run.trained) and (t["low"], t["full"]) != (None, None)],
        "missing": missing_lines(runs),
        "looks": [(run.name, run.summary["looks"]) for run in runs if run.summary["looks"]],
        "controls": [(run.name, run.control) for run in runs if run.control and run.control["n"]],
        "routers": [_router(run) for run in runs if run.comparison and run.comparison["n"] and _asks(run)],
        "branches": [(run.name, run.branches) for run in runs if run.branches],
        "break_even": [(run.name, run.break_even) for run in runs if run.break_even and run.break_even["n"]],
        "costs": [(run.name, run.summary) for run in runs],
        "families": requests_by_family(runs),
        "accuracy": _accuracy_by_family(runs),
        "time": _bars_of_time(runs),
    }


def _asks(run: Run) -> bool:
    return run.policy.decides and run.policy.action != "direct"


def _row(run: Run) -> dict[str, Any]:
    s, found = run.summary, run.comparison if run.comparison and run.comparison["n"] else {}
    need = s["by_need"]
    return {
        "name": run.name,
        "n": s["n"] - s["unscored"],
        "compared": found.get("n"),
        "accuracy": s["accuracy"],
        "mix": found.get("mix"),
        "against_mix": found.get("against_mix"),
        "against_mix_by_family": found.get("against_mix_by_family"),
        "against_mix_best_rates": found.get("against_mix_best_rates"),
        "against_full": found.get("against_full"),
        "oracle": found.get("oracle"),
        "easy": need["easy"]["request_ratio"] if "easy" in need else None,
        "hard": need["hard"]["request_ratio"] if "hard" in need else None,
        "requests": s["request_ratio"],
        "retain_final": s["retain_final"],
        "retain_cumulative": s["retain_cumulative"],
        "retain_layers": s["retain_layers"],
        "output_tokens": s["output_tokens"],
        "unscored": s["unscored"],
        "failed": s.get("failed", 0),
    }


def _router(run: Run) -> dict[str, Any]:
    assert run.comparison is not None
    return {"name": run.name, **run.comparison}


def _accuracy_by_family(runs: Sequence[Run]) -> str:
    """As Fig. 1 of the paper: what each policy gets right, by family."""
    shown = [r for r in runs if r.policy in (LOW, FULL, ADAPTIVE)]
    families = sorted({f for r in shown for f in r.summary["by_family"]})
    if not families or len(shown) < 2:
        return ""
    heights = {r.name: [_percent(r.summary["by_family"].get(f, {}).get("accuracy")) for f in families] for r in shown}
    return bars(families, heights, "accuracy, %")


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _bars_of_time(runs: Sequence[Run]) -> str:
    """As Fig. 4 of the paper: seconds of each policy, by model."""
    models = list(dict.fromkeys(r.summary["model"] for r in runs))
    policies = [p for p in dict.fromkeys(r.policy for r in runs) if p in (FULL, LOW, ADAPTIVE)]
    if len(policies) < 2:
        return ""
    known = {(r.summary["model"], r.policy): r.summary["seconds"] for r in runs}
    return bars(models, {str(p): [known.get((m, p)) for m in models] for p in policies}, "seconds per example")
