"""A run beside a gate at its own cost, by hand."""

from __future__ import annotations

import dataclasses

import pytest
from episodes import scored

from visionthink.evals.gate_baseline import SCORE, beside_gate
from visionthink.evals.metrics import Scored


def low(name: str, correct: bool, score: float) -> Scored:
    """An answer from the low view that says how unsure it is."""
    made = scored(name, correct, 25)
    [turn] = made.transcript.turns
    return Scored(dataclasses.replace(made.transcript, turns=(dataclasses.replace(turn, scores={SCORE: score}),)), made.verdict)


LOW = [low("a", False, 0.9), low("b", True, 0.5), low("c", False, 0.4), low("d", True, 0.1)]
FULL = [scored(name, True, 100) for name in "abcd"]
"""All is right from the full view; the least sure answer is wrong, and so is the third."""


def test_the_gate_spends_what_the_run_spent():
    """200 of 400 tokens, 100 of which are low views: one of four questions is put again, the least sure."""
    run = [scored("a", True, 25, 100), scored("b", True, 25), scored("c", False, 25), scored("d", True, 25)]
    found = beside_gate(run, LOW, FULL)
    assert (found["n"], found["cost"], found["accuracy"], found["beats"]) == (4, 0.5, 0.75, "undecided")
    assert found["against"]["mean"] == 0.0 and found["score"] == "nllmax"
    # of four pairs of an answer that is wrong and one that is right, three have the wrong one less sure
    assert found["auroc"] == 0.75


def test_a_run_that_asks_in_vain_is_below_the_gate_and_one_that_knows_better_is_above():
    names = [f"{name}{i}" for i in range(40) for name in "abcd"]
    lows = [dataclasses.replace(s) for _ in range(40) for s in LOW]
    lows = [Scored(dataclasses.replace(s.transcript, example_id=n), s.verdict) for n, s in zip(names, lows, strict=True)]
    full = [scored(n, True, 100) for n in names]
    vain = [scored(n, n[0] in "bd", 25, *([100] if n[0] == "b" else [])) for n in names]
    assert beside_gate(vain, lows, full)["beats"] == "no"
    knowing = [scored(n, True, 25, *([100] if n[0] == "c" else [])) for n in names]
    found = beside_gate(knowing, lows, full)
    assert found["beats"] == "yes" and found["against"]["mean"] == pytest.approx(0.25)


def test_without_scores_or_common_questions_there_is_none():
    run = [scored("a", True, 25)]
    assert beside_gate(run, [scored("a", True, 25)], FULL) is None
    assert beside_gate([scored("new", True, 25)], LOW, FULL) is None
    assert beside_gate([scored("a", None, 25)], LOW, FULL) is None
