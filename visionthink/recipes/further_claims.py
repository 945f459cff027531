"""Claims beyond VisionThink's paper: where to look, how credit is given, budgets, and a certified gate. In miniature.

Steps of accuracy are 0.02, as in `recipes.paper_claims`, but 0.01 where budgets are compared with fixed prices: both of them have
to be that far away.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

from visionthink.recipes.claim import Calibrated, Claim, Evaluated, Outcomes, Variant, Verdict, average, compared

BUDGETS: Mapping[str, float] = {"budget 0.4": 0.4, "budget 0.3": 0.3}
PRICES = ("price 1", "price 2", "price 4")
ASKS = 0.15
"""Fewer requests than this are no policy that looks: it can have learnt nothing about looking."""

VARIANTS: Mapping[str, Variant] = {
    "dtpo": Variant({"credit": "dtpo"}, start="trials"),
    "grpo": Variant({"credit": "eq3", "penalty": "released"}, start="trials"),
    "grpo, priced": Variant({"credit": "sum:price=0.1"}, start="trials"),
    "switch": Variant({"ladder": "0.0625,1", "credit": "centred:price=0.2"}),
    "rung 1/4": Variant({"ladder": "0.0625,0.25,1", "credit": "centred:price=0.2"}),
    "rung 9/16": Variant({"ladder": "0.0625,0.5625,1", "credit": "centred:price=0.2"}),
    "reluctant, forced": Variant({"credit": "branches:price=0.1", "forced": 2}, start="reluctant"),
    "reluctant, cold start": Variant(start="revived"),
    "constant, not scaled": Variant({"penalty": "constant", "trl": {"scale_rewards": "none"}}),
    "eq5, not scaled": Variant({"trl": {"scale_rewards": "none"}}),
    "centred cost": Variant({"credit": "centred:price=0.2"}),
    "scaled cost": Variant({"credit": "sum:price=0.2"}),
    **{name: Variant({"credit": "centred", "budget": f"visual={share}"}, start="trials") for name, share in BUDGETS.items()},
    **{name: Variant({"credit": f"centred:price={name.split()[1]}"}, start="trials") for name in PRICES},
    "gate": Variant(how="calibrate"),
}


def _quadrants(outcome: Evaluated) -> float:
    return outcome.quadrants or 0.0


def _covered(outcome: Evaluated) -> float:
    return outcome.covered or 0.0


def _asks(outcome: Evaluated) -> float:
    return outcome.asks


def _gap(outcome: Evaluated) -> float:
    return outcome.gap


def _accuracy(outcome: Evaluated) -> float:
    return outcome.accuracy


def _cost(outcome: Evaluated) -> float:
    return outcome.cost


# ------------------------------------------------------------------------------------------------ look


def _separates_crops(outcomes: Outcomes) -> Verdict:
    if average(outcomes, "dtpo", _asks) < ASKS:
        return "not reproduced"
    dtpo, *plain = (average(outcomes, v, _quadrants) for v in ("dtpo", "grpo", "grpo, priced"))
    return compared(dtpo - max(plain), 0.15)


def _rung_pays(outcomes: Outcomes) -> Verdict:
    """A rung pays where a policy costs 0.05 less with it and is not 0.02 less accurate."""
    if average(outcomes, "switch", _asks) < ASKS:
        return "not reproduced"

    def pays(variant: str) -> bool:
        saved, lost = (average(outcomes, "switch", v) - average(outcomes, variant, v) for v in (_cost, _accuracy))
        return saved >= 0.05 and lost < 0.02

    cheap, dear = pays("rung 1/4"), pays("rung 9/16")
    return "reproduced" if cheap and not dear else "opposite" if dear and not cheap else "not reproduced"


def _forced_revives(outcomes: Outcomes) -> Verdict:
    alone, forced, cold = (average(outcomes, v, _gap) for v in ("reluctant", "reluctant, forced", "reluctant, cold start"))
    if forced >= 0.3 and forced - alone >= 0.1 and forced - cold > -0.1:
        return "reproduced"
    return "opposite" if cold - forced >= 0.3 else "not reproduced"


LOOK = (
    Claim(
        name="crops",
        source="AdaptVision, arXiv 2512.03794, Eq. 11-15",
        statement="DTPO tells small crops from large ones; GRPO on the whole reward does not.",
        reported="97.9 % of the accuracy at 33 % of the visual tokens with DTPO, 96.7 % at 57 % with GRPO",
        variants=("dtpo", "grpo", "grpo, priced"),
        shown={
            "quadrants among looks": _quadrants,
            "looks that show the evidence": _covered,
            "requests": _asks,
            "accuracy": _accuracy,
            "cost": _cost,
        },
        judge=_separates_crops,
        rule="reproduced if quadrants are 0.15 more of the looks with DTPO than with either GRPO, and it looks in 0.15 of the "
        "episodes or more; opposite if they are 0.15 less than with one of them",
        settings=("look",),
    ),
    Claim(
        name="rungs",
        source="arithmetic",
        statement="A rung between the low view and the full one pays if it repairs a larger share of the low view's errors than "
        "its own share of the full view's cost: 1/4 of the pixels, where the base reads all easy questions, and not 9/16, where "
        "it reads badly.",
        reported="no released system has more than two levels",
        variants=("switch", "rung 1/4", "rung 9/16"),
        shown={"cost": _cost, "accuracy": _accuracy, "requests": _asks},
        judge=_rung_pays,
        rule="a rung pays if the cost falls by 0.05 against the switch from 1/16 to all, with less than 0.02 of accuracy lost; "
        "reproduced if 1/4 pays and 9/16 does not, opposite the other way round",
        settings=("tiny",),
    ),
    Claim(
        name="forced",
        source="Fig. 7 of VisionThink, taken further",
        statement="Forced members teach a model that never asks as well as a cold start.",
        reported="not compared; there, requests die out from such a model",
        variants=("reluctant", "reluctant, forced", "reluctant, cold start"),
        shown={"requests on hard minus on easy": _gap, "requests": _asks, "accuracy": _accuracy},
        judge=_forced_revives,
        rule="reproduced if the gap with forced members is 0.3 or more, 0.1 above that without, and not 0.1 below that after a "
        "cold start; opposite if it is 0.3 below that",
        settings=("paper",),
    ),
)

# ------------------------------------------------------------------------------------------------ credit

_COLLAPSED = 0.1


def _scaling_collapses(outcomes: Outcomes) -> Verdict:
    scaled, free = (
        [average(outcomes, f"{name}{how}", lambda o: o.from_collapse) for name in ("constant", "eq5")]
        for how in ("", ", not scaled")
    )
    if max(scaled) <= _COLLAPSED and min(free) > _COLLAPSED:
        return "reproduced"
    return "opposite" if max(free) <= _COLLAPSED and min(scaled) > _COLLAPSED else "not reproduced"


CREDIT = (
    Claim(
        name="normalised",
        source="a hypothesis about Fig. 3a of VisionThink",
        statement="Requests collapse because rewards are divided by their standard deviation in the group: a penalty of 0.1 is "
        "then as loud as a right answer where all are right.",
        reported="with a constant penalty requests fall to 0 by step 35 to 80",
        variants=("constant", "constant, not scaled", "eq5", "eq5, not scaled"),
        shown={
            "least distance of requests from 0 and 1 over ten steps": lambda o: o.from_collapse,
            "requests at the end": lambda o: o.at_the_end,
            "requests on hard minus on easy": _gap,
            "accuracy": _accuracy,
        },
        judge=_scaling_collapses,
        rule="reproduced if the distance is 0.1 or less for both penalties with the division and more for both without, opposite "
        "the other way round",
        settings=("paper",),
    ),
    Claim(
        name="centred",
        source="arithmetic",
        statement="A cost that is centred in the group, and not scaled, keeps its price, so that hard and easy questions are "
        "told apart better than where it is part of a reward that is scaled.",
        reported="not compared",
        variants=("centred cost", "scaled cost"),
        shown={"requests on hard minus on easy": _gap, "accuracy": _accuracy, "cost": _cost},
        judge=lambda o: compared(average(o, "centred cost", _gap) - average(o, "scaled cost", _gap), 0.05),
        rule="reproduced if the gap is 0.05 larger with the centred cost, opposite if it is 0.05 smaller",
        settings=("paper", "tiny"),
    ),
)

# ------------------------------------------------------------------------------------------------ budget


def _budget_met(outcomes: Outcomes) -> Verdict:
    """Over or under the budget counts for each seed, before they are averaged."""

    def off(cost: Callable[[Evaluated], float]) -> float:
        return max(mean(abs(cost(o) / b - 1) for o in outcomes[v]) for v, b in BUDGETS.items())

    if off(lambda o: o.cost_at_the_end) <= 0.05 and off(_cost) <= 0.08:
        return "reproduced"
    over = [average(outcomes, v, lambda o: o.cost_at_the_end) / b - 1 for v, b in BUDGETS.items()]
    return "opposite" if min(over) >= 0.25 else "not reproduced"


def best_at(points: Sequence[tuple[float, float]], cost: float) -> float:
    """Accuracy of the best of some policies, or of the best mixture of two of them, that costs no more; of the cheapest where
    each costs more.

    Args:
        points: cost and accuracy of each.
    """
    reached = [accuracy for spent, accuracy in points if spent <= cost]
    for (c, a), (d, b) in itertools.permutations(points, 2):
        if c <= cost < d:
            reached.append(a + (b - a) * (cost - c) / (d - c))
    return max(reached, default=min(points)[1])


def _above_prices(outcomes: Outcomes) -> Verdict:
    fixed = [(average(outcomes, v, _cost), average(outcomes, v, _accuracy)) for v in PRICES]
    above = [average(outcomes, v, _accuracy) - best_at(fixed, average(outcomes, v, _cost)) for v in BUDGETS]
    return "reproduced" if min(above) >= 0.01 else "opposite" if max(above) <= -0.01 else "not reproduced"


BUDGET = (
    Claim(
        name="budget_met",
        source="dual ascent on the price of a cost",
        statement="A budget of 40 % and of 30 % of always-full is spent, in training and on unseen questions.",
        reported="no system for images states one; LACONIC (arXiv 2602.14468) does for the length of texts",
        variants=tuple(BUDGETS),
        shown={
            "cost of the last 20 steps": lambda o: o.cost_at_the_end,
            "cost on unseen questions": _cost,
            "lambda of the last 20 steps": lambda o: o.price_at_the_end,
            "accuracy": _accuracy,
        },
        judge=_budget_met,
        rule="reproduced if the cost is within 5 % of either budget over the last 20 steps and within 8 % on unseen questions, "
        "distances averaged over seeds; opposite if both are overspent by 25 % in training",
        settings=("look",),
        curve=lambda o: o.costs,
        curve_label="visual tokens, share of always-full",
    ),
    Claim(
        name="budget_accuracy",
        source="dual ascent on the price of a cost",
        statement="A budget is more accurate than the best fixed price at the same cost.",
        reported="not compared",
        variants=(*BUDGETS, *PRICES),
        shown={"accuracy": _accuracy, "cost": _cost, "looks that show the evidence": _covered},
        judge=_above_prices,
        rule="reproduced if both budgets are 0.01 above the best fixed price, or mixture of two, that costs as much on unseen "
        "questions; opposite if both are 0.01 below",
        settings=("look",),
        curve=lambda o: o.costs,
        curve_label="visual tokens, share of always-full",
    ),
)

# ------------------------------------------------------------------------------------------------ gate


def _harmful(outcome: Calibrated) -> float:
    return outcome.harmful


def _harmful_tuned(outcome: Calibrated) -> float:
    return outcome.harmful_tuned


def _keeps_promise(outcomes: Outcomes) -> Verdict:
    harmful = average(outcomes, "gate", _harmful)
    return "reproduced" if harmful <= 0.1 else "opposite" if harmful >= 0.2 else "not reproduced"


def _tuning_breaks_it(outcomes: Outcomes) -> Verdict:
    harmful = average(outcomes, "gate", _harmful_tuned)
    return "reproduced" if harmful > 0.3 else "opposite" if harmful <= 0.1 else "not reproduced"


GATE = (
    Claim(
        name="gate_harm",
        source="Learn then Test, arXiv 2110.01052",
        statement="A gate that is certified on 300 questions (alpha .05, delta .1) harms more than 5 % in at most 10 % of 200 "
        "calibrations.",
        reported="6.6 % of draws in a simulation",
        variants=("gate",),
        shown={"draws with harm above alpha": _harmful, "the same, threshold without a test": _harmful_tuned},
        judge=_keeps_promise,
        rule="reproduced if it is 10 % of the draws or less, opposite from 20 % on",
        settings=("untrained",),
    ),
    Claim(
        name="gate_savings",
        source="the same",
        statement="It shows fewer questions in full than a coin of equal harm.",
        reported="62 % against 88 % in a simulation",
        variants=("gate",),
        shown={"shown in full": lambda o: o.escalated, "by a coin of equal harm": lambda o: o.escalated_by_coin},
        judge=lambda o: compared(average(o, "gate", lambda r: r.escalated_by_coin - r.escalated), 0.05),
        rule="reproduced if it is 0.05 less, opposite if it is 0.05 more",
        settings=("untrained",),
    ),
    Claim(
        name="gate_tuned",
        source="the same",
        statement="A threshold that is tuned to harm 5 % of the sample, without a test, harms more than that in over 30 % of the "
        "calibrations.",
        reported="37 to 58 % of draws in a simulation",
        variants=("gate",),
        shown={"draws with harm above alpha": _harmful_tuned},
        judge=_tuning_breaks_it,
        rule="reproduced if it is more than 30 % of the draws, opposite at 10 % or less",
        settings=("untrained",),
    ),
)

GROUPS: Mapping[str, tuple[Claim, ...]] = {"look": LOOK, "credit": CREDIT, "budget": BUDGET, "gate": GATE}
