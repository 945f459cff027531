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

from visionthink import Completion, Episode, Example, ScriptedPolicy, run_async, run_batch
from visionthink.menu import NAMED
from visionthink.picture import open_pictures
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
    speak(trainer, lambda question, turn, member: script_for(question, protocol, renderer, limit)[turn])
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


def call(name: str, box: str, more: str = "") -> str:
    return f'<think>small</think><tool_call>{{"name": "{name}", "arguments": {{"bbox_2d": {box}{more}}}}}</tool_call>'


def ground(box: str, source: str) -> str:
    return f'<think>small</think><grounding>{{"bbox_2d": {box}, "source": "{source}"}}</grounding>'


SEEN = "<think>seen</think><answer>red</answer>"
PEERS = {
    "awares": (["GET_CROPS: ['0', '5']", "red"], [1, 2], "answered_after_request"),
    "adaptvision": ([call("request_local_region", "[10, 20, 150, 160]"), SEEN], [1, 1], "answered_after_request"),
    "deepeyes": (
        [call("image_zoom_in_tool", "[0, 0, 280, 280]"), call("image_zoom_in_tool", "[9, 9, 9, 9]"), SEEN],
        [1, 1, 0],
        "answered_after_request",
    ),
    "deepeyes-v5": (
        [call("image_zoom_in_tool", "[0, 0, 280, 280]") + call("image_zoom_in_tool", "[280, 0, 560, 280]"), SEEN],
        [1, 2],
        "answered_after_request",
    ),
    "minio3": (
        [ground("[0, 0, 0.5, 1]", "original_image"), *[ground("[0, 0, 1, 0.9]", f"observation_{i}") for i in range(1, 6)]],
        [1] * 6,
        "over_limit",
    ),
    "qwen3": (
        [call("image_zoom_in_tool", "[0, 0, 500, 500]", ', "label": "it", "img_idx": 0'), "red"],
        [1, 1],
        "answered_after_request",
    ),
    "ladder": (["REQUEST", "REQUEST", SEEN], [1, 1, 1], "answered_after_request"),
    "cells": (["<look>2 1 9 8</look>", "<answer>red</answer>"], [1, 1], "answered_after_request"),
}
"""By menu: a script, how many views each turn shows, and how it ends."""


@pytest.mark.parametrize("menu", list(PEERS))
def test_three_loops_over_the_menus_of_the_peers(menu, tmp_path):
    """Crops, several views in a turn, several turns: the same transcript, loss mask and bill in every loop."""
    from visionthink.policies.checkpoint import open_checkpoint
    from visionthink.policies.render import Renderer

    script, views, stop_reason = PEERS[menu]
    tiny = open_checkpoint("tiny")
    budget = dataclasses.replace(tiny.budget, max_pixels=28 * 28 * 1024)  # views of up to 1,024 visual tokens
    tiny.image_processor.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
    config = TrainConfig(
        model="tiny",
        menu=menu,
        dialect="" if NAMED[menu][1] else "agent",
        out=tmp_path,
        steps=1,
        prompts_per_step=1,
        group_size=2,
        max_new_tokens=160,
        kl_coef=0.0,
        refill=0,
        exclude="",
        over_limit="penalise",  # masked members learn nothing, and the mask is what is compared
    )
    checkpoint = dataclasses.replace(tiny, budget=budget)
    protocol = config.adjusted(checkpoint).protocol
    renderer = Renderer(tiny.tokenizer, protocol.boundary)
    script = [line.replace("REQUEST", f"<think>small</think>{protocol.request()}") for line in script]
    example = Example("e", "Is it red?", Image.new("RGB", (560, 560), (200, 30, 30)), answer="red")
    policy = ScriptedPolicy(script, renderer)

    def episode():
        return Episode(example, open_pictures(example), config.rollout_menu(), protocol, budget=budget)

    [batched] = run_batch([episode()], policy)
    one_by_one = asyncio.run(run_async(episode(), policy))
    trainer = make_trainer(config, [example], checkpoint=checkpoint)
    speak(trainer, lambda question, turn, member: script[turn])
    trainer.train()
    assert [len(turn.views) for turn in batched.turns] == views
    assert (batched.stop_reason.value, batched.answer) == (stop_reason, "red" if stop_reason != "over_limit" else None)
    assert batched.visual_tokens == sum(v.visual_tokens for v in batched.views)
    for other in (one_by_one, *trainer.transcripts()):
        assert comparable(batched) == comparable(other)
    [mask, _] = [rollout.loss_mask for rollout in trainer.step.rollouts]
    assert mask == batched.loss_mask and sum(mask) == sum(len(renderer.plain(line)) + 1 for line in script)
    pads = batched.token_ids.count(renderer.image_pad_id)
    assert pads == batched.visual_tokens  # every view stands in the context once
