"""The numbers that VisionThink prints (arXiv 2507.13348), and what comes out when they are recomputed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

TOLERANCE = 0.15
"""Points by which an average of rounded numbers may differ from the printed one."""

NINE = ("ChartQA", "OCRBench", "DocVQA", "MME", "MMVet", "RealWorldQA", "POPE", "MathVista", "MathVerse")
"""The benchmarks of Table 2."""

CAVEATS = (
    "RealWorldQA and MMVet are swapped between Table 1 (68.5 and 67.1) and Tables 2, 7 and 9 (67.1 and 68.5).",
    "The share of 51.3 % of the visual tokens is not defined: both views counted, the ratios of Table 8 give 61.3 %, the last "
    "view alone 52.2 %.",
    "ChartQA was judged by GPT-4o and people; relaxed accuracy is another figure.",
    "Third parties measured the released checkpoint at 61 % and at 99 % of the visual tokens.",
)


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One printed number. `retained` is the method's share of visual tokens in percent, where the paper names one."""

    source: str
    method: str
    retained: str
    benchmark: str
    metric: str
    value: float


def numbers() -> list[Printed]:
    """All of them, as they are printed."""
    text = (resources.files("visionthink") / "assets" / "paper" / "numbers.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return [
        Printed(
            source=r["source"],
            method=r["method"],
            retained=r["retain_ratio_pct"],
            benchmark=r["benchmark"],
            metric=r["metric"],
            value=float(r["value"]),
        )
        for r in rows
    ]


def retained(request_ratio: float, low: float = 0.25) -> tuple[float, float]:
    """(last view only, every view) of the visual tokens of always-full, when a share r of the questions asks: `low + (1 - low) r`
    and `low + r`."""
    return low + (1 - low) * request_ratio, low + request_ratio


def table_8() -> dict[str, float]:
    """Share of requests of the released model by benchmark, from 0 to 1."""
    return {p.benchmark: p.value / 100 for p in numbers() if p.source == "Table8" and p.method == "VisionThink"}


@dataclass(frozen=True, kw_only=True)
class Average:
    """A row of Table 2: the mean over nine benchmarks of the value relative to the vanilla model's, in percent."""

    method: str
    retained: str
    printed: float
    recomputed: float

    @property
    def holds(self) -> bool:
        """Whether the printed average is what its row gives."""
        return abs(self.printed - self.recomputed) <= TOLERANCE


def percent_of(values: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Mean over the reference's benchmarks of the value relative to it, in percent."""
    return sum(100 * values[name] / reference[name] for name in reference) / len(reference)


def table_2() -> list[Average]:
    """Every method of Table 2 (and its longer form, Table 7) whose nine values and average are printed."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for p in numbers():
        if {"Table2", "Table7"} & set(p.source.split(";")):
            rows.setdefault((p.method, p.retained), {})[p.benchmark] = p.value
    vanilla = next(values for (method, _), values in rows.items() if method.startswith("Vanilla"))
    reference = {name: vanilla[name] for name in NINE}
    return [
        Average(method=method, retained=share, printed=values["Avg9"], recomputed=percent_of(values, reference))
        for (method, share), values in rows.items()
        if {*NINE, "Avg9"} <= set(values)
    ]


def by_benchmark(methods: Sequence[str] = ("Vanilla Qwen2.5-VL-7B", "Down-Sample", "VisionThink")) -> dict[str, dict[str, float]]:
    """Values by benchmark and method, of Tables 2 and 7, else of Table 1."""
    found: dict[str, dict[str, float]] = {}
    for p in sorted(numbers(), key=lambda p: "Table2" not in p.source):
        if p.source.startswith("Table") and p.method in methods and p.metric != "resize_call_pct":
            found.setdefault(p.benchmark, {}).setdefault(p.method, p.value)
    return found
