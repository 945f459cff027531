"""Scores of how unsure a model is, by hand and on the embedded model."""

from __future__ import annotations

import math

import pytest

from visionthink.certainty import SCORES, entropy_bounds, scores_of, vote
from visionthink.types import Completion, Spread


def said(text="<think>no</think><answer>a b</answer>", texts=("<think>no</think>", "<answer>", "a", " b", "</answer>"), **more):
    probabilities = (0.1, 0.9, 0.6, 0.25, 0.5)
    return Completion(text, token_texts=texts, logprobs=tuple(map(math.log, probabilities)), **more)


def test_scores_of_log_probabilities():
    """0.6, 0.25 and 0.5 are of the answer; what is thought before it is not."""
    nll = -math.log(0.6 * 0.25 * 0.5)
    assert scores_of(said()) == pytest.approx({"nll": nll, "nllmean": nll / 3, "nllmax": math.log(4)})
    assert scores_of(Completion("<answer>a</answer>")) == {}
    assert scores_of(said("", ())) == {}


def test_scores_of_spreads():
    spreads = (Spread(0.7, 0.2, 0.3), Spread(9.0, 0.0), Spread(0.5, 0.3), Spread(1.2, 0.7), Spread(0.1, 0.4))
    scores = scores_of(said(spreads=spreads, by="forced"))
    assert scores_of(said(spreads=spreads)) == {name: value for name, value in scores.items() if name != "ask"}
    assert {name: scores[name] for name in ("h1", "hmean", "hmax", "m1", "ask")} == pytest.approx(
        {"h1": 0.5, "hmean": 0.6, "hmax": 1.2, "m1": 1 - (0.6 - 0.3), "ask": 0.3 / (0.3 + 0.1)}
    )
    assert set(scores) | {"vote"} == set(SCORES)


def test_asking_may_follow_thinking():
    """Behind its thinking the model asks with probability .1 and answers with .9, before any ban; later tokens do not count."""
    spreads = (Spread(0.1, 0.1, 0.001), Spread(0.7, 0.1, 0.1), Spread(0.5, 0.3), Spread(1.2, 0.1, 0.6), Spread(0.1, 0.4))
    assert scores_of(said(spreads=spreads, by="forced"))["ask"] == pytest.approx(0.1)


def test_votes():
    assert vote(["a", "A ", "b", "a"]) == 0.25
    assert vote(["a", None, None, "b"]) == 0.75 and vote([None, None]) == 1.0


def test_entropy_of_the_largest_probabilities():
    """0.05 of the probability is left to 151,932 other tokens."""
    low, high = entropy_bounds([0.6, 0.2, 0.1, 0.05], 151_936)
    assert (round(low, 3), round(high, 3)) == (1.158, 1.755)
    assert entropy_bounds([0.5, 0.5], 151_936) == pytest.approx((math.log(2), math.log(2)))


def test_the_embedded_model_says_how_unsure_it_is():
    pytest.importorskip("torch")
    import visionthink
    from visionthink.data import synth

    model = visionthink.load("tiny-base", max_new_tokens=16)
    assert model.run(synth.suite(1))[0].turns[0].scores == {}  # nobody has asked
    examples = synth.suite(24, seed=5)
    for policy in (model.policy.with_spreads(), model.policy.reading_whole().with_spreads()):
        model.policy = policy
        transcripts = model.run(examples, model.menu.low())
        assert all(set(t.turns[-1].scores) == set(SCORES) - {"vote", "ask"} for t in transcripts)
        for t in transcripts:
            turn, scores = t.turns[-1], t.turns[-1].scores
            assert scores["nll"] >= scores["nllmax"] >= scores["nllmean"] > -1e-6
            assert scores["hmax"] >= scores["hmean"] >= 0 and scores["hmax"] >= scores["h1"]
            assert -1e-6 <= scores["m1"] <= 2
            assert scores["nllmax"] <= -min(turn.logprobs) + 1e-6
    hard = [t.turns[-1].scores["nllmax"] for t in transcripts if t.need == "hard"]
    easy = [t.turns[-1].scores["nllmax"] for t in transcripts if t.need == "easy"]
    assert sum(hard) / len(hard) > sum(easy) / len(easy)
