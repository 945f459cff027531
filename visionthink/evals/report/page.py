"""Evaluation and training folders to one self-contained HTML page: plots, tables, episodes to look at."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from visionthink import __version__
from visionthink.durable import replace_text
from visionthink.errors import DataError, OptionError
from visionthink.evals.report.gallery import gallery
from visionthink.evals.report.plots import COSTS, frontier, names, seconds, shares, undrawn
from visionthink.evals.report.published import beside_awares, beside_the_paper
from visionthink.evals.report.runs import Run, as_csv, compared, read
from visionthink.evals.report.settings import settings
from visionthink.evals.report.tables import accuracy, tables
from visionthink.evals.report.terms import terms
from visionthink.evals.report.training import training
from visionthink.evals.words import all_problems, in_words, overview


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
    suites = list(dict.fromkeys(run.suite for run in runs))
    html = _render(
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        suites=[_suite(name, _by_model([r for r in runs if r.suite == name])) for name in suites],
        terms=terms(runs),
        paper=beside_the_paper(runs),
        awares=beside_awares(runs),
        trainings=trainings,
        gallery=gallery(runs),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, html)
    if runs:
        replace_text(out.with_suffix(".csv"), as_csv(runs))
    return runs


def _render(**parts: Any) -> str:
    from jinja2 import Environment

    template = (resources.files("visionthink") / "evals" / "report" / "page.html.jinja").read_text("utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template).render(**parts)


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
    """One section: what was found in words, how it was measured, the figures and the tables."""
    plots = [(cost, frontier(runs, cost)) for cost in COSTS]
    records = [run.to_dict() for run in runs]
    paragraphs = in_words(records)
    return {
        "name": name,
        "overview": overview(records),
        "words": paragraphs if len(paragraphs) > 1 else [],
        "problems": all_problems([run.summary for run in runs]),
        "settings": settings(runs),
        "accuracy": accuracy(runs),
        "frontiers": [(drawn, undrawn(runs, cost)) for cost, drawn in plots if drawn],
        "tables": tables(runs),
        "requests_by_family": _by_family(runs, "request_ratio"),
        "accuracy_by_family": _by_family(runs, "accuracy"),
        "seconds": seconds(runs),
    }


def _by_model(runs: Sequence[Run]) -> list[Run]:
    """Runs of the same model one after another: names of folders in alphabetical order mix `tiny` and `tiny-base`."""
    models = list(dict.fromkeys(run.summary["model"] for run in runs))
    return sorted(runs, key=lambda run: models.index(run.summary["model"]))


def _by_family(runs: Sequence[Run], figure: str) -> str:
    """A row for each run, as Figs. 1 and 5 of the paper have bars; and for requests, a row of what is known to be needed."""
    families = sorted({f for run in runs for f in run.summary["by_family"]})
    if not families:
        return ""
    rows: dict[str, list[float | None]] = {}
    for run, name in zip(runs, names(runs), strict=True):
        of = run.summary["by_family"]
        means_something = figure != "request_ratio" or run.policy.decides
        rows[name] = [of[f][figure] if f in of and means_something else None for f in families]
    if figure == "request_ratio":
        needed = [_share_hard(runs[0], f) for f in families]
        rows |= {"needed": needed} if any(share is not None for share in needed) else {}
    return shares(rows, {f: _counts(runs, f) for f in families})


def _counts(runs: Sequence[Run], family: str) -> str:
    """How many examples of a family there are, in the runs that have some."""
    counts = sorted({run.summary["by_family"][family]["n"] for run in runs if family in run.summary["by_family"]})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _share_hard(run: Run, family: str) -> float | None:
    needs = [s.transcript.need for s in run.scored if s.transcript.family == family]
    return needs.count("hard") / len(needs) if needs and None not in needs else None
