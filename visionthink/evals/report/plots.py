"""Figures as SVG: the frontier, requests by family, curves of a training run, bars beside the paper's."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from visionthink.evals.policy_spec import FULL, LOW
from visionthink.evals.report.runs import Run

COLOURS = ("#2f6fdb", "#d9822b", "#3a9e5c", "#a347ba", "#c23b3b", "#5b6b7a", "#0f9ba8", "#8a6d1b")

COSTS = {
    "retain_layers": ("visual tokens, % of the full views (every view, mean over the layers)", 100.0),
    "flops": ("operations per example, every round read again, GFLOP", 1e-9),
    "seconds": ("seconds per example", 1.0),
}
"""Axes of the frontier: a figure of the summary, its title and its scale."""


def figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(drawn)
    axes = drawn.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return drawn, axes


def legend_above(axes: Any) -> None:
    """Where no curve can run into it."""
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def plain(text: str) -> str:
    """Text as matplotlib writes it down unchanged: no mathematics between dollar signs, no hidden label, nothing that UTF-8 or
    SVG cannot hold."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def svg(drawn: Any) -> str:
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]


def frontier(runs: Sequence[Run], cost: str = "retain_layers") -> str:
    """Accuracy against a cost. A star is where the model decides; a dashed line is what a coin between low and full would get; a
    diamond is a router that asks exactly where the measured need is; a cross is the best training-free gate at the cost of a
    star. Controls are no policies to choose. Nothing where no run knows the cost."""
    title, scale = COSTS[cost]
    shown = [r for r in runs if r.summary["accuracy"] is not None and r.summary.get(cost) is not None and not r.policy.control]
    if not shown:
        return ""
    drawn, axes = figure(7.2, 4.2)
    models = list(dict.fromkeys(r.summary["model"] for r in shown))
    for i, model in enumerate(models):
        colour = COLOURS[i % len(COLOURS)]
        own = [r for r in shown if r.summary["model"] == model]
        axes.plot([], [], "o", color=colour, label=plain(model))
        points = {r.policy: (scale * r.summary[cost], 100 * r.summary["accuracy"]) for r in own}
        if LOW in points and FULL in points:
            axes.plot(*zip(points[LOW], points[FULL], strict=True), "--", color=colour, alpha=0.6)
        oracles = [r.comparison["oracle"] for r in own if r.comparison and r.comparison.get("n")]
        if oracles and cost == "retain_layers":
            axes.plot(100 * oracles[0]["retain_cumulative"], 100 * oracles[0]["accuracy"], "D", mfc="none", color=colour)
        for run in own:
            if run.gates and cost == "retain_layers":
                best = max(run.gates.values(), key=lambda gate: gate["accuracy"])
                axes.plot(100 * best["cost"], 100 * best["accuracy"], "x", color=colour)
            point = points[run.policy]
            marker, size = ("*", 14) if run.policy.is_adaptive else ("o", 6)
            axes.plot(*point, marker, color=colour, markersize=size)
            offset = (6, 5 - 10 * (i % 3))
            axes.annotate(plain(run.summary["policy"]), point, offset, textcoords="offset points", fontsize=8, color=colour)
    axes.set_xlabel(title)
    axes.set_ylabel("accuracy, %")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.margins(x=0.12, y=0.12)
    return svg(drawn)


def requests_by_family(runs: Sequence[Run]) -> str:
    """As Fig. 5 of the paper; nothing where no run decides or no family is known."""
    shown = [r for r in runs if r.policy.is_adaptive]
    families = sorted({f for r in shown for f in r.summary["by_family"]})
    if not families:
        return ""
    drawn, axes = figure(7.2, 3.4)
    width = 0.8 / (len(shown) + 1)
    for i, run in enumerate(shown):
        heights = [100 * run.summary["by_family"].get(f, {"request_ratio": 0})["request_ratio"] for f in families]
        axes.bar(
            [x + i * width for x in range(len(families))], heights, width, label=plain(run.name), color=COLOURS[i % len(COLOURS)]
        )
    needed = [_share_hard(shown[0], f) for f in families]
    if all(n is not None for n in needed):
        places = [x + len(shown) * width for x in range(len(families))]
        axes.bar(places, needed, width, label="needed", color="none", edgecolor="#444", hatch="///")
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(families))], list(map(plain, families)))
    axes.set_ylabel("requests, %")
    legend_above(axes)
    return svg(drawn)


def _share_hard(run: Run, family: str) -> float | None:
    needs = [s.transcript.need for s in run.scored if s.transcript.family == family]
    return 100 * needs.count("hard") / len(needs) if needs and None not in needs else None


def bars(groups: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str) -> str:
    """Values side by side, as Fig. 1 and Fig. 4 of the paper have them; a value that is not known is left out."""
    drawn, axes = figure(7.2, 3.4)
    width = 0.8 / max(1, len(series))
    for i, (name, values) in enumerate(series.items()):
        places = [x + i * width for x, v in enumerate(values) if v is not None]
        axes.bar(places, [v for v in values if v is not None], width, label=plain(name), color=COLOURS[i % len(COLOURS)])
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(groups))], list(map(plain, groups)))
    axes.set_ylabel(title)
    legend_above(axes)
    return svg(drawn)


def curves(metrics: Sequence[dict[str, Any]], names: Mapping[str, str]) -> str:
    """What was logged under `names`, over the steps: a moving mean over seven, each value faint behind it."""
    drawn, axes = figure(7.2, 3.4)
    for (key, label), colour in zip(names.items(), COLOURS, strict=False):
        points = [(m["step"], m[key]) for m in metrics if m.get(key) is not None]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.3)
            axes.plot(steps, moving_mean(values, 7), label=label, color=colour, linewidth=1.6)
    axes.set_xlabel("update")
    legend_above(axes)
    return svg(drawn)


def curves_over_seeds(series: Mapping[str, Sequence[Sequence[float]]], label: str, smooth: int = 5) -> str:
    """A share over training steps: the mean over seeds with their range, each a moving mean over `smooth` steps."""
    drawn, axes = figure(7.2, 3.4)
    for (name, seeds), colour in zip(series.items(), COLOURS, strict=False):
        smoothed = [moving_mean(seed, smooth) for seed in seeds if seed]
        if not smoothed:
            continue
        steps = range(1, min(map(len, smoothed)) + 1)
        at_step = [[curve[i - 1] for curve in smoothed] for i in steps]
        axes.plot(steps, [sum(v) / len(v) for v in at_step], label=name, color=colour, linewidth=1.6)
        axes.fill_between(steps, [min(v) for v in at_step], [max(v) for v in at_step], color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.set_ylim(-0.02, max(1.02, axes.get_ylim()[1]))
    legend_above(axes)
    return svg(drawn)


def moving_mean(values: Sequence[float], n: int) -> list[float]:
    return [sum(part) / len(part) for part in (values[max(0, i - n + 1) : i + 1] for i in range(len(values)))]
