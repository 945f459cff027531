"""The arithmetic of an evaluation, with literal numbers."""

from __future__ import annotations

import pytest
from episodes import begin

from visionthink import Example, Protocol, ScriptedPolicy, run_batch
from visionthink.evals.metrics import Scored, retention
from visionthink.evals.mixes import mix_share
from visionthink.evals.summary import summarise
from visionthink.resolution import PixelBudget
from visionthink.rewards.judge import Verdict, judge_transcripts
from visionthink.rewards.rules.judge import RulesJudge

TINY = PixelBudget(28, 784, 12544)
COMPACT = Protocol("compact")
RED, BLUE = "<answer>red</answer>", "<answer>blue</answer>"


def scored(red, *script: str, need: str = "easy", verdict: str | None = None) -> Scored:
    example = Example("e", "What colour?", red, answer="red", need=need, family="f")
    [t] = run_batch([begin(example, (0.25, 1.0), COMPACT, budget=TINY)], ScriptedPolicy(script))
    return Scored(t, Verdict(verdict, "test", "") if verdict else judge_transcripts(RulesJudge(closed=True), [t])[0])


def test_summary(red):
    runs = [
        scored(red, RED),
        scored(red, BLUE),
        scored(red, COMPACT.request(), RED, need="hard"),
        scored(red, COMPACT.request(), RED, need="hard", verdict="unscored"),
    ]
    s = summarise(runs, suite="s", model="m", policy="adaptive")
    assert (s["n"], s["unscored"], s["request_ratio"]) == (4, 1, 0.5)
    assert s["accuracy"] == pytest.approx(2 / 3)  # of the three that were scored
    assert s["retain_cumulative"] == (4 + 4 + 20 + 20) / 64
    assert s["retain_final"] == (4 + 4 + 16 + 16) / 64
    assert s["by_need"]["easy"] == {"n": 2, "accuracy": 0.5, "request_ratio": 0.0, "retain_cumulative": 0.25}
    assert s["by_need"]["hard"] == {"n": 2, "accuracy": 1.0, "request_ratio": 1.0, "retain_cumulative": 1.25}
    assert s["stop_reasons"] == {"answered": 2, "answered_after_request": 2}


def test_nothing_scored_is_not_zero(red):
    s = summarise([scored(red, RED, verdict="unscored")], suite="s", model="m", policy="low")
    assert s["accuracy"] is None and s["unscored"] == 1


def test_a_random_mix_costs_no_less_than_low_and_no_more_than_full():
    assert mix_share(0.25, 1.0, 0.25) == 0.0
    assert mix_share(0.25, 1.0, 0.625) == 0.5
    assert mix_share(0.25, 1.0, 1.25) == 1.0
    assert mix_share(1.0, 1.0, 1.0) == 1.0


def test_large_images_weigh_what_they_cost(red):
    small = scored(red, RED)
    example = Example("big", "What colour?", red.resize((1120, 1120)), answer="red")
    [t] = run_batch([begin(example, (0.25, 1.0), COMPACT)], ScriptedPolicy([COMPACT.request(), RED]))
    big = Scored(t, judge_transcripts(RulesJudge(), [t])[0])
    assert t.visual_tokens == 400 + 1600
    assert retention([small, big], cumulative=True) == (4 + 2000) / (16 + 1600)


def test_scored_transcripts_survive_json(red):
    s = scored(red, COMPACT.request(), RED)
    again = Scored.from_dict(s.to_dict())
    assert again.to_dict() == s.to_dict() and again.verdict == s.verdict
