"""Figures as SVG: accuracy against a cost, shares by family, seconds, curves of a training run, bars beside the paper's."""

from __future__ import annotations

import io
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from visionthink.evals.policy_spec import FULL, LOW
from visionthink.evals.report.runs import Run

COLOURS = ("#2f6fdb", "#d9822b", "#3a9e5c", "#a347ba", "#c23b3b", "#5b6b7a", "#0f9ba8", "#8a6d1b")

COSTS = {
    "retain_layers": ("visual tokens, % of the full views", 100.0),
    "flops": ("operations per example without a prefix cache, GFLOP", 1e-9),
    "seconds": ("seconds per example", 1.0),
}
"""Costs that accuracy is drawn against: a figure of the summary, its title and its scale."""

WIDTH = 5.2
"""The width of a figure, in inches: two stand side by side on a screen, and one is still readable on a phone."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """How a point is drawn, and what that means."""

    shape: str
    size: float
    filled: bool
    meaning: str


MARKERS = {
    "decides": Marker(shape="*", size=14, filled=True, meaning="the model decides (adaptive)"),
    "other": Marker(shape="o", size=6, filled=True, meaning="another policy"),
    "control": Marker(shape="v", size=6, filled=False, meaning="a control (other pixels)"),
    "oracle": Marker(shape="D", size=7, filled=False, meaning="full view only where it turns wrong into right"),
    "gate": Marker(shape="x", size=7, filled=True, meaning="best gate at the tokens of the star"),
}


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
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def plain(text: str) -> str:
    """Text as matplotlib writes it down unchanged: no mathematics between dollar signs, no hidden label, nothing that UTF-8 or
    SVG cannot hold."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def svg(drawn: Any) -> str:
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]


def colours(runs: Sequence[Run]) -> dict[str, str]:
    """The colour of each model, the same in every figure of a suite."""
    models = dict.fromkeys(run.summary["model"] for run in runs)
    return {model: COLOURS[i % len(COLOURS)] for i, model in enumerate(models)}


def names(runs: Sequence[Run]) -> list[str]:
    """What each run is called in a figure: by its policy alone where all are of one model. No two are called alike."""
    one = len(colours(runs)) == 1
    found = [short(str(run.policy) if one else run.name) for run in runs]
    return [f"{name} ({run.folder.name})" if found.count(name) > 1 else name for name, run in zip(found, runs, strict=True)]


def short(text: str, most: int = 34) -> str:
    """Names that are long paths by their ends."""
    return plain(text if len(text) <= most else f"…{text[1 - most :]}")


def undrawn(runs: Sequence[Run], cost: str) -> list[str]:
    """Names of the runs that have no place in the figure of a cost."""
    return [run.name for run in runs if run.summary["accuracy"] is None or run.summary.get(cost) is None]


def frontier(runs: Sequence[Run], cost: str = "retain_layers") -> str:
    """Accuracy against a cost, of every run that has both; nothing where none has. A dashed line is what a random mix of low and
    full is expected to get; `MARKERS` are the points."""
    title, scale = COSTS[cost]
    shown = [r for r in runs if r.summary["accuracy"] is not None and r.summary.get(cost) is not None]
    if not shown:
        return ""
    drawn, axes = figure(WIDTH, 4.2)
    called, used, texts, points_drawn = names(runs), set[str](), [], []
    for model, colour in colours(runs).items():
        own = [r for r in shown if r.summary["model"] == model]
        points = {r.policy: (scale * r.summary[cost], 100 * r.summary["accuracy"]) for r in own}
        if LOW in points and FULL in points:
            axes.plot(*zip(points[LOW], points[FULL], strict=True), "--", color=colour, alpha=0.6)
            used.add("mix")
        marks = [
            ("control" if r.policy.control else "decides" if r.policy.is_adaptive else "other", points[r.policy]) for r in own
        ]
        if cost == "retain_layers":
            oracles = [r.comparison["oracle"] for r in own if r.comparison and r.comparison.get("n")]
            marks += [("oracle", (100 * o["retain_cumulative"], 100 * o["accuracy"])) for o in oracles[:1]]
            gates = [max(r.gates.values(), key=lambda gate: gate["accuracy"]) for r in own if r.gates]
            marks += [("gate", (100 * gate["cost"], 100 * gate["accuracy"])) for gate in gates]
        for kind, point in marks:
            marker = MARKERS[kind]
            fill = colour if marker.filled else "none"
            axes.plot(*point, marker.shape, color=colour, mfc=fill, markersize=marker.size)
            used.add(kind)
            points_drawn.append(point)
        texts += [(points[r.policy], called, colour) for r, called in zip(runs, called, strict=True) if r in own]
    axes.set_xlabel(title)
    axes.set_ylabel("accuracy, %")
    axes.margins(x=0.14, y=0.14)
    axes.set_ylim(top=min(104, axes.get_ylim()[1]))
    _legend_of_markers(axes, colours(shown), used)
    _annotate(drawn, axes, texts, points_drawn)
    return svg(drawn)


def _legend_of_markers(axes: Any, models: Mapping[str, str], used: Container[str]) -> None:
    """Below the axes: the colour of each model, and what each marker in use means."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="s", ls="", color=colour, label=short(model, 60)) for model, colour in models.items()]
    for kind, m in MARKERS.items():
        if kind in used:
            fill = "#444" if m.filled else "none"
            handles.append(Line2D([], [], marker=m.shape, ls="", color="#444", mfc=fill, ms=0.7 * m.size, label=m.meaning))
    if "mix" in used:
        handles.append(Line2D([], [], ls="--", color="#444", label="random mix of low and full"))
    columns = 1 if len(handles) < 4 else 2
    axes.legend(handles=handles, fontsize=8, frameon=False, ncols=columns, loc="upper center", bbox_to_anchor=(0.45, -0.15))


Point: TypeAlias = "tuple[float, float]"


def _annotate(drawn: Any, axes: Any, texts: Sequence[tuple[Point, str, str]], points: Sequence[Point]) -> None:
    """Labels beside their points, each at the first place that covers no other label or point; of one point, one below
    the other."""
    merged: dict[tuple[Point, str], list[str]] = {}
    for point, text, colour in texts:
        merged.setdefault((point, colour), []).append(text)
    drawn.canvas.draw()
    at = {point: axes.transData.transform(point) for point, _ in merged}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in map(axes.transData.transform, points)]
    frame = axes.get_window_extent()
    per_point = drawn.dpi / 72
    box = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7}
    for (point, colour), names in merged.items():
        label = axes.annotate("\n".join(names), point, (0, 0), textcoords="offset points", fontsize=8, color=colour, bbox=box)
        label.set(in_layout=False, va="bottom")
        size = label.get_window_extent()
        x, y = at[point]
        places = [
            (x + 9 if right else x - 9 - size.width, y + row * 6 * per_point - size.height / 2)
            for row in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5)
            for right in (True, False)
        ]
        boxes = [(left, bottom, left + size.width, bottom + size.height) for left, bottom in places]
        free = [b for b in boxes if frame.x0 < b[0] and b[2] < frame.x1 and frame.y0 < b[1] and b[3] < frame.y1]
        place = next((b for b in free if not _overlaps(b, taken)), boxes[0])
        taken.append(place)
        label.xyann = ((place[0] - x) / per_point, (place[1] - y) / per_point)


def _overlaps(box: tuple[float, ...], taken: Sequence[tuple[float, ...]]) -> bool:
    left, bottom, right, top = box
    return any(left < x1 and x0 < right and bottom < y1 and y0 < top for x0, y0, x1, y1 in taken)


def shares(rows: Mapping[str, Sequence[float | None]], columns: Mapping[str, str]) -> str:
    """Shares as a table of shaded cells, a row for each run: white is 0 %, blue 100 %; a dash where there is none. `columns` are
    names, and of how many examples."""
    from matplotlib.colors import LinearSegmentedColormap

    drawn, axes = figure(WIDTH, 1.0 + 0.3 * len(rows))
    blues = LinearSegmentedColormap.from_list("share", ["#ffffff", COLOURS[0]])
    values = [[0.0 if v is None else v for v in row] for row in rows.values()]
    axes.imshow(values, cmap=blues, vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(rows.values()):
        for x, value in enumerate(row):
            text = "–" if value is None else f"{100 * value:.0f}"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if (value or 0) > 0.6 else "#222")
    titles = [f"{short(name, 16)}\nn = {n}" for name, n in columns.items()]
    slanted: dict[str, Any] = {"rotation": 50, "ha": "left", "rotation_mode": "anchor"} if len(titles) > 7 else {}
    axes.set_xticks(range(len(titles)), titles, fontsize=8, **slanted)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    return svg(drawn)


def seconds(runs: Sequence[Run]) -> str:
    """A bar for each run, in the colour of its model, with its number of seconds per example."""
    drawn, axes = figure(WIDTH, 1.0 + 0.3 * len(runs))
    colour = colours(runs)
    values = [run.summary["seconds"] for run in runs]
    drawn_bars = axes.barh(range(len(runs)), values, 0.7, color=[colour[run.summary["model"]] for run in runs])
    axes.bar_label(drawn_bars, [f"{value:.3g}" for value in values], fontsize=8, padding=3)
    axes.set_yticks(range(len(runs)), names(runs), fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel("seconds per example")
    return svg(drawn)


def bars(groups: Sequence[str], series: Mapping[str, Sequence[float | None]], title: str) -> str:
    """Values side by side, as Fig. 1 and Fig. 4 of the paper have them; a value that is not known is left out."""
    drawn, axes = figure(WIDTH, 3.4)
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
    drawn, axes = figure(WIDTH, 3.4)
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
    drawn, axes = figure(WIDTH, 3.4)
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
