"""Rollout groups: refilled, filtered, forced."""

from __future__ import annotations

import zlib

import pytest
from episodes import begin
from training import rollout_batch, small

from visionthink import Protocol
from visionthink.data import synth
from visionthink.errors import OptionError, VisionThinkError
from visionthink.rewards.judge import Verdict
from visionthink.train.exclusions import exclusions, parse_exclusions
from visionthink.train.sampled import request_view
from visionthink.train.trainer import make_trainer
from visionthink.types import Completion


def test_a_group_without_difference_is_replaced(tmp_path):
    """Every other example is always right; with no penalty such a group has nothing to compare."""

    class Flat:
        identity = "flat"

        def compare(self, answers):
            def flat(answer):
                return zlib.crc32(f"{answer.question} {answer.references}".encode()) % 2

            return [Verdict("correct" if flat(a) or i % 2 else "wrong", "test", "") for i, a in enumerate(answers)]

        def usage(self):
            return {}

    examples = [synth.draw("scene", i, split="train") for i in range(16)]

    def varied(refill):
        config = small(tmp_path, refill=refill, group_size=8, penalty="none")
        trainer = make_trainer(config, examples, judge=Flat())
        inputs = rollout_batch(trainer)
        groups = [{r.score.total for r in trainer.step.rollouts[i : i + 8]} for i in range(0, 32, 8)]
        return [len(g) > 1 for g in groups], inputs["tool_mask"].reshape(4, -1).any(1).tolist()

    kept, learnt = varied(0)
    assert not all(kept) and all(learnt)
    kept, learnt = varied(8)
    assert all(kept) and all(learnt)


def test_left_out_members_get_no_gradient(tiny):
    protocol = Protocol("compact")

    def transcript(*said):
        episode = begin(synth.draw("scene", 0), (0.25, 1.0), protocol, budget=tiny.budget)
        for completion in said:
            episode.step(completion)
        return episode.transcript()

    answer = Completion("<answer>2</answer>", token_ids=(7, 8))
    group = [
        transcript(answer),
        transcript(answer),
        transcript(Completion(" ", token_ids=(9,))),
        transcript(Completion("<answer>", "length", token_ids=(7,))),
        transcript(Completion(protocol.request(), token_ids=(5, 8)), answer),
    ]
    assert exclusions(group, parse_exclusions("duplicate,empty,truncated")) == [None, "duplicate", "empty", "truncated", None]
    assert exclusions(group, parse_exclusions("empty")) == [None, None, "empty", None, None]
    assert exclusions(group, parse_exclusions("")) == [None] * 5
    with pytest.raises(OptionError, match="exclude 'x': choose from duplicate, empty, truncated"):
        parse_exclusions("x")


def test_truncated_rollouts_train_without_a_crash_and_without_a_gradient(tmp_path):
    trainer = make_trainer(small(tmp_path, max_new_tokens=3, group_size=6), synth.suite(8, split="train"))
    inputs = rollout_batch(trainer)
    cut = [t.stop_reason == "length" for t in (r.transcript for r in trainer.step.rollouts)]
    assert any(cut) and all(r.score.total is None for r, c in zip(trainer.step.rollouts, cut, strict=True) if c)
    trainer.compute_loss(trainer.model, inputs).backward()
    assert (inputs["tool_mask"] * inputs["completion_mask"]).sum() == sum(
        sum(r.loss_mask) for r, c in zip(trainer.step.rollouts, cut, strict=True) if not c
    )


def test_forced_branches_are_taken_and_their_decision_is_not_trained(tmp_path, tiny):
    trainer = make_trainer(small(tmp_path, forced=2, group_size=8, temperature=1.0), synth.suite(8, split="train"))
    rollout_batch(trainer)
    opens_answer = tiny.tokenizer.convert_tokens_to_ids("<answer>")
    for start in range(0, 32, 8):
        group = trainer.step.rollouts[start : start + 8]
        assert [r.forced for r in group] == [None] * 4 + ["direct"] * 2 + ["request"] * 2
        for r in group:
            t = r.transcript
            kept = [i for i, m in zip(t.token_ids, r.loss_mask, strict=True) if m]
            said = [i for turn in t.turns for i in turn.token_ids]
            if r.forced == "direct":
                assert not t.requested and kept == said[1:] and said[0] == opens_answer
            elif r.forced == "request":
                assert t.requested and kept == list(t.turns[1].token_ids)
            else:
                assert kept == said


def test_rewards_go_to_the_completions_they_are_for(tmp_path):
    trainer = make_trainer(small(tmp_path, steps=1), synth.suite(8, split="train"))
    trainer.train()
    step = trainer.step
    assert step.rewards("penalty", step.completion_ids, sign=-1) == [
        None if r.score.total is None else -r.score.penalty for r in step.rollouts
    ]
    with pytest.raises(VisionThinkError, match="other completions than those of the step"):
        step.rewards("accuracy", step.completion_ids[::-1])
    with pytest.raises(VisionThinkError, match="answered by the episode"):
        request_view()
