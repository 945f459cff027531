"""The paper's claims about training (arXiv 2507.13348), as runs to compare and a verdict on what came out. In miniature.

Pure: numbers in, verdicts out. `recipes.reproduce` makes the numbers. The rules of a verdict are fixed before a run is looked
at; each says what would reproduce a claim and what would be its opposite. Steps of accuracy are 0.02: 1.6 standard errors of a
difference between two runs of 95 % on 600 questions each; the questions are the same for all, and seeds are averaged.
A verdict is given for each setting (`recipes.settings`). Runs that have not settled count as well; how many is shown beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Literal

from visionthink.data.synth import FAMILIES

WINDOW = 20
SETTLED = 0.05
"""A run has settled if the request ratio of its last 20 steps is less than 0.05 away from that of the 20 steps before."""

Verdict = Literal["reproduced", "not reproduced", "opposite"]
Start = Literal["base", "reluctant", "sft", "sft-long"]
"""What a run starts from: the base model; one that was taught to answer directly; one fine-tuned on demonstrations."""


@dataclass(frozen=True)
class Variant:
    """One run: changes to the settings of the tiny recipe, and what it starts from. Without steps nothing is trained further."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    start: Start = "base"
    trained: bool = True


VARIANTS: dict[str, Variant] = {
    "eq5": Variant(),
    "none": Variant({"penalty": "none"}),
    "constant": Variant({"penalty": "constant"}),
    "released": Variant({"penalty": "released"}),
    "theta 0.05": Variant({"theta": 0.05}),
    "theta 0.5": Variant({"theta": 0.5}),
    "theta 0.8": Variant({"theta": 0.8}),
    "weight 0.02": Variant({"penalty": "eq5:0.02"}),
    "weight 0.4": Variant({"penalty": "eq5:0.4"}),
    "reluctant": Variant(start="reluctant"),
    "sft": Variant(start="sft", trained=False),
    "cold start": Variant(start="sft"),
    "long cold start": Variant(start="sft-long"),
    "base, full": Variant({"ladder": "1", "penalty": "none"}, trained=False),
    "general": Variant({"ladder": "1", "penalty": "none"}),
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one seed of a variant came to. Ratios and accuracies in [0, 1]; ratios of the evaluation at temperature 0."""

    requests: tuple[float, ...]
    """Request ratio of every training step; empty where nothing was trained."""
    asks: float
    asks_easy: float
    asks_hard: float
    asks_by_family: Mapping[str, float]
    accuracy: float

    @property
    def at_the_end(self) -> float:
        """Request ratio of the last ten steps; of the evaluation where nothing was trained."""
        return mean(self.requests[-10:]) if self.requests else self.asks

    @property
    def change(self) -> float | None:
        """Request ratio of the last 20 steps minus that of the 20 before, or halves of a shorter run; None if not trained."""
        n = min(WINDOW, len(self.requests) // 2)
        return mean(self.requests[-n:]) - mean(self.requests[-2 * n : -n]) if n else None


Outcomes = Mapping[str, Sequence[Outcome]]
"""Seeds of every variant."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the paper, its own numbers, the runs to look at, what is shown of them and how it is judged."""

    name: str
    source: str
    statement: str
    paper: str
    variants: tuple[str, ...]
    shown: Callable[[Outcome], float]
    unit: str
    judge: Callable[[Outcomes], Verdict]
    rule: str
    """What reproduces the claim, and what would be its opposite."""
    settings: tuple[str, ...] = ("paper", "tiny")
    """Where it is judged."""


def _average(outcomes: Outcomes, variant: str, value: Callable[[Outcome], float]) -> float:
    return mean(value(o) for o in outcomes[variant])


def _end(outcome: Outcome) -> float:
    return outcome.at_the_end


def _gap(outcome: Outcome) -> float:
    return outcome.asks_hard - outcome.asks_easy


def _accuracy(outcome: Outcome) -> float:
    return outcome.accuracy


def _in_order(outcomes: Outcomes, variants: Sequence[str], value: Callable[[Outcome], float], step: float) -> Verdict:
    """Whether averages rise along `variants` by `step` or more from the first to the last, and nowhere fall by as much."""
    averages = [_average(outcomes, v, value) for v in variants]
    rises = [b - a for a, b in itertools.pairwise(averages)]
    if averages[-1] - averages[0] >= step and all(r > -step for r in rises):
        return "reproduced"
    return "opposite" if averages[0] - averages[-1] >= step else "not reproduced"


def _collapse(outcomes: Outcomes) -> Verdict:
    none, constant, eq5 = (_average(outcomes, v, _end) for v in ("none", "constant", "eq5"))
    if none >= 0.9 and constant <= 0.1 and 0.15 <= eq5 <= 0.85:
        return "reproduced"
    return "opposite" if constant - none >= 0.5 else "not reproduced"


def _never_asks(outcomes: Outcomes) -> Verdict:
    """`eq5` from the base model keeps asking, from the reluctant one it does not."""
    kept, lost = _average(outcomes, "eq5", _end), _average(outcomes, "reluctant", _end)
    if kept >= 0.15 and lost <= 0.1:
        return "reproduced"
    return "opposite" if lost - kept >= 0.15 else "not reproduced"


def _weight_matters_little(outcomes: Outcomes) -> Verdict:
    """Every weight separates hard from easy, and about as well; the opposite is that one does and another does not."""
    gaps = [_average(outcomes, v, _gap) for v in ("weight 0.02", "eq5", "weight 0.4")]
    if min(gaps) >= 0.3 and max(gaps) - min(gaps) <= 0.15:
        return "reproduced"
    return "opposite" if max(gaps) - min(gaps) >= 0.5 else "not reproduced"


def _sft_asks_more(outcomes: Outcomes) -> Verdict:
    """A model that has stopped asking altogether is not a better one."""
    if _average(outcomes, "eq5", _end) < 0.15:
        return "not reproduced"
    return _in_order(outcomes, ("eq5", "sft"), lambda o: o.asks_easy, 0.05)


def _correlation(outcome: Outcome) -> float:
    return rank_correlation([outcome.asks_by_family[f] for f in FAMILIES], [FAMILIES[f].hard_share for f in FAMILIES])


def _follows_need(outcomes: Outcomes) -> Verdict:
    """Rank correlation of requests with the share of hard questions over the families, on average over seeds."""
    correlation = _average(outcomes, "eq5", _correlation)
    if correlation >= 0.6:
        return "reproduced"
    return "opposite" if correlation <= -0.6 else "not reproduced"


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: Pearson's correlation of the ranks, ties sharing their mean rank; 0 where one side is constant."""

    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) - 1) / 2 for x in values]

    x, y = ranks(a), ranks(b)
    mx, my = mean(x), mean(y)
    spread = (sum((v - mx) ** 2 for v in x) * sum((v - my) ** 2 for v in y)) ** 0.5
    return sum((v - mx) * (w - my) for v, w in zip(x, y, strict=True)) / spread if spread else 0.0


CLAIMS: dict[str, Claim] = {
    c.name: c
    for c in (
        Claim(
            name="penalty",
            source="Fig. 3a",
            statement="Without a penalty every rollout ends up asking, with a constant one none; Eq. 5 stays between.",
            paper="requests from 0.5: none to 1.0 by step 35; constant to 0 by step 35 to 80; Eq. 5 about 0.7",
            variants=("none", "constant", "eq5"),
            shown=_end,
            unit="requests at the end",
            judge=_collapse,
            rule="reproduced if none ends at 0.9 or more, constant at 0.1 or less and Eq. 5 from 0.15 to 0.85; "
            "opposite if constant ends 0.5 above none",
        ),
        Claim(
            name="theta",
            source="Fig. 8",
            statement="A higher threshold makes the model ask more.",
            paper="requests at the end: 0.15 about 0.5; 0.2 and 0.25 about 0.7; 0.3 to 1.0",
            variants=("theta 0.05", "eq5", "theta 0.5", "theta 0.8"),
            shown=_end,
            unit="requests at the end",
            judge=lambda o: _in_order(o, ("theta 0.05", "eq5", "theta 0.5", "theta 0.8"), _end, 0.05),
            rule="reproduced if requests rise by 0.05 from the first to the last and nowhere fall by as much",
        ),
        Claim(
            name="weight",
            source="Fig. 8 in spirit",
            statement="What is paid matters less than who pays: from 0.02 to 0.4 the gap between hard and easy stays.",
            paper="not measured in the paper",
            variants=("weight 0.02", "eq5", "weight 0.4"),
            shown=_gap,
            unit="requests on hard minus on easy",
            judge=_weight_matters_little,
            rule="reproduced if every gap is 0.3 or more and they differ by 0.15 at most; opposite if they differ by 0.5",
        ),
        Claim(
            name="released",
            source="Eq. 5 against the released code",
            statement="The released penalty never favours asking, so it separates hard from easy less than Eq. 5.",
            paper="not compared in the paper",
            variants=("released", "eq5"),
            shown=_gap,
            unit="requests on hard minus on easy",
            judge=lambda o: _in_order(o, ("released", "eq5"), _gap, 0.05),
            rule="reproduced if the gap is 0.05 larger with Eq. 5, opposite if it is 0.05 smaller",
        ),
        Claim(
            name="preference",
            source="Fig. 7",
            statement="From a model that never asks, training ends in direct answers; from one that does, requests stay alive.",
            paper="the agent prompt keeps requests alive, both custom prompts end in direct answers",
            variants=("eq5", "reluctant"),
            shown=_end,
            unit="requests at the end",
            judge=_never_asks,
            rule="reproduced if requests end at 0.15 or more from the base model and at 0.1 or less from the reluctant one",
            settings=("paper",),
        ),
        Claim(
            name="sft",
            source="Table 8",
            statement="Supervised fine-tuning asks more on easy questions than reinforcement learning does.",
            paper="RL / SFT: ChartQA 79/95, OCRBench 62/64, DocVQA 7/14, MME 31/39, RealWorldQA 30/62, POPE 10/38 %",
            variants=("eq5", "sft"),
            shown=lambda o: o.asks_easy,
            unit="requests on easy",
            judge=_sft_asks_more,
            rule="reproduced if fine-tuning asks on 0.05 more of the easy questions and Eq. 5 still asks at all (0.15 "
            "of its last rollouts)",
        ),
        Claim(
            name="cold_start",
            source="Table 9",
            statement="A cold start by supervised fine-tuning ends below none.",
            paper="the average falls with 2K and falls further with 8K demonstrations",
            variants=("long cold start", "cold start", "eq5"),
            shown=_accuracy,
            unit="accuracy",
            judge=lambda o: _in_order(o, ("long cold start", "cold start", "eq5"), _accuracy, 0.02),
            rule="reproduced if accuracy rises by 0.02 from the long cold start over the short one to none, opposite "
            "if it falls by as much",
            settings=("paper",),
        ),
        Claim(
            name="families",
            source="Fig. 5",
            statement="Families ask as often as they need to.",
            paper="ChartQA 79, OCRBench 62, MME 31, DocVQA 7 %",
            variants=("eq5",),
            shown=_correlation,
            unit="rank correlation of requests with need",
            judge=_follows_need,
            rule="reproduced if the rank correlation of requests with the share of hard questions over the six "
            "families is 0.6 or more, opposite at -0.6",
        ),
        Claim(
            name="general",
            source="Table 6 in spirit",
            statement="Reinforcement learning at full resolution lifts accuracy.",
            paper="the general model is above Qwen2.5-VL-7B on average (Table 1)",
            variants=("base, full", "general"),
            shown=_accuracy,
            unit="accuracy",
            judge=lambda o: _in_order(o, ("base, full", "general"), _accuracy, 0.02),
            rule="reproduced if accuracy rises by 0.02, opposite if it falls by as much",
            settings=("paper",),
        ),
    )
}
