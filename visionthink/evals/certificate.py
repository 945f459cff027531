"""How much harm a rule may do, tested on a sample: exact binomial bounds, and thresholds in a sequence fixed beforehand.

The harm of one question is 0 or 1. A rule that was fixed before the sample was looked at harms n questions k times; that its risk
is above alpha is rejected at level delta where P(Bin(n, alpha) <= k) <= delta, which is where the one-sided bound of Clopper and
Pearson (1934) is at most alpha. Of many thresholds, from safe to bold, each is tested at the full level as long as none has
failed (fixed-sequence testing; Learn then Test, arXiv 2110.01052): so the risk of the one that is taken is above alpha in at most
a share delta of all samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from visionthink.policies.gate import Method

MOST_THRESHOLDS = 40
"""The most thresholds that a grid has."""


def harm_bound(k: int, n: int, delta: float) -> float:
    """The largest risk that n questions with k harmed do not reject at level delta."""
    from scipy.stats import beta

    return 1.0 if k >= n else float(beta.ppf(1 - delta, k + 1, n - k))


def p_value(k: int, n: int, alpha: float) -> float:
    """Probability of at most k harmed questions out of n at risk alpha."""
    from scipy.stats import binom

    return float(binom.cdf(k, n, alpha))


def most_harmed(n: int, alpha: float, delta: float) -> int | None:
    """The largest number of harmed questions out of n that is certified; None where not even 0 is."""
    certified = [k for k in range(int(alpha * n) + 1) if p_value(k, n, alpha) <= delta]
    return certified[-1] if certified else None


def least_questions(alpha: float, delta: float) -> int:
    """The smallest sample that certifies anything: none of its questions must be harmed."""
    return max(1, math.ceil(math.log(delta) / math.log1p(-alpha) - 1e-9))


def certified(harmed: Sequence[int], n: int, alpha: float, delta: float) -> int | None:
    """The place of the last threshold before the first that fails its test; None where the first does.

    Args:
        harmed: questions out of n that each threshold harms, from safe to bold.
    """
    return _before_first_failure([p_value(k, n, alpha) <= delta for k in harmed])


def conformal(harmed: Sequence[int], n: int, alpha: float) -> int | None:
    """The same choice as `certified` makes, by conformal risk control (arXiv 2208.02814): the risk is at most
    alpha on average over samples, for harm that only grows from safe to bold. In a third of all samples and more it is above."""
    return _before_first_failure([(k + 1) / (n + 1) <= alpha for k in harmed])


def tuned(harmed: Sequence[int], n: int, alpha: float) -> int | None:
    """The boldest threshold whose share of harmed questions is at most alpha: without a test, nothing is promised."""
    return max((i for i, k in enumerate(harmed) if k / n <= alpha), default=None)


def grid(scores: Sequence[float]) -> tuple[float, ...]:
    """Thresholds from safe to bold: quantiles of finite scores, which must not be those of the sample that they are tested on."""
    import numpy as np

    return tuple(map(float, np.unique(np.quantile(scores, np.linspace(0, 1, MOST_THRESHOLDS)))))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A way to choose a threshold that promises something."""

    least: Callable[[float, float], int]
    """The smallest sample that certifies anything, by alpha and delta."""
    choose: Callable[[Sequence[int], int, float, float], int | None]
    """The function that chooses the threshold, with the arguments of `certified`."""


RULES: Mapping[Method, Rule] = {
    "fixed-sequence": Rule(least=least_questions, choose=certified),
    "crc": Rule(
        least=lambda alpha, delta: max(1, math.ceil(1 / alpha - 1 - 1e-9)),
        choose=lambda harmed, n, alpha, delta: conformal(harmed, n, alpha),
    ),
}
"""The rules by the name of the method; `crc` has no delta."""


def _before_first_failure(passed: Sequence[bool]) -> int | None:
    failed = passed.index(False) if False in passed else len(passed)
    return failed - 1 if failed else None
