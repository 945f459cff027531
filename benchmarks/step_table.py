"""What `grpo_step.py` and `rollout.py` found: medians and spreads, a Markdown table, and curves with their bounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visionthink.evals.report.plots import COLOURS, svg

Row = dict[str, Any]


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def contract(rows: Sequence[Row], peer: str) -> dict[str, Any]:
    """What every benchmark prints: by row, the ratio to the peer, CPU seconds of both, and the bound of the ratio."""
    return {
        "ratio": {row["name"]: row["ratio"][peer]["median"] for row in rows},
        "ours": {row["name"]: row["cpu_seconds"]["ours"]["median"] for row in rows},
        "peer": {row["name"]: row["cpu_seconds"][peer]["median"] for row in rows},
        "bound": {row["name"]: row["bound"] for row in rows},
        "rows": list(rows),
    }


def markdown(found: Mapping[str, Any], ways: Sequence[str]) -> str:
    """The rows as a table; ratios are medians of pairs, with the smallest and the largest."""
    peers = [way for way in ways if way != "ours"]
    heads = ["row", *(f"{name(way)}, s" for way in ways), *(f"{name(peer)} / ours" for peer in reversed(peers)), "bound", "n"]
    lines = [f"{found['when']}, {found['machine']}. CPU seconds, medians; in brackets the smallest and the largest.", ""]
    lines += [_line(heads), _line(["---"] * len(heads))]
    for row in found["rows"]:
        cells = [row["name"], *(_seconds(row["cpu_seconds"][way]) for way in ways)]
        cells += [_ratio(row["ratio"][peer]) for peer in reversed(peers)]
        lines.append(_line([*cells, f"{row['bound']:.1f}", str(row["n"])]))
    if memory := [row for row in found["rows"] if row.get("peak_mib")]:
        heads = ["peak memory", *(f"{name(way)}, MiB" for way in ways), "ours / stock", "bound"]
        lines += ["", _line(heads), _line(["---"] * len(heads))]
        for row in memory:
            peak = row["peak_mib"]
            cells = [row["name"], *(f"{peak[way]:.0f}" for way in ways), f"**{peak['ours'] / peak['stock']:.2f}x**"]
            lines.append(_line([*cells, f"{row['peak_bound']:.2f}x"]))
    return "\n".join(lines) + "\n"


def name(way: str) -> str:
    return {"stock": "stock TRL"}.get(way, way)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(value: Mapping[str, float]) -> str:
    return f"{value['median']:.2f} ({value['min']:.2f}-{value['max']:.2f})"


def _ratio(value: Mapping[str, float]) -> str:
    return f"**{value['median']:.1f}x** ({value['min']:.1f}-{value['max']:.1f})"


def curves(rows: Sequence[Row], peer: str) -> str:
    """Ratio to a peer against the length of the prompt, the members of a group and the share that asks, with its bound."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    usual = [row for row in rows if row["work"]["model"] == "wide" and row["work"]["answer"] == [10, 20]]
    direct = [row for row in usual if not row["work"]["share"]]
    panels: list[tuple[str, str, dict[str, list[Row]]]] = [
        ("prompt", "tokens of the prompt", {"direct answers, G 8": [row for row in direct if row["work"]["group"] == 8]}),
        (
            "group",
            "members of a group",
            {
                "direct answers, 600": [row for row in direct if row["work"]["prompt"] == 600],
                "half ask, same words, 300": _asking(usual, 0.5, same=True),
                "half ask, different words, 300": _asking(usual, 0.5, same=False),
            },
        ),
        (
            "share",
            "share that asks, prompt of 300, G 8",
            {words: _by_share(usual, same=words == "same words") for words in ("same words", "different words")},
        ),
    ]
    drawn = Figure(figsize=(11.5, 3.6), layout="constrained")
    FigureCanvasSVG(drawn)
    for axes, (key, title, series) in zip(drawn.subplots(1, len(panels)), panels, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        for colour, (label, of_series) in zip(COLOURS, series.items(), strict=False):
            points = sorted(of_series, key=lambda row: row["work"][key])
            x, ratios = [row["work"][key] for row in points], [row["ratio"][peer] for row in points]
            middle = [ratio["median"] for ratio in ratios]
            below, above = ([abs(r[end] - r["median"]) for r in ratios] for end in ("min", "max"))
            axes.errorbar(x, middle, yerr=[below, above], fmt="o-", color=colour, label=label, capsize=2)
            axes.plot(x, [row["bound"] for row in points], "--", color=colour, alpha=0.6)
        axes.set_xlabel(title)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False)
    drawn.axes[0].set_ylabel(f"{name(peer)} / ours, CPU seconds (dashed: bound)")
    return svg(drawn)


def _asking(rows: Sequence[Row], share: float, *, same: bool) -> list[Row]:
    wanted = {"share": share, "same_words": same, "prompt": 300}
    return [row for row in rows if all(row["work"][key] == value for key, value in wanted.items())]


def _by_share(rows: Sequence[Row], *, same: bool) -> list[Row]:
    here = [row for row in rows if row["work"]["prompt"] == 300 and row["work"]["group"] == 8]
    return [row for row in here if not row["work"]["share"] or row["work"]["same_words"] == same]


def kept(file: Path) -> list[Row]:
    """Rows that were measured before."""
    import json

    return json.loads(file.read_text("utf-8"))["rows"] if file.is_file() else []
