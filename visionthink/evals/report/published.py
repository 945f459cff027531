"""What papers print, with what was measured here beside it, where a run is of one of their benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visionthink.evals import paper, successors
from visionthink.evals.benchmarks.benchmark import BENCHMARKS, Benchmark
from visionthink.evals.report.cells import NONE, Cell, Table, number
from visionthink.evals.report.plots import bars
from visionthink.evals.report.runs import Run

SHOWN_OF_AWARES = (successors.FULL, successors.LOW, "VisionThink", "AwaRes", "AwaRes, lambda 0", "AwaRes, GRPO only")


def _measured(runs: Sequence[Run]) -> dict[str, dict[str, tuple[float, Run]]]:
    """Headlines of benchmarks, by the name of a run and of the benchmark."""
    named: Mapping[str, Benchmark] = {b.key: b for b in BENCHMARKS}
    found: dict[str, dict[str, tuple[float, Run]]] = {}
    for run in runs:
        if (benchmark := named.get(run.summary.get("benchmark") or "")) and (metrics := run.summary.get("metrics")):
            value = metrics.get(benchmark.headline)
            if value is not None:
                found.setdefault(run.name, {})[benchmark.name] = benchmark.scale * value, run
    return found


def beside_the_paper(runs: Sequence[Run]) -> dict[str, Any] | None:
    """VisionThink's Tables 1, 2 and 7 with what was measured here in the last rows, and the figure of these numbers."""
    ours = {name: {b: value for b, (value, _) in values.items()} for name, values in _measured(runs).items()}
    if not ours:
        return None
    printed = paper.by_benchmark()
    shown = [b for b in BENCHMARKS if any(b.name in values for values in ours.values())]
    methods: Mapping[str, Mapping[str, float]] = {
        **{
            f"{m} (paper)": {b: v[m] for b, v in printed.items() if m in v}
            for m in ("Vanilla Qwen2.5-VL-7B", "Down-Sample", "VisionThink")
        },
        **ours,
    }
    scores = Table(
        title="Scores",
        about="In the paper's unit for each benchmark. Rows without (paper) were measured here.",
        columns=["method", *(b.name for b in shown)],
        rows=[[Cell(name), *(number(values.get(b.name)) for b in shown)] for name, values in methods.items()],
        notes=[*paper.CAVEATS, *(f"{b.name}: {c}" for b in shown for c in b.caveats)],
    )
    averages = Table(
        title="The averages of the paper's Table 2, computed again from its rows",
        about="Averages over the benchmarks, relative to the vanilla model, in percent.",
        columns=["method", "visual tokens %", "printed", "computed again", "the same"],
        rows=[
            [
                Cell(a.method),
                Cell(str(a.retained)),
                number(a.printed),
                number(a.recomputed, 1, 2),
                Cell("yes" if a.holds else "no"),
            ]
            for a in paper.table_2()
        ],
    )
    figure = bars([b.name for b in shown], {m: [v.get(b.name) for b in shown] for m, v in methods.items()}, "the paper's unit")
    return {"tables": [scores, averages], "figure": figure}


def beside_awares(runs: Sequence[Run]) -> Table | None:
    """AwaRes' tables with what was measured here in the last rows: a score, and the share of visual tokens as the paper counts
    it, a mean of ratios over examples; ours have the ratio of sums beside it."""
    theirs = successors.of(successors.AWARES)
    ours = _measured(runs)
    shown = [b.name for b in BENCHMARKS if b.name in theirs["AwaRes"] and any(b.name in values for values in ours.values())]
    if not shown:
        return None
    margins = {m.method: m for m in successors.margins()}
    rows = []
    for name in SHOWN_OF_AWARES:
        reported, margin = [theirs[name].get(b) for b in shown], margins.get(name)
        above = [margin.mix, margin.by_benchmark, margin.best_rates] if margin else [None] * 3
        cells = [Cell(f"{r.value:.2f}", _at(r.retained)) if r else Cell(NONE) for r in reported]
        rows.append([Cell(name, "(paper)"), *cells, *(Cell(NONE if a is None else f"{a:+.1f}") for a in above)])
    for name, values in ours.items():
        if set(shown) & set(values):
            rows.append([Cell(name), *(_own(values.get(b)) for b in shown), *[Cell(NONE)] * 3])
    return Table(
        title="Compared with AwaRes",
        about="Each score stands beside its share of visual tokens in percent, as AwaRes counts it: the mean over examples of "
        "the tokens of every view relative to the full view. Rows without (paper) were measured here, and have the ratio of the "
        "sums behind it. The last columns are points above a random mix of AwaRes' untrained low and full view with the same "
        "share, on average over its six benchmarks: with one rate, with the method's own rate on each benchmark, and with the "
        "best rates.",
        columns=["method", *shown, "above the mix", "with its own rates", "with the best rates"],
        rows=rows,
        notes=[f"{name}: {successors.FOOTNOTES[name]}" for name in SHOWN_OF_AWARES if name in successors.FOOTNOTES],
    )


def _at(retained: float | None) -> str:
    return NONE if retained is None else f"at {100 * retained:.0f}"


def _own(found: tuple[float, Run] | None) -> Cell:
    if found is None:
        return Cell(NONE)
    value, run = found
    sums = f"of sums {100 * run.summary['retain_cumulative']:.0f}"
    return Cell(f"{value:.2f}", f"{_at(run.summary['retain_per_example'])}, {sums}")
