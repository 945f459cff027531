"""Rewards with literal numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from episodes import begin

from visionthink import Penalty, Protocol, Rubric, ScriptedPolicy, run_batch
from visionthink.cli import main
from visionthink.errors import OptionError
from visionthink.resolution import PixelBudget
from visionthink.rewards.format import format_reward
from visionthink.rewards.judge import Verdict, judge_transcripts
from visionthink.rewards.penalty import PENALTIES
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.config import TrainConfig
from visionthink.transcript import Transcript
from visionthink.types import Completion, Failure

TINY = PixelBudget(28, 784, 12544)
COMPACT = Protocol("compact")
ASK, RED, BLUE = COMPACT.request(), "<answer>red</answer>", "<answer>blue</answer>"


def transcript(example, *script: str | Completion) -> Transcript:
    [t] = run_batch([begin(example, (0.25, 1.0), COMPACT, budget=TINY)], ScriptedPolicy(script))
    return t


# Each row is a group: (correct direct, wrong direct, correct after request, wrong after request), then what each kind pays.
@pytest.mark.parametrize(
    "name, group, pays",
    [
        # r = 1/11 < 0.2: the direct answer was luck, every direct member pays
        ("eq5", (1, 2, 10, 3), (0.1, 0.1, 0.0, 0.0)),
        # r = 2/10 = theta counts as enough
        ("eq5", (2, 0, 8, 6), (0.0, 0.0, 0.1, 0.1)),
        ("eq5", (8, 0, 8, 0), (0.0, 0.0, 0.1, 0.1)),
        ("eq5", (0, 8, 8, 0), (0.1, 0.1, 0.0, 0.0)),
        ("eq5", (16, 0, 0, 0), (0.0, 0.0, 0.1, 0.1)),
        # nobody is right: r is undefined, nobody pays
        ("eq5", (0, 8, 0, 8), (0.0, 0.0, 0.0, 0.0)),
        # the released code: a correct request always pays; a correct direct answer too if 0 < r' < theta, a tie
        ("released", (1, 2, 10, 3), (0.1, 0.0, 0.1, 0.0)),
        ("released", (2, 0, 14, 0), (0.1, 0.0, 0.1, 0.0)),
        # its 1e-4 makes exactly theta count as below
        ("released", (2, 0, 8, 6), (0.1, 0.0, 0.1, 0.0)),
        ("released", (8, 0, 8, 0), (0.0, 0.0, 0.1, 0.0)),
        ("released", (0, 8, 8, 0), (0.0, 0.0, 0.1, 0.0)),
        ("eqN", (1, 2, 10, 3), (0.1, 0.1, 0.0, 0.0)),
        ("constant", (1, 2, 10, 3), (0.0, 0.0, 0.1, 0.0)),
        ("none", (1, 2, 10, 3), (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_penalties(name, group, pays):
    kinds = [(False, True), (False, False), (True, True), (True, False)]
    requested = [q for n, (q, _) in zip(group, kinds, strict=True) for _ in range(n)]
    correct = [c for n, (_, c) in zip(group, kinds, strict=True) for _ in range(n)]
    expected = [p for n, p in zip(group, pays, strict=True) for _ in range(n)]
    assert Penalty(name)(requested, correct) == expected


def test_penalty_scope_theta_and_weight():
    requested, correct = [False, False, True, True], [True, False, True, False]
    assert Penalty("eq5", scope="correct")(requested, correct) == [0.0, 0.0, 0.1, 0.0]
    assert Penalty("eq5", theta=0.6)(requested, correct) == [0.1, 0.1, 0.0, 0.0]
    assert Penalty("eq5", weight=0.5)(requested, correct) == [0.0, 0.0, 0.5, 0.5]
    assert Penalty("eq5", theta=0.0)(requested, correct) == [0.0, 0.0, 0.1, 0.1]
    for bad in ({"name": "x"}, {"theta": 2.0}, {"scope": "x"}):
        with pytest.raises(OptionError):
            Penalty(**bad)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("eq5", Penalty("eq5", weight=0.1)),
        ("constant:0.05", Penalty("constant", weight=0.05)),
        ("released:1e-3", Penalty("released", weight=0.001)),
        ("eq5:0", Penalty("eq5", weight=0.0)),
        ("none", Penalty("none")),
    ],
)
def test_a_penalty_is_a_name_and_may_be_an_amount(text, expected):
    assert Penalty.parse(text) == expected
    assert Penalty.parse(text, theta=0.3, scope="correct") == replace(expected, theta=0.3, scope="correct")
    assert max(Penalty.parse(text)([True, False], [True, True])) == (0.0 if text == "none" else expected.weight)


@pytest.mark.parametrize(
    "text, message",
    [
        ("x", "unknown penalty 'x'; choose from eq5, eqN, "),
        ("", "unknown penalty ''"),
        ("x:0.1", "unknown penalty 'x'"),
        ("constant:", "penalty 'constant:': the amount must be a number of at least 0, as constant:0.1"),
        ("constant:0,1", "penalty 'constant:0,1': the amount must be a number"),
        ("constant:-0.1", "penalty weight -0.1: must be a number of at least 0"),
        ("constant:nan", "penalty weight nan: must be"),
        ("constant:inf", "penalty weight inf: must be"),
        ("none:0.1", "penalty 'none:0.1': nobody pays, so there is no amount"),
    ],
)
def test_a_penalty_that_cannot_be_is_refused(text, message):
    with pytest.raises(OptionError) as error:
        Penalty.parse(text)
    assert str(error.value).startswith(message)


def test_the_names_of_penalties_stand_in_one_place(capsys):
    """The command line, the settings and the documentation read them from there."""
    assert list(PENALTIES) == ["eq5", "eqN", "released", "constant", "awares", "none"]
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--penalty eq5|eqN|released|constant|awares|none[:AMOUNT]" in " ".join(capsys.readouterr().out.split())
    assert TrainConfig(penalty="constant:0.3").rollout_penalty() == Penalty("constant", weight=0.3)
    page = (Path(__file__).parent.parent / "docs" / "reference" / "rewards.md").read_text("utf-8")
    assert set(PENALTIES) <= set(re.findall(r"^\| `(\w+)`", page, re.M))


def test_score_group(example):
    group = [transcript(example, RED), transcript(example, BLUE), transcript(example, ASK, RED), transcript(example, ASK, BLUE)]
    scored = Rubric(COMPACT, RulesJudge(closed=True)).score_group(group)  # r = 1/2: requests pay
    assert [(s.accuracy, s.format, s.penalty) for s in scored] == [(1, 0.5, 0), (0, 0.5, 0), (1, 0.5, 0.1), (0, 0.5, 0.1)]
    assert [s.total for s in scored] == pytest.approx([1.5, 0.5, 1.4, 0.4])


def test_unscored_is_not_zero(example):
    """A member whose answer cannot be judged is left out of the counts and has no total."""

    class Flaky(RulesJudge):
        def compare(self, answers):
            timeout = Verdict("unscored", "flaky", "timeout")
            return [timeout if a.prediction == "blue" else v for a, v in zip(answers, super().compare(answers), strict=True)]

    group = [transcript(example, BLUE), transcript(example, BLUE), transcript(example, ASK, RED), transcript(example, ASK, RED)]
    scored = Rubric(COMPACT, Flaky()).score_group(group)
    assert [s.total for s in scored] == [None, None, 1.5, 1.5]  # r = 0/2 among the scored: a direct answer would pay
    assert Rubric(COMPACT).score_group(group)[2].total == 1.5


def test_failures_are_unscored_and_other_endings_are_wrong(example):
    endings = [
        (Completion("", "error", error=Failure("timeout", "timeout")),),
        (Completion("", "refused"),),
        (ASK, ASK),
        (Completion("red", "length"),),
    ]
    verdicts = judge_transcripts(RulesJudge(), [transcript(example, *script) for script in (*endings, (RED,))])
    assert [v.verdict for v in verdicts] == ["unscored", "unscored", "wrong", "wrong", "correct"]


@pytest.mark.parametrize(
    "script, score",
    [
        ((RED,), 0.5),
        ((ASK, RED), 0.5),
        (("red",), 0.0),
        ((ASK, "red"), 0.0),
        ((ASK, ASK), 0.0),
        (("<tool_call>x</tool_call>", RED), 0.0),
        ((f"so {ASK}", RED), 0.0),
        (("",), 0.0),
    ],
)
def test_format_reward(example, script, score):
    assert format_reward(transcript(example, *script), COMPACT) == score
