"""What is claimed of the shipped checkpoints, measured on questions they have never seen. In miniature, all of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from episodes import ladder

import visionthink
from visionthink.data import synth
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.runner import evaluate
from visionthink.menu import Menu
from visionthink.policies.local import LocalPolicy
from visionthink.protocol import extract_answer
from visionthink.rewards.judge import Answer, judge_transcripts
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.types import ImageView, Message

FAMILIES = list(synth.FAMILIES)
CHANCE = {  # (easy, hard): the share of the most frequent answer, which is the best a blind guess can do
    "chart": (1 / 6, 1 / 2),
    "digits": (1 / 10, 1 / 10),
    "grating": (1 / 2, 1 / 2),
    "scene": (1 / 4, 1 / 4),
    "presence": (1 / 2, 1 / 2),
    "print": (1 / 10, 1 / 10),
}
N = 120
MARGIN = 0.14  # three standard errors of a fair coin at N


@pytest.fixture(scope="module")
def base(tiny_base):
    return visionthink.load("tiny-base", max_new_tokens=8, batch_size=60)


@pytest.fixture(scope="module")
def tuned():
    return visionthink.load("tiny", max_new_tokens=8, batch_size=60)


def items(family: str, hard: bool, n: int = N):
    return [synth.draw(family, i, hard=hard) for i in range(n)]


def accuracy(transcripts) -> float:
    verdicts = [v.verdict for v in judge_transcripts(RulesJudge(closed=True), transcripts)]
    assert "unscored" not in verdicts
    return verdicts.count("correct") / len(verdicts)


@pytest.mark.parametrize("hard", [False, True], ids=["easy", "hard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_base_reads_every_family_at_full_resolution(base, family, hard):
    assert accuracy(base.run(items(family, hard), ladder(1.0))) >= 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_base_is_at_chance_on_hard_draws_in_the_quarter_view(base, family):
    assert accuracy(base.run(items(family, True), ladder(0.25))) <= CHANCE[family][1] + MARGIN


@pytest.mark.parametrize("hard", [False, True], ids=["easy", "hard"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blind_is_at_chance(base, family, hard):
    """The image removed from the conversation, not greyed."""
    examples = items(family, hard)
    histories = []
    for example in examples:
        opening = base.episode(example, ladder(1.0)).opening()
        histories.append([Message(m.role, tuple(p for p in m.content if not isinstance(p, ImageView))) for m in opening])
    replies = base.policy.complete(histories)
    answers = [Answer("", extract_answer(r.text), (e.answer, *e.aliases)) for r, e in zip(replies, examples, strict=True)]
    assert sum(v.verdict == "correct" for v in RulesJudge(closed=True).compare(answers)) / N <= CHANCE[family][hard] + MARGIN


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_base_asks_regardless_of_need(tiny_base, temperature):
    model = visionthink.Model(
        LocalPolicy(tiny_base, max_new_tokens=8, batch_size=60, temperature=temperature),
        tiny_base.protocol,
        Menu(),
        tiny_base.budget,
    )
    ratio = {}
    for hard in (False, True):
        transcripts = model.run([e for family in FAMILIES for e in items(family, hard, 40)])
        ratio[hard] = sum(t.requested for t in transcripts) / len(transcripts)
    assert 0.3 <= ratio[False] <= 0.7 and 0.3 <= ratio[True] <= 0.7
    assert abs(ratio[True] - ratio[False]) < 0.15


@pytest.fixture(scope="module")
def tuned_runs(tuned, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    examples = synth.suite(300)
    return {
        policy: evaluate(
            examples,
            tuned,
            PolicySpec.parse(policy),
            folder / policy,
            suite="mini",
            model_name="tiny",
            judge=RulesJudge(closed=True),
        )
        for policy in ("adaptive", "full", "oracle", "low")
    }


def gap(summary) -> float:
    return summary["by_need"]["hard"]["request_ratio"] - summary["by_need"]["easy"]["request_ratio"]


def test_tuned_asks_when_needed(tuned_runs):
    assert gap(tuned_runs["adaptive"]) >= 0.5
    assert tuned_runs["adaptive"]["accuracy"] > tuned_runs["low"]["accuracy"] + 0.05


def test_tuned_reaches_its_target(tuned_runs):
    adaptive, full, oracle = (tuned_runs[p] for p in ("adaptive", "full", "oracle"))
    assert gap(adaptive) >= 0.8
    assert adaptive["accuracy"] >= 0.97 * full["accuracy"]
    assert abs(adaptive["retain_cumulative"] - oracle["retain_cumulative"]) <= 0.10


@pytest.mark.parametrize("name", ["tiny", "tiny-base"])
def test_stock_transformers_loads_it(name):
    from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil

    from visionthink.policies.checkpoint import resolve

    folder = resolve(name)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 2e6 < model.num_parameters() < 10e6
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert Qwen2VLImageProcessorPil.from_pretrained(folder).size["longest_edge"] == 112 * 112
    assert json.loads(Path(folder, "config.json").read_text())["dtype"] == "float16"
