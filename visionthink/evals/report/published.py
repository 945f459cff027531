"""What papers print, with what was measured here beside it, where a run is of one of their benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visionthink.evals import paper, successors
from visionthink.evals.benchmarks.benchmark import BENCHMARKS, Benchmark
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
    """VisionThink's Tables 1, 2 and 7 with what was measured here in the last rows."""
    ours = {name: {b: value for b, (value, _) in values.items()} for name, values in _measured(runs).items()}
    if not ours:
        return None
    printed = paper.by_benchmark()
    shown = [b for b in BENCHMARKS if any(b.name in values for values in ours.values())]
    methods: Mapping[str, Mapping[str, float]] = {
        **{m: {b: v[m] for b, v in printed.items() if m in v} for m in ("Vanilla Qwen2.5-VL-7B", "Down-Sample", "VisionThink")},
        **ours,
    }
    figure = bars([b.name for b in shown], {m: [v.get(b.name) for b in shown] for m, v in methods.items()}, "the paper's unit")
    return {
        "benchmarks": [b.name for b in shown],
        "methods": [(name, [values.get(b.name) for b in shown]) for name, values in methods.items()],
        "ours": list(ours),
        "averages": paper.table_2(),
        "caveats": [*paper.CAVEATS, *(f"{b.name}: {c}" for b in shown for c in b.caveats)],
        "figure": figure,
    }


def beside_awares(runs: Sequence[Run]) -> dict[str, Any] | None:
    """AwaRes' tables with what was measured here in the last rows: a score, and the share of visual tokens as the paper counts
    it, a mean of ratios over examples; ours have the ratio of sums beside it."""
    theirs = successors.of(successors.AWARES)
    ours = _measured(runs)
    shown = [b.name for b in BENCHMARKS if b.name in theirs["AwaRes"] and any(b.name in values for values in ours.values())]
    if not shown:
        return None
    margins = {m.method: m for m in successors.margins()}
    printed = [(name, [theirs[name].get(b) for b in shown], margins.get(name)) for name in SHOWN_OF_AWARES]
    measured = [(name, [values.get(b) for b in shown]) for name, values in ours.items() if set(shown) & set(values)]
    return {
        "benchmarks": shown,
        "printed": printed,
        "measured": [(name, [(found[0], found[1].summary) if found else None for found in values]) for name, values in measured],
        "footnotes": [(name, successors.FOOTNOTES[name]) for name in SHOWN_OF_AWARES if name in successors.FOOTNOTES],
    }
