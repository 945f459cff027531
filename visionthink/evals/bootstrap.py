"""Percentile bootstrap of a mean over examples (Efron 1979). For a difference of two runs the values are the differences per
example, so that both runs are resampled together ("paired")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2000
ENOUGH = 20
"""The least number of values for an interval. From fewer it is too narrow: that of a single value has no width at all."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean, and where the middle 95 % of its resampled values lie."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero, and comes from enough values."""
        return self.n >= ENOUGH and (self.low > 0 or self.high < 0)


def bootstrap(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval | None:
    """None for no values. The same values and seed give the same interval."""
    if not values:
        return None
    import numpy as np

    x = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = np.array([x[rng.integers(0, len(x), len(x))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean=float(x.mean()), low=float(low), high=float(high), n=len(x))
