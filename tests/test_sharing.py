"""What is computed once for all rollouts is what every rollout by itself gives: losses, log-probabilities and every gradient."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from both_ways import EXACT, apart, both, saying, scenes, trained

from visionthink.policies.checkpoint import open_checkpoint
from visionthink.protocol import Protocol
from visionthink.recipes import stand_in
from visionthink.types import Call, Completion

AGENT = Protocol("agent").request()
MIXED = [["0", "1", "?", "?2 "], ["0", "1", "2", "33"]]
"""Of one question two members ask, in different words; of the other none. Answers differ in length."""


def request(model: str = "tiny-base") -> str:
    return open_checkpoint(model).protocol.request()


def agree(tmp_path, rows, count: int = 2, reply=None, **changes):
    """Both ways agree; returns them."""
    shared, plain = both(tmp_path, scenes(count=count), reply or saying(rows, request()), **changes)
    assert shared.trainer.engine is not None and plain.trainer.engine is None
    found = apart(shared, plain)
    assert found <= EXACT, found
    return shared, plain


def requests(outcome) -> list[bool]:
    return [t.requested for t in outcome.trainer.transcripts()]


CASES = {
    "nobody asks": ([["0", "1", "2", "33"], ["4", "0", "5", "no"]], [False] * 8, {}),
    "some ask": (MIXED, [False, False, True, True] + [False] * 4, {}),
    "all ask": ([["?", "?", "?2 ", "?33 "]], [True] * 8, {}),
}
SLOW = {
    "duplicates that are learnt": ([["0", "0", "?", "?"], ["1", "0", "0", "0"]], {}),
    "duplicates that are left out": ([["0", "0", "?", "?"], ["1", "0", "0", "0"]], {"exclude": "duplicate"}),
    "without a reference": (MIXED, {"kl_coef": 0.0}),
    "half a group in a pass": (MIXED, {"micro_batch": 2}),
    "a group in a pass, two updates": (MIXED, {"micro_batch": 4, "updates_per_step": 2}),
    "two groups in a pass, two updates": (MIXED, {"micro_batch": 8, "updates_per_step": 2}),
    "checkpointing": (MIXED, {"gradient_checkpointing": True}),
    "an adapter": (MIXED, {"lora_rank": 4}),
    "an adapter and checkpointing": (MIXED, {"lora_rank": 4, "gradient_checkpointing": True, "micro_batch": 4}),
    "an entropy bonus": (MIXED, {"entropy_coef": 0.01}),
    "another temperature": (MIXED, {"temperature": 0.7}),
    "another loss": (MIXED, {"trl": {"loss_type": "dapo"}, "micro_batch": 4}),
    "padding to a multiple": (MIXED, {"trl": {"pad_to_multiple_of": 16}}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_the_same(tmp_path, name):
    """Questions, and with them prompts, differ in length, so that rows by themselves are padded on the left."""
    rows, asked, changes = CASES[name]
    shared, _ = agree(tmp_path, rows, **changes)
    assert requests(shared) == asked
    assert len(shared.gradients[0]) == sum(1 for _ in shared.trainer.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_step_is_the_same_under_other_settings(tmp_path, name):
    rows, changes = SLOW[name]
    shared, _ = agree(tmp_path, rows, count=4 if changes.get("micro_batch") == 8 else 2, **changes)
    passes = 1 if not changes.get("micro_batch") else len(shared.trainer.transcripts()) // changes["micro_batch"]
    assert len(shared.passes) == passes
    assert bool(shared.logprobs["old"]) == ("updates_per_step" in changes)


def test_a_pass_in_which_nothing_is_learnt(tmp_path):
    """All members of the first question are cut off, and a group is a pass."""

    def reply(question, turn, member):
        cut = Completion("", token_ids=(40,) * 40)
        return cut if question.startswith("Which") else f"<answer>{member}</answer>"

    shared, plain = agree(tmp_path, [], reply=reply, micro_batch=4, exclude="truncated")
    assert sorted(loss == 0 for loss in shared.losses) == [False, True] == sorted(loss == 0 for loss in plain.losses)


@pytest.mark.slow
def test_members_that_were_forced(tmp_path):
    """A call has the free members of a question, another one those that are made to answer, and what forced ones say first is put
    into their mouths."""
    shared, _ = agree(tmp_path, MIXED, forced=1)
    assert [r.forced for r in shared.trainer.step.rollouts] == [None, None, "direct", "request"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("menu, calls", [("ten", (Call(regions=("0",)), Call(regions=("3",)))), ("levels", ()), ("ladder", ())])
def test_several_views(tmp_path, menu, calls):
    """Crops, and three levels."""
    protocol = Protocol({"ten": "compact_ids", "levels": "levels", "ladder": "agent"}[menu])

    def reply(question, turn, member):
        asks = member >= 2 if turn == 0 else menu != "ten" and turn == 1 and member == 0  # of the two that go on
        return protocol.request(*calls) if asks else f"<answer>{member}</answer>"

    changes = {} if menu == "ladder" else {"dialect": protocol.dialect}
    shared, _ = agree(tmp_path, [], reply=reply, menu=menu, penalty="none", kl_coef=0.0, **changes)
    shown = [sum(len(turn.views) for turn in t.turns) for t in shared.trainer.transcripts()]
    assert shown == ([1, 1, 3, 3] if menu == "ten" else [1, 1, 3, 2]) * 2


@pytest.mark.slow
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_tower_that_is_not_trained(tmp_path, lora_rank):
    shared, _ = agree(tmp_path, MIXED, lora_rank=lora_rank, frozen_tower=not lora_rank, kl_coef=0.2 if lora_rank else 0.0)
    assert not any("visual" in name for name in shared.gradients[0])
    assert shared.trainer.engine.counts.patches == patches(shared)


def patches(outcome) -> int:
    """Of the distinct images that are shown: two of 56 px, and one of 112 px, in patches of 14 px."""
    assert sum(requests(outcome)) == 2
    return 2 * 16 + 64


@pytest.mark.parametrize("name", ["qwen3", pytest.param("qwen2", marks=pytest.mark.slow)])
def test_other_architectures(tmp_path, name, request):
    """Qwen3-VL feeds features of several layers of its tower into the decoder."""
    folder = str(request.getfixturevalue(f"{name}_folder"))
    agree(tmp_path, [], reply=saying(MIXED, open_checkpoint(folder).protocol.request()), model=folder)


@pytest.mark.slow
@pytest.mark.parametrize("make", [stand_in.qwen2_5_vl, stand_in.qwen3_vl])
def test_real_patches_windows_and_rotations(tmp_path, make):
    """Of 448 px, so that a tower with windows has several."""
    examples, reply = scenes(448, 2), saying(MIXED, AGENT)
    first = make()
    shared = trained(tmp_path, examples, reply, share="on", checkpoint=first)
    plain = trained(tmp_path, examples, reply, share="off", step=shared.trainer.step, checkpoint=make())
    assert shared.trainer.engine is not None
    found = apart(shared, plain)
    assert found <= EXACT, found


@pytest.mark.slow
def test_half_precision(tmp_path):
    """No further from the same weights in float32 than rows by themselves are."""
    examples, reply = scenes(count=2), saying(MIXED, request())

    def way(name, share, dtype, step=None):
        checkpoint = open_checkpoint("tiny-base", dtype=torch.bfloat16)
        checkpoint.model.to(dtype)
        return trained(tmp_path / name, examples, reply, share=share, step=step, checkpoint=checkpoint, halved=True, kl_coef=0.0)

    shared = way("shared", "on", torch.bfloat16)
    assert shared.trainer.engine is not None and next(shared.trainer.model.parameters()).dtype == torch.bfloat16
    plain, exact = (way(str(dtype), "off", dtype, shared.trainer.step) for dtype in (torch.bfloat16, torch.float32))
    of_shared, of_plain = apart(shared, exact), apart(plain, exact)
    assert of_plain.logprobs > 1e-4 and of_shared.logprobs <= 1.5 * of_plain.logprobs, (of_shared, of_plain)
    assert of_plain.gradients > 1e-3 and of_shared.gradients <= 1.5 * of_plain.gradients, (of_shared, of_plain)


def test_the_comparison_sees_what_is_wrong(tmp_path):
    """One rollout with another reward is not the same step."""
    shared, plain = both(tmp_path, scenes(count=2), saying(MIXED, request()), kl_coef=0.0)
    other = dataclasses.replace(plain, gradients=[{k: v * (1 + 1e-4) for k, v in plain.gradients[0].items()}])
    assert apart(shared, plain) <= EXACT and not apart(shared, other) <= EXACT
