"""The claims about training of VisionThink's paper (arXiv 2507.13348). In miniature.

Steps of accuracy are 0.02: 1.6 standard errors of a difference between two runs of 95 % on 600 questions each.
A verdict is given for each setting (`recipes.settings`). Runs that have not settled count as well; how many is shown beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from statistics import mean

from visionthink.data.synth import FAMILIES
from visionthink.recipes.claim import Claim, Evaluated, Outcomes, Variant, Verdict, average

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
    "sft": Variant(start="sft", how="evaluate"),
    "cold start": Variant(start="sft"),
    "long cold start": Variant(start="sft-long"),
    "base, full": Variant({"ladder": "1", "penalty": "none"}, how="evaluate"),
    "general": Variant({"ladder": "1", "penalty": "none"}),
}


def _end(outcome: Evaluated) -> float:
    return outcome.at_the_end


def _gap(outcome: Evaluated) -> float:
    return outcome.gap


def _accuracy(outcome: Evaluated) -> float:
    return outcome.accuracy


def _in_order(outcomes: Outcomes, variants: Sequence[str], value: Callable[[Evaluated], float], step: float) -> Verdict:
    """Whether averages rise along `variants` by `step` or more from the first to the last, and nowhere fall by as much."""
    averages = [average(outcomes, v, value) for v in variants]
    rises = [b - a for a, b in itertools.pairwise(averages)]
    if averages[-1] - averages[0] >= step and all(r > -step for r in rises):
        return "reproduced"
    return "opposite" if averages[0] - averages[-1] >= step else "not reproduced"


def _collapse(outcomes: Outcomes) -> Verdict:
    none, constant, eq5 = (average(outcomes, v, _end) for v in ("none", "constant", "eq5"))
    if none >= 0.9 and constant <= 0.1 and 0.15 <= eq5 <= 0.85:
        return "reproduced"
    return "opposite" if constant - none >= 0.5 else "not reproduced"


def _never_asks(outcomes: Outcomes) -> Verdict:
    """`eq5` from the base model keeps asking, from the reluctant one it does not."""
    kept, lost = average(outcomes, "eq5", _end), average(outcomes, "reluctant", _end)
    if kept >= 0.15 and lost <= 0.1:
        return "reproduced"
    return "opposite" if lost - kept >= 0.15 else "not reproduced"


def _weight_matters_little(outcomes: Outcomes) -> Verdict:
    """Every weight separates hard from easy, and about as well; the opposite is that one does and another does not."""
    gaps = [average(outcomes, v, _gap) for v in ("weight 0.02", "eq5", "weight 0.4")]
    if min(gaps) >= 0.3 and max(gaps) - min(gaps) <= 0.15:
        return "reproduced"
    return "opposite" if max(gaps) - min(gaps) >= 0.5 else "not reproduced"


def _sft_asks_more(outcomes: Outcomes) -> Verdict:
    """A model that has stopped asking altogether is not a better one."""
    if average(outcomes, "eq5", _end) < 0.15:
        return "not reproduced"
    return _in_order(outcomes, ("eq5", "sft"), lambda o: o.asks_easy, 0.05)


def _correlation(outcome: Evaluated) -> float:
    return rank_correlation([outcome.asks_by_family[f] for f in FAMILIES], [FAMILIES[f].hard_share for f in FAMILIES])


def _follows_need(outcomes: Outcomes) -> Verdict:
    """Rank correlation of requests with the share of hard questions over the families, on average over seeds."""
    correlation = average(outcomes, "eq5", _correlation)
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


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="penalty",
        source="Fig. 3a",
        statement="Without a penalty every rollout ends up asking, with a constant one none; Eq. 5 stays between.",
        reported="requests from 0.5: none to 1.0 by step 35; constant to 0 by step 35 to 80; Eq. 5 about 0.7",
        variants=("none", "constant", "eq5"),
        shown={"requests at the end": _end},
        judge=_collapse,
        rule="reproduced if none ends at 0.9 or more, constant at 0.1 or less and Eq. 5 from 0.15 to 0.85; "
        "opposite if constant ends 0.5 above none",
        settings=("paper", "tiny"),
    ),
    Claim(
        name="theta",
        source="Fig. 8",
        statement="A higher threshold makes the model ask more.",
        reported="requests at the end: 0.15 about 0.5; 0.2 and 0.25 about 0.7; 0.3 to 1.0",
        variants=("theta 0.05", "eq5", "theta 0.5", "theta 0.8"),
        shown={"requests at the end": _end},
        judge=lambda o: _in_order(o, ("theta 0.05", "eq5", "theta 0.5", "theta 0.8"), _end, 0.05),
        rule="reproduced if requests rise by 0.05 from the first to the last and nowhere fall by as much",
        settings=("paper", "tiny"),
    ),
    Claim(
        name="weight",
        source="Fig. 8 in spirit",
        statement="What is paid matters less than who pays: from 0.02 to 0.4 the gap between hard and easy stays.",
        reported="not measured in the paper",
        variants=("weight 0.02", "eq5", "weight 0.4"),
        shown={"requests on hard minus on easy": _gap},
        judge=_weight_matters_little,
        rule="reproduced if every gap is 0.3 or more and they differ by 0.15 at most; opposite if they differ by 0.5",
        settings=("paper", "tiny"),
    ),
    Claim(
        name="released",
        source="Eq. 5 against the released code",
        statement="The released penalty never favours asking, so it separates hard from easy less than Eq. 5.",
        reported="not compared in the paper",
        variants=("released", "eq5"),
        shown={"requests on hard minus on easy": _gap},
        judge=lambda o: _in_order(o, ("released", "eq5"), _gap, 0.05),
        rule="reproduced if the gap is 0.05 larger with Eq. 5, opposite if it is 0.05 smaller",
        settings=("paper", "tiny"),
    ),
    Claim(
        name="preference",
        source="Fig. 7",
        statement="From a model that never asks, training ends in direct answers; from one that does, requests stay alive.",
        reported="the agent prompt keeps requests alive, both custom prompts end in direct answers",
        variants=("eq5", "reluctant"),
        shown={"requests at the end": _end},
        judge=_never_asks,
        rule="reproduced if requests end at 0.15 or more from the base model and at 0.1 or less from the reluctant one",
        settings=("paper",),
    ),
    Claim(
        name="sft",
        source="Table 8",
        statement="Supervised fine-tuning asks more on easy questions than reinforcement learning does.",
        reported="RL / SFT: ChartQA 79/95, OCRBench 62/64, DocVQA 7/14, MME 31/39, RealWorldQA 30/62, POPE 10/38 %",
        variants=("eq5", "sft"),
        shown={"requests on easy": lambda o: o.asks_easy},
        judge=_sft_asks_more,
        rule="reproduced if fine-tuning asks on 0.05 more of the easy questions and Eq. 5 still asks at all (0.15 "
        "of its last rollouts)",
        settings=("paper", "tiny"),
    ),
    Claim(
        name="cold_start",
        source="Table 9",
        statement="A cold start by supervised fine-tuning ends below none.",
        reported="the average falls with 2K and falls further with 8K demonstrations",
        variants=("long cold start", "cold start", "eq5"),
        shown={"accuracy": _accuracy},
        judge=lambda o: _in_order(o, ("long cold start", "cold start", "eq5"), _accuracy, 0.02),
        rule="reproduced if accuracy rises by 0.02 from the long cold start over the short one to none, opposite "
        "if it falls by as much",
        settings=("paper",),
    ),
    Claim(
        name="families",
        source="Fig. 5",
        statement="Families ask as often as they need to.",
        reported="ChartQA 79, OCRBench 62, MME 31, DocVQA 7 %",
        variants=("eq5",),
        shown={"rank correlation of requests with need": _correlation},
        judge=_follows_need,
        rule="reproduced if the rank correlation of requests with the share of hard questions over the six "
        "families is 0.6 or more, opposite at -0.6",
        settings=("paper", "tiny"),
    ),
    Claim(
        name="general",
        source="Table 6 in spirit",
        statement="Reinforcement learning at full resolution lifts accuracy.",
        reported="the general model is above Qwen2.5-VL-7B on average (Table 1)",
        variants=("base, full", "general"),
        shown={"accuracy": _accuracy},
        judge=lambda o: _in_order(o, ("base, full", "general"), _accuracy, 0.02),
        rule="reproduced if accuracy rises by 0.02, opposite if it falls by as much",
        settings=("paper",),
    ),
)
