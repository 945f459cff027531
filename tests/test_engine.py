"""Generation in which every image and every shared prefix is computed once: the same as `generate`, and counted."""

from __future__ import annotations

import contextlib

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

import visionthink
from visionthink.data import synth
from visionthink.engine.engine import Engine
from visionthink.engine.sampling import Sampling, Streams, prompt_name
from visionthink.engine.stock import StockGeneration
from visionthink.engine.tower import PreparedImages
from visionthink.policies.render import views


@pytest.fixture(scope="module")
def asking() -> visionthink.Model:
    return visionthink.load("tiny")


def engine_of(checkpoint, renderer) -> Engine:
    return Engine(checkpoint.model, PreparedImages(checkpoint.image_processor), renderer.image_pad_id)


def rule(renderer, **changes) -> Sampling:
    settings = {"ends": frozenset(renderer.end_ids), "most": 6, "banned": tuple(renderer.never_sampled)}
    return Sampling(**settings | changes)


def asked(policy, histories) -> tuple[list, list]:
    """Prompts and images of histories."""
    return [policy.renderer.prompt_ids(h) for h in histories], [[view.image for view in views(h)] for h in histories]


@pytest.mark.parametrize("kind", ["tiny", "qwen2", "qwen3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_tokens_are_those_of_generate(kind, attention, qwen2_folder, qwen3_folder):
    """Greedy, several rounds, images of several sizes, members of a group beside strangers; log-probabilities to 1e-5."""
    folder = {"tiny": "tiny", "qwen2": str(qwen2_folder), "qwen3": str(qwen3_folder)}[kind]
    model = visionthink.load(folder, max_new_tokens=6, attention=attention)
    policy = model.policy.reading_whole()
    assert isinstance(policy._generation, StockGeneration)
    engine = engine_of(policy.checkpoint, policy.renderer)
    examples = [e for e in synth.suite(8, split="train")[:5] for _ in range(2)]
    episodes = [model.episode(example) for example in examples]
    request, rounds = model.protocol.request(), 0
    while live := [episode for episode in episodes if not episode.done]:
        histories = [episode.history for episode in live]
        stock = policy.complete(histories)
        with torch.inference_mode():
            ours = engine.complete(*asked(policy, histories), rule(policy.renderer))
        assert [said.ids for said in ours] == [completion.token_ids for completion in stock]
        apart = [a - b for x, y in zip(ours, stock, strict=True) for a, b in zip(x.logprobs, y.logprobs, strict=True)]
        assert max(map(abs, apart)) < 1e-5
        rounds += 1
        for i, (episode, completion) in enumerate(zip(live, stock, strict=True)):
            # a random model asks for nothing: some of its members are made to
            asks = kind != "tiny" and rounds == 1 and i % 2
            episode.step(visionthink.Completion(request) if asks else completion)
    assert rounds == 2


def test_prompts_without_images_and_one_alone(asking):
    renderer = asking.policy.renderer
    engine = engine_of(asking.policy.checkpoint, renderer)
    prompts = [renderer.plain("What is it?"), renderer.plain("Is it red or blue?")]
    with torch.inference_mode():
        together = engine.complete(prompts, [[], []], rule(renderer))
        engine.forget()
        alone = [engine.complete([prompt], [[]], rule(renderer))[0] for prompt in prompts]
    assert [said.ids for said in together] == [said.ids for said in alone]
    assert engine.counts.patches == 0


def test_what_is_sampled_depends_on_the_prompt_and_its_number_alone():
    """Not on the batch, its order, or what ran before; members with one prompt differ."""
    model = visionthink.load("tiny-base")
    policy, renderer = model.policy, model.policy.renderer
    histories = [model.episode(example).history for example in synth.suite(6, split="train")]
    prompts, images = asked(policy, histories)
    hot = rule(renderer, temperature=3.0)

    def sampled(order, seed=0) -> list[tuple[int, ...]]:
        engine = engine_of(policy.checkpoint, renderer)
        with torch.inference_mode():
            said = engine.complete([prompts[i] for i in order], [images[i] for i in order], hot, Streams(seed))
        return [each.ids for each in said]

    every = sampled(range(6))
    assert sampled([3, 5, 0]) == [every[3], every[5], every[0]]
    assert sampled([4]) == [every[4]]
    members = sampled([2] * 8)
    assert members[0] == every[2] and len(set(members)) > 3
    assert sampled([1, *[2] * 8])[1:] == members
    assert sampled(range(6), seed=1) != every


def test_what_is_banned_is_not_said(asking):
    model = asking
    policy, renderer = model.policy, model.policy.renderer
    prompts, images = asked(policy, [model.episode(synth.suite(6, split="train")[0]).history])
    engine = engine_of(policy.checkpoint, renderer)
    with torch.inference_mode():
        [usual] = engine.complete(prompts, images, rule(renderer))
        [other] = engine.complete(prompts, images, rule(renderer, banned=(*renderer.never_sampled, usual.ids[0])))
        [phrase] = engine.complete(prompts, images, rule(renderer, phrases=(usual.ids[:2],)))
    assert other.ids[0] != usual.ids[0]
    assert phrase.ids[0] == usual.ids[0] and phrase.ids[1] != usual.ids[1]


def test_what_is_computed(asking):
    """Two members of each of three examples: 3 low views of 4 tokens and 16 patches; what is read again is the last token said,
    the words around the full view and its 16 tokens."""
    model, policy = asking, asking.policy
    renderer, engine = policy.renderer, engine_of(policy.checkpoint, policy.renderer)
    examples = synth.suite(6, split="train")[:3]
    first = [model.episode(example) for example in examples for _ in range(2)]
    for episode in first:
        assert not episode.done
    prompts, images = asked(policy, [episode.history for episode in first])
    request = [*renderer.plain(model.protocol.request()), renderer.end_id]
    with torch.inference_mode():
        engine.complete(prompts, images, rule(renderer, most=1))
    distinct = {
        tuple(ids[: n + 1]) if n < ids.index(renderer.image_pad_id) else (i // 2, n)
        for i, ids in enumerate(prompts)
        for n in range(len(ids))
    }
    assert (engine.counts.prepared, engine.counts.patches, engine.counts.calls) == (3, 3 * 16, 1)
    assert engine.counts.prefilled == len(distinct)
    before = engine.counts.prefilled
    for episode in first:
        episode.step(visionthink.Completion(model.protocol.request()))
    prompts, images = asked(policy, [episode.history for episode in first])
    with torch.inference_mode():
        engine.complete(prompts, images, rule(renderer, most=1))
    bridge = len(prompts[0]) - len(renderer.prompt_ids(model.episode(examples[0]).history)) - len(request)
    assert (engine.counts.prepared, engine.counts.patches, engine.counts.calls) == (6, 3 * 16 + 3 * 64, 2)
    assert engine.counts.prefilled - before == 3 * (len(request) + bridge)
    engine.forget()
    with torch.inference_mode():
        engine.complete(prompts, images, rule(renderer, most=1))
    assert engine.counts.patches == 2 * (3 * 16 + 3 * 64)  # other weights may be there


def test_rows_that_have_ended_take_no_part(asking):
    """Tokens that are read again: every one but the last of each row."""
    model, policy = asking, asking.policy
    engine = engine_of(policy.checkpoint, policy.renderer)
    prompts, images = asked(policy, [model.episode(example).history for example in synth.suite(12, split="train")])
    with torch.inference_mode():
        said = engine.complete(prompts, images, rule(policy.renderer))
    lengths = [len(each.ids) for each in said]
    assert engine.counts.decoded == sum(lengths) - len(lengths) and len(set(lengths)) > 1


def test_a_row_that_is_not_a_number_disturbs_no_other(asking):
    draw = Sampling(ends=frozenset(), most=1, temperature=1.0)
    logits = torch.tensor([[float("nan")] * 3, [0.0, -torch.inf, 50.0]])
    streams = [Streams(0).of(bytes([i])) for i in range(2)]
    assert draw.draw(logits, (), streams)[0][1] == 2


def test_prompts_that_are_long_past_are_forgotten_and_no_row_is_drawn_twice():
    rows, streams = [bytes([i]) for i in range(5)], Streams(0, most=3)
    drawn = [streams.of(row).random() for _ in range(4) for row in rows for _ in range(2)]
    assert len(set(drawn)) == 40 and len(streams._met) == 3
    again = Streams(0)
    assert [again.of(row).random() for row in rows for _ in range(2)][:6] == drawn[:6]  # nothing is forgotten before the fourth


def test_rows_of_a_block_that_fails_count_as_not_drawn():
    streams, drawn = Streams(0), list[list[float]]()
    for error in (MemoryError, None):
        with contextlib.suppress(MemoryError), streams.drawing([b"a", b"b", b"a"]) as generators:
            drawn.append([each.random() for each in generators])
            if error:
                raise error
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 3


def test_a_prompt_is_named_by_the_content_of_its_images():
    red, blue = Image.new("RGB", (56, 56), "red"), Image.new("RGB", (56, 56), "blue")
    one, other = PreparedImages(Qwen2VLImageProcessorPil()), PreparedImages(Qwen2VLImageProcessorPil())
    [(first,)] = one.of([[red]])
    _, (second,) = other.of([[blue], [red.copy()]])
    [(third,)] = other.of([[blue]])
    assert first.number == second.number != third.number  # rows are laid out by it
    assert prompt_name([5, 6], [first]) == prompt_name([5, 6], [second])
    assert prompt_name([5, 6], [first]) != prompt_name([5, 6], [third])
    assert prompt_name([5, 6], [first]) != prompt_name([5, 7], [first])
