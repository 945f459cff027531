"""Random mixes of always-low and always-full that spend what a run spent: three ways to choose how often the full view is shown.

Pure arithmetic over families of examples, for runs of ours and for tables of papers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """What always-low and always-full get right in a family and what they cost, and what the run spent there: sums over its
    examples, or means where every family counts the same."""

    right_low: float
    right_full: float
    cost_low: float
    cost_full: float
    spent: float

    @property
    def gain(self) -> float:
        """What the full view adds."""
        return self.right_full - self.right_low

    @property
    def extra(self) -> float:
        """What it costs more than the low one."""
        return self.cost_full - self.cost_low

    def mixed(self, rate: float) -> float:
        """What a mix with this share of full views is expected to get right."""
        return self.right_low + rate * self.gain


Rates = Callable[[Sequence[Family]], list[float]]
"""Share of full views in each family."""


def mix_share(low: float, full: float, spent: float) -> float:
    """Share of full views with which a random mix of low and full spends as much; 1 where both cost the same."""
    return min(1.0, max(0.0, (spent - low) / (full - low))) if full > low else 1.0


def one_rate(families: Sequence[Family]) -> list[float]:
    """One rate for all families: this mix knows nothing of an example."""
    costs = (sum(getattr(f, name) for f in families) for name in ("cost_low", "cost_full", "spent"))
    return [mix_share(*costs)] * len(families)


def own_rates(families: Sequence[Family]) -> list[float]:
    """For each family, the share that spends what the run spent there. Such a mix knows for which families the run asks."""
    return [mix_share(f.cost_low, f.cost_full, f.spent) for f in families]


def best_rates(families: Sequence[Family]) -> list[float]:
    """The shares that get most right for at most what the run spent in all: families in the order of what their full views gain
    for a token, until the tokens are spent, those without a gain left out. The mix knows everything of a family and nothing of an
    example. The gains are those of the same examples, which favours the mix."""
    left = sum(f.spent - f.cost_low for f in families)
    rates = [0.0] * len(families)
    worth = {i: f.gain / f.extra if f.extra > 0 else float("inf") for i, f in enumerate(families) if f.gain > 0}
    for i in sorted(worth, key=worth.__getitem__, reverse=True):
        extra = families[i].extra
        rates[i] = 1.0 if extra <= 0 else min(1.0, max(0.0, left / extra))
        left -= rates[i] * extra
    return rates
