"""The command of `grpo_step.py` and `rollout.py`, and what they found: medians and spreads, a table, curves with their bounds."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from step_work import Work

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
    threads = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    return {
        "ratio": {row["name"]: row["ratio"][peer]["median"] for row in rows},
        "ours": {row["name"]: row["cpu_seconds"]["ours"]["median"] for row in rows},
        "peer": {row["name"]: row["cpu_seconds"][peer]["median"] for row in rows},
        "bound": {row["name"]: row["bound"] for row in rows},
        "machine": f"{os.cpu_count()} shared CPU cores, {threads}, fp32, in miniature",
        "rows": list(rows),
    }


def markdown(found: Mapping[str, Any], ways: Sequence[str]) -> str:
    """The rows as a table; ratios are medians of pairs, with the smallest and the largest."""
    peers = [way for way in ways if way != "ours"]
    heads = ["row", *(f"{name(way)}, s" for way in ways), *(f"{name(peer)} / ours" for peer in reversed(peers)), "bound", "n"]
    days = sorted({row["when"] for row in found["rows"]})
    lines = [f"{', '.join(days)}; {found['machine']}. CPU seconds, medians; in brackets the smallest and the largest.", ""]
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
    drawn.axes[0].set_ylabel(f"{name(peer)} / ours (dashed: bound)")
    return svg(drawn)


def _asking(rows: Sequence[Row], share: float, *, same: bool) -> list[Row]:
    wanted = {"share": share, "same_words": same, "prompt": 300}
    return [row for row in rows if all(row["work"][key] == value for key, value in wanted.items())]


def _by_share(rows: Sequence[Row], *, same: bool) -> list[Row]:
    here = [row for row in rows if row["work"]["prompt"] == 300 and row["work"]["group"] == 8]
    return [row for row in here if not row["work"]["share"] or row["work"]["same_words"] == same]


def command(
    script: str,
    about: str | None,
    *,
    ways: Sequence[str],
    works: Sequence[Work],
    quick: Work,
    measure: Callable[[Work, int], Row],
    named: Sequence[Work] = (),
) -> None:
    """Measure rows one after the other and say what was found; the last of the `ways` is the peer.

    Args:
        script: its name, and that of its files.
        works: the rows.
        quick: the row of `--quick`.
        measure: a row, in so many runs of each way.
        named: rows that are measured only where `--rows` names no other.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small row, once")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", default="", help="only rows with this text in their names, as 'G 16'")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way (default: %(default)s)")
    parser.add_argument("--out", type=Path, help=f"folder for {script}.json, .md and .svg; other rows that it has are kept")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    chosen = [quick] if options.quick else [work for work in works if options.rows in work.name]
    chosen = chosen or [work for work in named if options.rows in work.name]
    if not chosen:
        parser.error(f"--rows {options.rows}: no row has that in its name")
    files = {kind: options.out / f"{script}.{kind}" for kind in ("json", "md", "svg")} if options.out else {}
    before = files["json"].read_text("utf-8") if files and files["json"].is_file() else "{}"
    rows: dict[str, Row] = {row["name"]: row for row in json.loads(before).get("rows", ())}
    found: dict[str, Any] = {}
    for work in chosen:
        rows[work.name] = {"when": datetime.date.today().isoformat(), **measure(work, 1 if options.quick else options.repeats)}
        in_order = [name for work in (*works, *named, quick) if (name := work.name) in rows]
        found = contract([rows[name] for name in in_order], ways[-1])
        if files:
            options.out.mkdir(parents=True, exist_ok=True)
            files["json"].write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            files["md"].write_text(markdown(found, ways), "utf-8")
            files["svg"].write_text(curves(found["rows"], ways[-1]), "utf-8")
    sys.stdout.write(json.dumps(found) + "\n" if options.json else markdown(found, ways))
