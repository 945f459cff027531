"""Answers are judged while others are still being given, with the same result as judging them afterwards."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace

import pytest
from scripted import speak
from servers import replying, said
from training import small

from visionthink.data import synth
from visionthink.endpoint import Endpoint
from visionthink.errors import OptionError
from visionthink.policies.render import Renderer
from visionthink.rewards.ahead import AskedAhead
from visionthink.rewards.cascade import Cascade
from visionthink.rewards.judge import Answer, Verdict
from visionthink.rewards.llm.judge import LLMJudge
from visionthink.rewards.llm.preset import preset
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.train.rollouts import exclusions
from visionthink.train.trainer import make_trainer
from visionthink.types import Completion

pytestmark = pytest.mark.network


def honest(body: dict) -> tuple[int, object]:
    prompt = body["messages"][-1]["content"]
    truth, given = (re.search(rf"\*\*{name} Answer\*\*: (.*)", prompt)[1] for name in ("Ground Truth", "Model Predicted"))
    return 200, said({"content": f"Score: {int(truth == given)}"})


def until(condition) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_members_that_have_ended_are_judged_while_others_speak(tmp_path):
    """A group: two answers that are the same, an empty one, one cut off, one that asks; then one made to answer directly and one
    made to ask. The model says its second turn, and what it is made to say, only when the server has got the answers before."""
    examples = synth.suite(2, split="train")
    known = []

    with replying(honest) as server:
        judge = LLMJudge(Endpoint(f"http://{server.host}/v1", model="m", timeout=20), preset("paper"))
        config = small(tmp_path, prompts_per_step=2, group_size=7, forced=1, exclude="duplicate,empty,truncated")
        trainer = make_trainer(config, examples, judge=judge)
        renderer = Renderer(trainer.checkpoint.tokenizer)
        calls = [0]

        def reply(question: str, turn: int, member: int) -> Completion | str:
            if member == 0:
                calls[0] += 1
            if calls[0] <= 2:  # the free members of both groups
                request = trainer.checkpoint.protocol.request()
                cut = Completion("", token_ids=tuple(renderer.plain("<answer>" + "so " * 60)))
                return ["<answer>first</answer>", "<answer>first</answer>", " ", cut, request][member] if turn == 0 else "x"
            if turn == 1 and calls[0] <= 4:
                known.append(until(lambda: len(server.sent) >= 2))  # an answer of each group, and no duplicate
                return "<answer>second</answer>"
            known.append(until(lambda: len(server.sent) >= 4))
            return "<answer>third</answer>"

        speak(trainer, reply)
        [one, other] = trainer.sampler.sample([e.id for e in examples])
        asked = [body["messages"][-1]["content"] for body in server.sent]
        groups = [[rollout.transcript for rollout in group] for group in (one, other)]
        left_out = [exclusions(group, trainer.sampler.exclude) for group in groups]
        afterwards = trainer.sampler.rubric.score_groups(groups, left_out, [e.evidence for e in examples])
        judge.close()
    assert all(known) and len(known) >= 4
    for group, reasons, scores in zip((one, other), left_out, afterwards, strict=True):
        assert reasons[:5] == [None, "duplicate", "empty", "truncated", None]
        assert [r.score for r in group] == scores
        assert [r.score.verdict.reason for r in group[1:4]] == ["duplicate", "empty", "truncated"]
    assert len(asked) == len(set(asked)) == 6  # first, second and third, of two groups: equal answers are asked once


class Slow:
    """A judge that waits, and says what it was given."""

    identity, down = "slow", ""

    def __init__(self):
        self.batches, self.running, self.most = [], 0, 0
        self._count = threading.Lock()

    def compare(self, answers):
        with self._count:
            self.batches.append([a.prediction for a in answers])
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.2)
        self.running -= 1
        if any(a.prediction == "bad" for a in answers):
            raise OptionError("judge: cannot be reached")
        return [Verdict("correct", "slow", a.prediction) for a in answers]

    def usage(self):
        return {}


def answers(*predictions: str) -> list[Answer]:
    return [Answer("?", p, ("a",)) for p in predictions]


def test_batches_do_not_wait_for_each_other_and_equal_answers_are_asked_once(example):
    slow = Slow()
    ahead, started = AskedAhead(slow), time.monotonic()
    ahead.ask(answers("a", "b", "a"))
    ahead.ask(answers("b", "c"))
    assert time.monotonic() - started < 0.15
    found = ahead.compare(answers("c", "a", "d", "a", "b"))
    assert [v.reason for v in found] == ["c", "a", "d", "a", "b"]
    assert slow.batches == [["a", "b"], ["c"], ["d"]] and slow.most == 3


def test_what_a_judge_raises_comes_when_its_verdict_is_needed():
    ahead = AskedAhead(Slow())
    ahead.ask(answers("bad"))
    assert ahead.compare(answers("a"))[0].verdict == "correct"
    with pytest.raises(OptionError, match="cannot be reached"):
        ahead.compare(answers("bad", "a"))


def test_rules_alone_are_not_asked_ahead(tmp_path):
    """They compute, which would only hold up the model: they are asked once, in this thread, when all have ended."""

    class Rules(RulesJudge):
        def compare(self, answers):
            calls.append((threading.current_thread(), len(answers)))
            return super().compare(answers)

    calls: list[tuple[threading.Thread, int]] = []
    trainer = make_trainer(small(tmp_path, group_size=4), synth.suite(8, split="train"), judge=Cascade([Rules()]))
    groups = trainer.sampler.sample(trainer.example_ids[:4])
    answered = sum(r.transcript.answered for group in groups for r in group)
    assert calls == [(threading.current_thread(), answered)] or answered == 0


def test_several_threads_share_a_language_model():
    """Two batches, the first of which is stuck for a while: the second is not held up."""

    def slow(body: dict) -> tuple[int, object]:
        if "stuck" in body["messages"][-1]["content"]:
            assert until(lambda: len(server.sent) >= 4)
        return honest(body)

    with replying(slow) as server:
        judge = LLMJudge(Endpoint(f"http://{server.host}/v1", model="m", timeout=30), preset("paper"))
        judge.compare(answers("a"))
        ahead = AskedAhead(judge)
        ahead.ask([replace(a, question="stuck?") for a in answers("a")])
        assert until(lambda: len(server.sent) == 2)
        assert [v.verdict for v in ahead.compare(answers("b", "c"))] == ["wrong", "wrong"]
        assert ahead.compare([Answer("stuck?", "a", ("a",))])[0].verdict == "correct"
        assert judge.usage()["answers"] == 4 and len(server.sent) == 4
        judge.close()
