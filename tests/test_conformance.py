"""One protocol, three loops: the batched driver, the async driver and training under TRL give the same transcripts.

The completions are scripted as token ids, so all three see exactly the same words; everything around them is real.
"""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from episodes import begin
from PIL import Image
from scripted import speak

from visionthink import Completion, Example, ScriptedPolicy, run_async, run_batch
from visionthink.chatml import IMAGE_PAD
from visionthink.train.config import TrainConfig
from visionthink.train.trainer import make_trainer

REDDISH = "<answer>red</answer>"
SCRIPTS = {
    "direct": [REDDISH],
    "request": ["REQUEST", REDDISH],
    "asks again": ["REQUEST", "REQUEST"],
    "malformed": ["<tool_call>NOT JSON</tool_call>", REDDISH],
    "malformed twice": ["<tool_call>{}</tool_call>", "<tool_call>"],
    "repeated": ["REQUESTREQUEST", REDDISH],
    "untagged": ["red"],
    "cut off": [Completion("red " * 60, "length")],
}


@pytest.fixture
def examples():
    colours = [(200, 30, 30), (30, 160, 60)]
    return [
        Example(f"{name} {i}", f"Is it red? {name}", Image.new("RGB", (112, 112), colour), answer="red")
        for name in SCRIPTS
        for i, colour in enumerate(colours)
    ]


def script_for(question: str, protocol, renderer, limit: int):
    lines = SCRIPTS[question.split("? ")[1].removesuffix(" Closer?")]
    replies = []
    for line in lines:
        completion = line if isinstance(line, Completion) else Completion(line.replace("REQUEST", protocol.request()))
        if completion.finish_reason == "length":
            ids = tuple(renderer.plain(completion.text)[:limit])
            completion = dataclasses.replace(completion, token_ids=ids, text=renderer.tokenizer.decode(ids))
        replies.append(completion)
    return replies


def comparable(transcript):
    """All but wall time and log-probabilities, which only sampling has."""
    turns = tuple(dataclasses.replace(t, logprobs=None, usage=dataclasses.replace(t.usage, seconds=0)) for t in transcript.turns)
    return dataclasses.replace(transcript, turns=turns), transcript.token_ids, transcript.loss_mask


@pytest.mark.parametrize("boundary", ["chatml", "released"])
def test_three_loops_one_transcript(tiny, examples, boundary, tmp_path):
    from visionthink.policies.checkpoint import open_checkpoint
    from visionthink.policies.render import Renderer

    checkpoint = open_checkpoint("tiny")  # its own copy: the trainer changes it
    protocol = dataclasses.replace(checkpoint.protocol, boundary=boundary)
    checkpoint = dataclasses.replace(checkpoint, protocol=protocol)
    renderer, limit = Renderer(checkpoint.tokenizer, boundary), 48

    def reply(history):
        question = next(p for m in history for p in reversed(m.content) if m.role == "user" and isinstance(p, str))
        turn = sum(m.role == "assistant" for m in history)
        return script_for(question, protocol, renderer, limit)[turn]

    def episode(example):
        return begin(example, (0.25, 1.0), protocol, budget=checkpoint.budget)

    policy = ScriptedPolicy(reply, renderer)
    batched = run_batch([episode(e) for e in examples], policy)
    one_by_one = [asyncio.run(run_async(episode(e), policy)) for e in examples]

    config = TrainConfig(
        model="tiny",
        out=tmp_path,
        steps=1,
        prompts_per_step=len(examples),
        group_size=2,
        max_new_tokens=limit,
        kl_coef=0.0,
        refill=0,
        exclude="",
    )
    trainer = make_trainer(config, examples, checkpoint=checkpoint)
    speak(trainer, renderer, lambda question, turn, member: script_for(question, protocol, renderer, limit)[turn])
    masks: list = []
    original = trainer._generate

    def recording(prompts):
        result = original(prompts)
        masks.extend(zip(*result[:3], strict=True))
        return result

    trainer._generate = recording
    trainer.train()
    trained = {t.example_id: t for t in trainer.transcripts()}

    assert [t.stop_reason.value for t in batched[::2]] == [
        "answered",
        "answered_after_request",
        "asked_on_last_level",
        "answered",
        "malformed_call",
        "answered",
        "answered",
        "length",
    ]
    for ours, other in zip(batched, one_by_one, strict=True):
        assert comparable(ours) == comparable(other)
    for ours in batched:
        assert comparable(ours) == comparable(trained[ours.example_id])
    prompts_and_masks = {(tuple(p), tuple(c)): tuple(m) for p, c, m in masks}
    for t in batched:
        opening = len(t.turns[0].prompt_ids)
        assert prompts_and_masks[t.token_ids[:opening], t.token_ids[opening:]] == t.loss_mask[opening:]


def test_no_stray_image_token_can_be_sampled(tiny):
    """The ban reaches generation in both loops."""
    from visionthink.policies.local import LocalPolicy

    policy = LocalPolicy(tiny)
    image_pad = tiny.tokenizer.convert_tokens_to_ids(IMAGE_PAD)
    assert image_pad in policy._suppressed
