"""What a claim about training is: runs to compare, what is shown of them, and a rule that judges what came out.

Pure: numbers in, verdicts out. `recipes.paper_claims` has those of VisionThink's paper, `recipes.further_claims` those about
looks, credit, budgets and gates; `recipes.reproduce` makes the numbers. The rules of a verdict are fixed before a run is looked
at; each says what would reproduce a claim and what would be its opposite. Seeds are averaged; the questions are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Literal

WINDOW = 20
SETTLED = 0.05
"""A run has settled if the request ratio of its last 20 steps is less than 0.05 away from that of the 20 steps before."""

Verdict = Literal["reproduced", "not reproduced", "opposite"]
Start = Literal["base", "reluctant", "revived", "sft", "sft-long", "trials"]
"""What a run starts from (see `recipes.starts`)."""
How = Literal["train", "evaluate", "calibrate"]
"""Trained and evaluated; evaluated as it starts; a gate on it calibrated many times (see `recipes.claim_runs`)."""


@dataclass(frozen=True)
class Variant:
    """One run: changes to the settings of its setting's recipe, what it starts from, and what is done."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    start: Start = "base"
    how: How = "train"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one seed of a variant came to. Shares, ratios and accuracies in [0, 1]."""

    requests: tuple[float, ...] = ()
    """Request ratio of every training step; empty where nothing was trained."""

    @property
    def change(self) -> float | None:
        """Request ratio of the last 20 steps minus that of the 20 before, or halves of a shorter run; None if not trained."""
        n = min(WINDOW, len(self.requests) // 2)
        return mean(self.requests[-n:]) - mean(self.requests[-2 * n : -n]) if n else None


@dataclass(frozen=True, kw_only=True)
class Evaluated(Outcome):
    """An evaluation on unseen questions, at temperature 0, and what training logged."""

    asks: float
    asks_easy: float
    asks_hard: float
    asks_by_family: Mapping[str, float]
    accuracy: float
    cost: float
    """Visual tokens of every view, relative to always-full."""
    quadrants: float | None = None
    """Share of the looks that show a quarter of the image; None where whole images alone can be asked for, or nobody looked."""
    covered: float | None = None
    """Share of the episodes that looked in which the views show all of the evidence; None as before."""
    costs: tuple[float, ...] = ()
    """The same as `cost`, for every training step."""
    prices: tuple[float, ...] = ()
    """Lambda of every training step; empty without a budget."""

    @property
    def at_the_end(self) -> float:
        """Request ratio of the last ten steps; of the evaluation where nothing was trained."""
        return mean(self.requests[-10:]) if self.requests else self.asks

    @property
    def cost_at_the_end(self) -> float:
        """Cost of the last 20 steps; of the evaluation where nothing was trained."""
        return mean(self.costs[-WINDOW:]) if self.costs else self.cost

    @property
    def price_at_the_end(self) -> float:
        """Lambda of the last 20 steps; 0 without a budget."""
        return mean(self.prices[-WINDOW:]) if self.prices else 0.0

    @property
    def gap(self) -> float:
        return self.asks_hard - self.asks_easy

    @property
    def from_collapse(self) -> float:
        """How far the requests of any ten steps in a row stayed from 0 and from 1; 0 is a run that collapsed."""
        tens = [mean(self.requests[i : i + 10]) for i in range(max(1, len(self.requests) - 9))] if self.requests else [self.asks]
        return min(min(m, 1 - m) for m in tens)


@dataclass(frozen=True, kw_only=True)
class Calibrated(Outcome):
    """A gate, calibrated many times on questions drawn out of a pool and held against the rest (`evals.gate_draws`)."""

    harmful: float
    """Share of the draws in which the certified gate harms more questions than alpha."""
    harmful_tuned: float
    """Share of draws with harm above alpha where the threshold is the boldest whose harm on the sample is at most alpha, without
    a test."""
    escalated: float
    """Share of the questions that the certified gate shows in full."""
    escalated_by_coin: float
    """What a coin would have to show in full for the same harm."""


Outcomes = Mapping[str, Sequence[Any]]
"""Seeds of every variant: `Evaluated`, or `Calibrated` where it is a gate."""
Curve = Callable[[Any], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence, where it comes from with its own numbers, the runs to look at, what is shown of them and how it is judged."""

    name: str
    source: str
    statement: str
    reported: str
    """What others measured."""
    variants: tuple[str, ...]
    shown: Mapping[str, Callable[[Any], float]]
    """What is shown of each run, by its unit; what decides comes first."""
    judge: Callable[[Outcomes], Verdict]
    rule: str
    """What reproduces the claim, and what would be its opposite."""
    settings: tuple[str, ...]
    """Where it is judged (`recipes.settings`)."""
    curve: Curve = lambda outcome: outcome.requests
    """What is drawn over the steps."""
    curve_label: str = "rollouts that ask"


def average(outcomes: Outcomes, variant: str, value: Callable[[Any], float]) -> float:
    """Over seeds."""
    return mean(value(o) for o in outcomes[variant])


def compared(difference: float, step: float) -> Verdict:
    """A difference that a claim says is positive: reproduced from `step` on, opposite from -`step` down."""
    return "reproduced" if difference >= step else "opposite" if difference <= -step else "not reproduced"
