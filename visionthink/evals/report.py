"""Evaluation and training folders to one self-contained HTML page: plots, a table, episodes to look at."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from visionthink.errors import DataError
from visionthink.evals.metrics import Scored, random_mix
from visionthink.evals.runner import read_run, view_file

_COLOURS = ("#2f6fdb", "#d9822b", "#3a9e5c", "#a347ba", "#c23b3b", "#5b6b7a", "#0f9ba8", "#8a6d1b")


@dataclass(frozen=True)
class Run:
    """An evaluation folder that was read."""

    folder: Path
    summary: dict[str, Any]
    scored: list[Scored]

    @property
    def name(self) -> str:
        return f"{self.summary['model']} · {self.summary['policy']}"


def read(folder: Path) -> Run:
    """An evaluation folder; `DataError` where it is none, or damaged."""
    return Run(folder, *read_run(folder))


def report(folders: Sequence[Path], out: Path) -> None:
    """Write the page.

    A folder is an evaluation (summary.json, transcripts.jsonl) or a training run (metrics.jsonl).

    Raises:
        DataError: a folder is neither, or there are none.
    """
    if not folders:
        raise DataError("report: no folders given")
    runs, trainings = [], []
    for folder in folders:
        try:
            if (folder / "metrics.jsonl").is_file():
                trainings.append(_training(folder))
            else:
                run = read(folder)
                _row(run, [run])
                runs.append(run)
        except DataError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{folder}: damaged, or not written by this program ({type(error).__name__}: {error})") from None
    from jinja2 import Environment

    template = (resources.files("visionthink") / "evals" / "report.html.jinja").read_text("utf-8")
    page = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            rows=[_row(run, runs) for run in runs],
            frontier=frontier(runs) if runs else "",
            families=_families(runs) if any(_adaptive(r) for r in runs) else "",
            trainings=trainings,
            gallery=_gallery(runs),
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, "utf-8")


_LEARNT = {
    "reward": "reward",
    "rewards/accuracy/mean": "accuracy",
    "request_ratio/hard": "requests on hard",
    "request_ratio/easy": "requests on easy",
    "request_ratio": "requests",
}
_HEALTH = {
    "accuracy/direct": "accuracy of direct answers",
    "accuracy/request": "accuracy after a request",
    "probe/direct": "made to answer directly",
    "probe/request": "made to ask",
    "probe/swapped_image": "with another image",
    "zero_variance": "groups all alike",
    "entropy": "entropy, nats per token",
    "kl": "KL to the start",
}


def _training(folder: Path) -> dict[str, Any]:
    """What the page shows of a training run."""
    metrics = _lines(folder / "metrics.jsonl", "step", "a logged step")
    if not metrics:
        raise DataError(f"{folder / 'metrics.jsonl'}: no steps were logged")
    warnings = _lines(folder / "warnings.jsonl", "warning", "a warning") if (folder / "warnings.jsonl").is_file() else []
    rates = [m["rollouts_per_second"] for m in metrics if m.get("rollouts_per_second")]
    supervised = all("reward" not in m for m in metrics)
    return {
        "name": folder.name,
        "steps": metrics[-1]["step"],
        "seconds": metrics[-1].get("seconds"),
        "rollouts_per_second": sum(rates) / len(rates) if rates else None,
        "learnt": _curves(metrics, {"loss": "loss"} if supervised else _LEARNT),
        "health": "" if supervised else _curves(metrics, _HEALTH),
        "warnings": warnings,
    }


def _lines(path: Path, key: str, what: str) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or key not in record:
            raise DataError(f"{path}, line {number}: not {what}")
        records.append(record)
    return records


def _adaptive(run: Run) -> bool:
    return run.summary["policy"] == "adaptive"


def ends(model: str, runs: Sequence[Run]) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """(retention, accuracy) of always-low and always-full of a model, if both were run."""
    points = {
        r.summary["policy"]: (r.summary["retain_cumulative"], r.summary["accuracy"])
        for r in runs
        if r.summary["model"] == model and r.summary["accuracy"] is not None
    }
    return (points["low"], points["full"]) if {"low", "full"} <= set(points) else None


def _row(run: Run, runs: Sequence[Run]) -> dict[str, Any]:
    s, line = run.summary, ends(run.summary["model"], runs)
    need = s["by_need"]
    return {
        "name": run.name,
        "n": s["n"],
        "accuracy": s["accuracy"],
        "mix": random_mix(*line, s["retain_cumulative"]) if line else None,
        "easy": need["easy"]["request_ratio"] if "easy" in need else None,
        "hard": need["hard"]["request_ratio"] if "hard" in need else None,
        "retain_final": s["retain_final"],
        "retain_cumulative": s["retain_cumulative"],
        "output_tokens": s["output_tokens"],
        "seconds": s["seconds"],
        "unscored": s["unscored"],
    }


# ------------------------------------------------------------------------------------------------ plots


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _legend_above(axes: Any) -> None:
    """Where no curve can run into it."""
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]


def frontier(runs: Sequence[Run]) -> str:
    """Accuracy against visual tokens, as SVG. A star is where the model decides; a dashed line is what a coin between low and
    full would get."""
    figure, axes = _figure(7.2, 4.2)
    models = list(dict.fromkeys(r.summary["model"] for r in runs))
    for i, model in enumerate(models):
        colour = _COLOURS[i % len(_COLOURS)]
        axes.plot([], [], "o", color=colour, label=model)
        if line := ends(model, runs):
            axes.plot([100 * p[0] for p in line], [100 * p[1] for p in line], "--", color=colour, alpha=0.6)
        for run in (r for r in runs if r.summary["model"] == model and r.summary["accuracy"] is not None):
            point = 100 * run.summary["retain_cumulative"], 100 * run.summary["accuracy"]
            axes.plot(*point, "*" if _adaptive(run) else "o", color=colour, markersize=14 if _adaptive(run) else 6)
            offset = (6, 5 - 10 * (i % 3))
            axes.annotate(run.summary["policy"], point, offset, textcoords="offset points", fontsize=8, color=colour)
    axes.set_xlabel("visual tokens fed, % of the full views (every view counted)")
    axes.set_ylabel("accuracy, %")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.margins(x=0.12, y=0.12)
    return _svg(figure)


def _families(runs: Sequence[Run]) -> str:
    figure, axes = _figure(7.2, 3.4)
    shown = [r for r in runs if _adaptive(r)]
    families = sorted({f for r in shown for f in r.summary["by_family"]})
    width = 0.8 / (len(shown) + 1)
    for i, run in enumerate(shown):
        heights = [100 * run.summary["by_family"].get(f, {"request_ratio": 0})["request_ratio"] for f in families]
        axes.bar([x + i * width for x in range(len(families))], heights, width, label=run.name, color=_COLOURS[i % len(_COLOURS)])
    needed = [_share_hard(shown[0], f) for f in families]
    if all(n is not None for n in needed):
        places = [x + len(shown) * width for x in range(len(families))]
        axes.bar(places, needed, width, label="needed", color="none", edgecolor="#444", hatch="///")
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(families))], families)
    axes.set_ylabel("requests, %")
    axes.legend(fontsize=8, frameon=False)
    return _svg(figure)


def _share_hard(run: Run, family: str) -> float | None:
    needs = [s.transcript.need for s in run.scored if s.transcript.family == family]
    return 100 * needs.count("hard") / len(needs) if needs and None not in needs else None


def _curves(metrics: Sequence[dict[str, Any]], names: Mapping[str, str]) -> str:
    """What was logged under `names`, over the steps: a moving mean over seven, each value faint behind it."""
    figure, axes = _figure(7.2, 3.4)
    for (key, label), colour in zip(names.items(), _COLOURS, strict=False):
        points = [(m["step"], m[key]) for m in metrics if m.get(key) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
            axes.plot(steps, _moving_mean(values, 7), label=label, color=colour, linewidth=1.6)
    axes.set_xlabel("update")
    _legend_above(axes)
    return _svg(figure)


def curves_over_seeds(series: Mapping[str, Sequence[Sequence[float]]], smooth: int = 5) -> str:
    """Request ratio over training steps, as SVG: the mean over seeds with their range, each a moving mean over `smooth` steps."""
    figure, axes = _figure(7.2, 3.4)
    for (name, seeds), colour in zip(series.items(), _COLOURS, strict=False):
        curves = [_moving_mean(seed, smooth) for seed in seeds if seed]
        if not curves:
            continue
        steps = range(1, min(map(len, curves)) + 1)
        at_step = [[curve[i - 1] for curve in curves] for i in steps]
        axes.plot(steps, [sum(v) / len(v) for v in at_step], label=name, color=colour, linewidth=1.6)
        axes.fill_between(steps, [min(v) for v in at_step], [max(v) for v in at_step], color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel("rollouts that ask")
    axes.set_ylim(-0.02, 1.02)
    _legend_above(axes)
    return _svg(figure)


def _moving_mean(values: Sequence[float], n: int) -> list[float]:
    return [sum(part) / len(part) for part in (values[max(0, i - n + 1) : i + 1] for i in range(len(values)))]


# ------------------------------------------------------------------------------------------------ gallery


def _gallery(runs: Sequence[Run], per_run: int = 12) -> list[tuple[str, list[dict[str, Any]]]]:
    """Episodes whose views were kept, a mix of families and outcomes."""
    sections = []
    for run in runs:
        if not _adaptive(run):
            continue
        cards: list[dict[str, Any]] = []
        for s in run.scored:
            if len(cards) < per_run and all(
                view_file(run.folder, s.transcript.example_id, v).is_file() for v in s.transcript.levels
            ):
                cards.append(_card(s, run.folder))
        sections.append((run.name, cards))
    return sections


def _card(scored: Scored, folder: Path) -> dict[str, Any]:
    t = scored.transcript
    pictures = {level: base64.b64encode(view_file(folder, t.example_id, level).read_bytes()).decode() for level in t.levels}
    return {
        "question": t.question,
        "family": t.family,
        "need": t.need,
        "views": [(level, level in t.levels_seen, png) for level, png in pictures.items()],
        "turns": [turn.text for turn in t.turns],
        "answer": t.answer,
        "reference": t.reference,
        "verdict": scored.verdict.verdict,
        "stop_reason": t.stop_reason.value,
        "tokens": f"{t.visual_tokens} visual tokens, {t.visual_tokens_full} for the full view alone",
    }
