"""Exact binomial certificates: printed numbers, and an invented population in which the promise can be checked."""

from __future__ import annotations

import numpy as np
import pytest

from visionthink.evals.certificate import (
    RULES,
    certified,
    conformal,
    grid,
    harm_bound,
    least_questions,
    most_harmed,
    p_value,
    tuned,
)
from visionthink.evals.gate_curve import GateLanes
from visionthink.evals.gate_draws import draws

LARGEST = {
    0.05: {100: 1, 200: 5, 300: 9, 500: 18, 1000: 40, 2000: 87},
    0.02: {100: None, 200: 1, 300: 2, 500: 5, 1000: 13},
    0.01: {200: None, 300: 0, 500: 1, 1000: 5},
}


@pytest.mark.parametrize("alpha", LARGEST)
def test_the_largest_number_of_harmed_questions(alpha):
    assert {n: most_harmed(n, alpha, 0.1) for n in LARGEST[alpha]} == LARGEST[alpha]


def test_the_smallest_sample():
    assert [least_questions(alpha, 0.1) for alpha in (0.05, 0.02, 0.01)] == [45, 114, 230]
    assert least_questions(1e-9, 0.1) == 2302585092 and least_questions(0.5, 0.25) == 2 and least_questions(0.9, 0.9) == 1
    assert [RULES["crc"].least(alpha, 0.1) for alpha in (0.05, 0.01)] == [19, 99]
    for rule in RULES.values():
        n = rule.least(0.05, 0.1)
        assert rule.choose([0], n, 0.05, 0.1) == 0 and rule.choose([0], n - 1, 0.05, 0.1) is None


def test_bounds():
    assert [round(harm_bound(k, 300, 0.1), 4) for k in (0, 9, 10)] == [0.0076, 0.0469, 0.0509]
    assert [round(p_value(k, 300, 0.05), 3) for k in (9, 10)] == [0.065, 0.112]
    assert harm_bound(300, 300, 0.1) == 1.0
    assert all((harm_bound(k, 300, 0.1) <= 0.05) == (p_value(k, 300, 0.05) <= 0.1) for k in range(301))


def test_a_sequence_ends_at_its_first_failure():
    """What would pass behind it is not looked at."""
    assert certified([0, 1, 9, 10, 9], 300, 0.05, 0.1) == 2
    assert certified([10, 0], 300, 0.05, 0.1) is None and certified([0, 0], 300, 0.05, 0.1) == 1
    assert conformal([0, 14, 15], 300, 0.05) == 1
    assert tuned([0, 16, 15], 300, 0.05) == 2 and tuned([16], 300, 0.05) is None


def population(rng, n, *, restart):
    """A third of the questions is hard: the low view is right for 25 % of them and the full one for 80 %. The score is noisy.
    Both views in one context now and then change a right answer."""
    hard = rng.random(n) < 0.35
    low = rng.random(n) < np.where(hard, 0.25, 0.93)
    full = rng.random(n) < np.where(hard, 0.80, 0.94)
    same = rng.random(n) < 0.9
    full = np.where(~hard & same, low | full, full)
    both = np.where(rng.random(n) < 0.97, full, ~full)
    scores = np.where(hard, rng.gamma(4, 0.35, n), rng.gamma(1.2, 0.35, n))
    escalated = full if restart else both
    return GateLanes(
        ids=tuple(map(str, range(n))),
        families=(None,) * n,
        scores=scores,
        kept_right=low,
        escalated_right=escalated,
        full_right=full,
        kept_harm=full & ~low,
        escalated_harm=full & ~escalated,
        judged=np.ones(n, bool),
        kept_cost=np.full(n, 0.25),
        escalated_cost=np.full(n, 1.25),
        full_cost=np.ones(n),
    )


def test_a_worked_example():
    """300 questions, seed 7. At 40 % kept the threshold is certified, at 45 % no longer; both views in one context harm 10 of
    them though everything is escalated, and nothing is certified."""
    lanes = population(np.random.default_rng(7), 300, restart=True)
    assert round(float(lanes.full_right.mean()), 3) == 0.927
    thresholds = [float(np.quantile(lanes.scores, q)) for q in (0.2, 0.3, 0.35, 0.4, 0.45)]
    harmed = [int(lanes.harm(t).sum()) for t in thresholds]
    assert harmed == [1, 1, 3, 7, 10]
    assert [round(harm_bound(k, 300, 0.1), 3) for k in harmed] == [0.013, 0.013, 0.022, 0.039, 0.051]
    assert certified(harmed, 300, 0.05, 0.1) == 3
    chosen = lanes.at(thresholds[3])
    assert (round(chosen.threshold, 3), round(chosen.escalated, 2), round(chosen.cost, 2)) == (0.405, 0.6, 0.85)
    assert round(chosen.accuracy, 3) == 0.903
    both = population(np.random.default_rng(7), 300, restart=False)
    assert both.harm(-np.inf).sum() == 10 and certified([10], 300, 0.05, 0.1) is None


def test_the_promise_holds_in_an_invented_population():
    """4 % to 9 % of samples have a threshold that harms more than 5 %, of 10 % that are allowed; by conformal risk control and
    without a test about four in ten have. The gate escalates far less than a coin that harms as much."""
    pool = population(np.random.default_rng(0), 40_000, restart=True)
    found = draws(pool, "hmax", count=1000)
    by = found.rules
    assert 0.04 <= by["certified"].violated <= 0.09 and found.p_violated > 0.5
    assert 0.3 <= by["conformal"].violated <= by["tuned"].violated <= 0.6
    assert by["certified"].harm == pytest.approx(0.031, abs=0.002)
    assert by["certified"].escalated == pytest.approx(0.62, abs=0.02)
    assert by["certified"].coin_escalated == pytest.approx(0.88, abs=0.02)
    assert by["certified"].cost == pytest.approx(0.25 + by["certified"].escalated, abs=1e-9)
    larger = draws(pool, "hmax", n=1000, count=500).rules["certified"]
    assert larger.violated <= 0.075 and larger.escalated == pytest.approx(0.55, abs=0.02)


def test_both_views_in_one_context_are_often_not_certified():
    pool = population(np.random.default_rng(0), 40_000, restart=False)
    assert pool.harm(-np.inf).mean() == pytest.approx(0.028, abs=0.003)
    by = draws(pool, "hmax", count=1000).rules["certified"]
    assert 0.26 <= by.uncertified <= 0.38 and by.violated <= 0.06


def test_the_grid():
    assert grid([3.0, 1.0, 2.0]) == pytest.approx(tuple(np.linspace(1, 3, 40)))
    assert grid([1.0, 1.0]) == (1.0,)
    with pytest.raises(ValueError, match="a pool of 1000 questions for 500 to tune on and draws of 300"):
        draws(population(np.random.default_rng(0), 1000, restart=True), "h1")
