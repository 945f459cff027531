"""Does a certificate hold what it promises? Many calibrations out of one pool of judged questions, each held against the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from visionthink.evals import certificate
from visionthink.evals.gate_curve import GateLanes, auroc

RULES = ("certified", "conformal", "tuned")
"""How a threshold is chosen, by the functions of `certificate`."""


@dataclass(frozen=True, kw_only=True)
class RuleOutcome:
    """What one way of choosing a threshold came to over all draws; a draw without a certificate is always-full, without harm."""

    violated: float
    """Share of draws in which the harm on the rest of the pool is above alpha."""
    uncertified: float
    """Share of draws that certify no threshold: there the full view is served."""
    harm: float
    """Mean over draws, on the rest, as the next ones."""
    escalated: float
    accuracy: float
    cost: float
    coin_escalated: float
    """What random escalation would have to escalate for the same harm."""


@dataclass(frozen=True, kw_only=True)
class DrawsOutcome:
    """All draws."""

    pool: int
    n: int
    draws: int
    alpha: float
    delta: float
    score: str
    low: float
    """Accuracy of always-low on the pool, as `full`."""
    full: float
    auroc: float | None
    """Area under the ROC curve with which the score tells answers that would harm from others."""
    rules: Mapping[str, RuleOutcome]
    p_violated: float
    """Probability of at least as many violations by certified thresholds if each draw had them with probability delta: a small
    one would say that the certificate does not hold."""

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def draws(
    pool: GateLanes,
    score: str,
    *,
    n: int = 300,
    count: int = 200,
    tune: int = 500,
    alpha: float = 0.05,
    delta: float = 0.1,
    seed: int = 0,
) -> DrawsOutcome:
    """Calibrate `count` times on `n` questions of a pool. The thresholds are quantiles over `tune` questions of it, which take no
    further part; what is left beside the n of a draw stands for all questions.

    Raises:
        ValueError: the pool is too small.
    """
    if len(pool.ids) < tune + 2 * n:
        raise ValueError(f"a pool of {len(pool.ids)} questions for {tune} to tune on and draws of {n}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(pool.ids))
    tuning, pool = pool.take(order[:tune]), pool.take(order[tune:])
    thresholds = np.array([-np.inf, *certificate.grid(tuning.scores[np.isfinite(tuning.scores)])])
    harm = np.stack([pool.harm(t) for t in thresholds])  # [thresholds, questions]
    kept = pool.scores[None] <= thresholds[:, None]
    right = np.where(kept, pool.kept_right, pool.escalated_right)
    cost = np.where(kept, pool.kept_cost, pool.escalated_cost)
    found: dict[str, list[tuple[float, ...]]] = {rule: [] for rule in RULES}
    for _ in range(count):
        part = np.zeros(len(pool.ids), dtype=bool)
        part[rng.choice(len(part), n, replace=False)] = True
        harmed = harm[:, part].sum(1).tolist()
        chosen = {
            "certified": certificate.certified(harmed, n, alpha, delta),
            "conformal": certificate.conformal(harmed, n, alpha),
            "tuned": certificate.tuned(harmed, n, alpha),
        }
        rest, keeping = ~part, pool.kept_harm[~part].mean()
        for rule, place in chosen.items():
            at = 0 if place is None else place
            risk = 0.0 if place is None else harm[at, rest].mean()
            spent = cost[at, rest].sum() / pool.full_cost[rest].sum()
            coin = 1 - min(1.0, risk / keeping) if keeping else 0.0
            found[rule].append((risk > alpha, place is None, risk, (~kept[at, rest]).mean(), right[at, rest].mean(), spent, coin))
    rules = {
        rule: RuleOutcome(**dict(zip(RuleOutcome.__annotations__, map(float, np.mean(each, axis=0)), strict=True)))
        for rule, each in found.items()
    }
    from scipy.stats import binom

    violations = sum(bool(one[0]) for one in found["certified"])
    return DrawsOutcome(
        pool=len(pool.ids),
        n=n,
        draws=count,
        alpha=alpha,
        delta=delta,
        score=score,
        low=float(pool.kept_right.mean()),
        full=float(pool.full_right.mean()),
        auroc=auroc(pool.scores, pool.kept_harm),
        rules=rules,
        p_violated=float(binom.sf(violations - 1, count, delta)),
    )
