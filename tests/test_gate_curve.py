"""A gate on a score at any threshold, from the runs of its two lanes, by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from episodes import FULL, scored

from visionthink.errors import DataError
from visionthink.evals.gate_curve import GateLanes, GatePoint, auroc


def with_score(said, value):
    last = dataclasses.replace(said.transcript.turns[-1], scores={"nllmax": value})
    return dataclasses.replace(said, transcript=dataclasses.replace(said.transcript, turns=(last,)))


#      a: needs the full view   b: low suffices   c: hopeless   d: the full view damages
LOW = [
    with_score(scored("a", False, 25), 2.0),
    with_score(scored("b", True, 25), 0.1),
    with_score(scored("c", False, 25), 1.0),
    with_score(scored("d", True, 25), 0.5),
]
LANES = GateLanes.of(LOW, FULL, "nllmax")


def test_a_gate_at_each_threshold():
    """Low views take 25 of 100 tokens, and whoever is escalated pays for both."""
    everything = GatePoint(threshold=-np.inf, n=4, escalated=1.0, accuracy=0.5, cost=1.25, harm=0.0, won_back=0.0)
    assert LANES.curve() == [
        everything,
        dataclasses.replace(everything, threshold=0.1, escalated=0.75, cost=1.0),
        dataclasses.replace(everything, threshold=0.5, escalated=0.5, accuracy=0.75, cost=0.75, won_back=0.25),
        dataclasses.replace(everything, threshold=1.0, escalated=0.25, accuracy=0.75, cost=0.5, won_back=0.25),
        dataclasses.replace(everything, threshold=2.0, escalated=0.0, accuracy=0.5, cost=0.25, harm=0.25, won_back=0.25),
    ]


def test_what_a_gate_gets_for_a_given_cost():
    assert LANES.at_cost(0.5) == 0.75 and LANES.at_cost(0.25) == 0.5
    # half of what repairs the least sure one: it is repaired with probability 1/2
    assert LANES.at_cost(0.375) == pytest.approx(0.625)
    assert LANES.correct_at_cost(0.375) == {"a": 0.5, "b": 1.0, "c": 0.0, "d": 1.0}
    assert LANES.at_cost(0.0) == 0.5 and LANES.at_cost(9.0) == 0.5


def test_equal_scores_share_what_is_left():
    tied = GateLanes.of([with_score(said, 1.0) for said in LOW], FULL, "nllmax")
    assert tied.correct_at_cost(0.25 + 0.5) == {"a": 0.5, "b": 1.0, "c": 0.0, "d": 0.5}


def test_both_views_in_one_context_may_harm_though_all_is_escalated():
    more = [scored("a", False, 25, 100), scored("b", True, 25, 100), scored("c", True, 25, 100), scored("d", True, 25, 100)]
    lanes = GateLanes.of(LOW, FULL, "nllmax", more)
    first = lanes.at(-np.inf)
    assert (first.harm, first.won_back, first.accuracy, first.cost) == (0.25, 0.5, 0.75, 1.25)


def test_what_could_not_be_judged_counts_as_harm():
    low = [with_score(scored("a", None, 25), 0.0), with_score(scored("c", None, 25), 0.0), with_score(scored("b", True, 25), 0.0)]
    lanes = GateLanes.of(low, [FULL[0], FULL[2], scored("b", None, 100)], "nllmax")
    assert lanes.harm(1.0).tolist() == [True, False, False]  # a may be wrong; c is wrong in full as well; b is right
    assert lanes.judged.tolist() == [False, False, False]
    assert lanes.harm(-np.inf).tolist() == [False, False, False]


def test_an_answer_without_a_score_is_never_kept():
    low = [with_score(scored("a", False, 25), 0.3), scored("b", True, 25)]
    lanes = GateLanes.of(low, FULL, "nllmax")
    assert lanes.at(1e9).escalated == 0.5
    unknown = GateLanes.of([low[0], with_score(scored("b", True, 25), math.nan)], FULL, "nllmax")
    assert unknown.scores.tolist() == [0.3, math.inf]
    with pytest.raises(DataError, match="a gate on hmax: no answer has this score"):
        GateLanes.of(low, FULL, "hmax")
    with pytest.raises(DataError, match="no example in common"):
        GateLanes.of([with_score(scored("z", True, 25), 1.0)], FULL, "nllmax")


def test_where_the_low_view_is_the_full_one_nothing_is_shown_again():
    low = [with_score(scored("a", False, 100), 5.0), LOW[1]]
    lanes = GateLanes.of(low, FULL, "nllmax")
    assert lanes.at(-np.inf).cost == (100 + 125) / 200 and lanes.at(-np.inf).accuracy == 0.5


def test_some_of_the_examples():
    part = LANES.take(np.array([True, False, False, True]))
    assert part.ids == ("a", "d") and part.at(0.5).accuracy == 1.0
    assert LANES.take([3, 0]).ids == ("d", "a")


def test_auroc():
    assert auroc(np.array([3.0, 1.0, 2.0, 2.0]), np.array([True, False, True, False])) == 0.875  # 3 of 4 pairs, and a tie
    assert auroc(np.array([1.0, 2.0]), np.array([True, True])) is None
