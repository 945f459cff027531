"""Numbers that VisionThink's successors print, what they come to beside random mixes, and what has to be known to read them.

AwaRes (arXiv 2603.16932), AdaptVision (2512.03794), Mini-o3 (2509.07969) with the systems that it was compared with.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from statistics import mean

from visionthink.evals.mixes import Family, Rates, best_rates, one_rate, own_rates

AWARES, ADAPTVISION, MINIO3 = "2603.16932", "2512.03794", "2509.07969"
"""Papers, by their arXiv ids."""
LOW, FULL = "low view", "full view"

FOOTNOTES: Mapping[str, str] = {
    "AwaRes": "Its share of visual tokens (RTR, Eq. 9) is a mean of ratios over samples, and not a ratio of sums. The "
    "scores of its low view and full view are those of the untrained model, so a margin also contains what training gains "
    "without any look.",
    "AwaRes, lambda 0": "The latency that the paper reports (0.61 s a sample, 4.4 times as fast as VisionThink) was measured on "
    "this ablation: the six accuracies printed beside the latency are those of this row.",
    "AwaRes, GRPO only": "In effect this is an always-low model after reinforcement learning: at a share of 0.25 on ChartQA and "
    "DocVQA it asked for almost no crops. On ChartQA it gains 11.5 of the 14.8 points between the untrained low and full view.",
    "AwaRes, ANLS reward": "Its share on POPE is below that of the low view. Labels by ANLS, another ablation, cost 3.8 points "
    "in the paper's Table 6 and 2.8 in its text.",
    "VisionThink": "AwaRes' authors measured the released checkpoint. Little of its margin is left against the mix with the "
    "best rates: most of the margin comes from asking more often on some data sets than on others.",
    "AdaptVision": "Its scores are in percent of the full view's score, as means over nine benchmarks, with GPT-4o as the judge. "
    "Its released evaluation crops the wrong place on images above 4.19 MP. The weights in its script, 0.2 and 0.1, correspond "
    "to the paper's alpha of 2 after normalisation.",
    "VisionThink, retrained": "AdaptVision's authors trained it with the public code.",
    "DeepEyes": "Its reward pays 1.2 for a right answer with a crop, so it trains the model to look and not to save tokens.",
    "Mini-o3": "It answers in up to 12 turns.",
}
"""Footnotes by method."""


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One printed number. `retained` is the share of visual tokens, where one is printed."""

    paper: str
    source: str
    method: str
    benchmark: str
    metric: str
    value: float
    retained: float | None


@functools.cache
def numbers() -> tuple[Reported, ...]:
    """All numbers, as the papers print them."""
    text = (resources.files("visionthink") / "assets" / "paper" / "successors.csv").read_text("utf-8")
    return tuple(
        Reported(**(row | {"value": float(row["value"]), "retained": float(row["retained"]) if row["retained"] else None}))  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    )


def of(paper: str, metric: str = "accuracy") -> dict[str, dict[str, Reported]]:
    """The numbers of a paper, by method and benchmark."""
    found: dict[str, dict[str, Reported]] = {}
    for number in numbers():
        if (number.paper, number.metric) == (paper, metric):
            found.setdefault(number.method, {})[number.benchmark] = number
    return found


@dataclass(frozen=True, kw_only=True)
class Margin:
    """A method of AwaRes' tables: means over its six benchmarks, and points above each mix of its low and full view at the same
    share of visual tokens."""

    method: str
    accuracy: float
    retained: float
    mix: float
    by_benchmark: float
    best_rates: float


def margins() -> list[Margin]:
    """Margins of every method that AwaRes prints; each benchmark counts the same."""
    table = of(AWARES)
    return [_margin(method, table) for method in table if method not in (LOW, FULL)]


def _margin(method: str, table: Mapping[str, Mapping[str, Reported]]) -> Margin:
    own, families = table[method], families_of({name: n.retained or 0.0 for name, n in table[method].items()})
    accuracy = mean(n.value for n in own.values())

    def above(rates: Rates) -> float:
        return accuracy - mixed(families, rates)

    return Margin(
        method=method,
        accuracy=accuracy,
        retained=mean(f.spent for f in families),
        mix=above(one_rate),
        by_benchmark=above(own_rates),
        best_rates=above(best_rates),
    )


def families_of(spent: Mapping[str, float]) -> list[Family]:
    """AwaRes' low and full view on benchmarks, where these shares of the visual tokens were spent."""
    low, full = (of(AWARES)[line] for line in (LOW, FULL))
    return [
        Family(
            right_low=low[name].value,
            right_full=full[name].value,
            cost_low=low[name].retained or 0.0,
            cost_full=full[name].retained or 0.0,
            spent=share,
        )
        for name, share in spent.items()
    ]


def mixed(families: list[Family], rates: Rates) -> float:
    """What a mix gets right, on average over families."""
    return mean(family.mixed(rate) for family, rate in zip(families, rates(families), strict=True))
