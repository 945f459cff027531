"""The transformers policy, on the real architectures."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from episodes import begin
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

import visionthink
from visionthink import Protocol, StopReason, run_batch
from visionthink.chatml import NEVER_SAMPLED
from visionthink.compress.baselines import Uniform
from visionthink.compress.session import compress
from visionthink.data import synth
from visionthink.engine.attention import TreeAttention
from visionthink.engine.decoding import Decode
from visionthink.engine.sampling import Sampling
from visionthink.engine.tower import PreparedImages
from visionthink.engine.trial import difference
from visionthink.errors import ImageError, ModelError, OptionError
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.policies.forced import ForcedPolicy
from visionthink.policies.local import LocalPolicy
from visionthink.policies.memory import complete_in_parts
from visionthink.policies.render import views
from visionthink.types import Failure


def episodes(checkpoint, examples, levels=(0.25, 1)):
    return [begin(e, levels, checkpoint.protocol, budget=checkpoint.budget) for e in examples]


def test_logprobs_and_batching_equal_one_unpadded_forward(tiny_base):
    """Batched, left-padded, two-image episodes against a plain forward of each whole sequence."""
    policy = LocalPolicy(tiny_base, max_new_tokens=8)
    mixed = [ForcedPolicy.of(policy, tiny_base.protocol, a) for a in ("request", "direct")]
    examples = synth.suite(6)
    for forced in mixed:
        batch = episodes(tiny_base, examples)
        for episode, transcript in zip(batch, run_batch(batch, forced), strict=True):
            last = transcript.turns[-1]
            inputs = policy.model_inputs([list(transcript.token_ids)], [episode.history])
            with torch.inference_mode():
                logits = tiny_base.model(**inputs).logits[0].log_softmax(-1)
            start = len(transcript.token_ids) - len(last.token_ids)
            expected = [logits[start + i - 1, token].item() for i, token in enumerate(last.token_ids)]
            assert last.logprobs == pytest.approx(expected, abs=1e-4)


def test_batch_size_does_not_change_the_answer(tiny_base):
    examples = synth.suite(12)
    answers = [
        [
            t.turns[-1].token_ids
            for t in run_batch(episodes(tiny_base, examples), LocalPolicy(tiny_base, max_new_tokens=8, batch_size=b))
        ]
        for b in (1, 5, 12)
    ]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error_of_their_row(tiny_base, temperature):
    policy = LocalPolicy(tiny_base, max_new_tokens=4, temperature=temperature)
    image = episodes(tiny_base, synth.suite(2))
    spoiled: list[int] = []

    def spoil(_module, _inputs, logits):
        if not spoiled:  # a row that has ended leaves, and others take its place
            logits[0] = float("nan")
        spoiled.append(1)

    hook = tiny_base.model.get_output_embeddings().register_forward_hook(spoil)
    try:
        bad, good = policy.complete([e.history for e in image])
    finally:
        hook.remove()
    assert spoiled and bad.error == Failure("server", "the model's logits are not numbers")
    assert good.finish_reason != "error" and 0 < good.first_token_seconds < good.seconds


def test_what_is_sampled_depends_on_the_seed_and_not_on_the_batch_or_the_way(tiny_base):
    def sample(seed, batch_size=None, whole=False):
        policy = LocalPolicy(tiny_base, max_new_tokens=8, temperature=1.5, seed=seed, batch_size=batch_size)
        policy = policy.reading_whole() if whole else policy
        return [t.token_ids for t in run_batch(episodes(tiny_base, synth.suite(24)), policy)]

    usual = sample(1)
    assert sample(1, batch_size=5) == sample(1, batch_size=1) == sample(1, whole=True) == usual
    assert sample(2) != usual


def test_sampling_is_begun_anew(tiny_base):
    policy = LocalPolicy(tiny_base, max_new_tokens=8, temperature=3.0)
    histories = [e.history for e in episodes(tiny_base, synth.suite(3))]
    first, second, anew = policy.complete(histories), policy.complete(histories), policy.seeded(0).complete(histories)
    assert first != second and [c.token_ids for c in first] == [c.token_ids for c in anew]


def test_the_second_round_goes_on_from_the_first(tiny_base):
    """Two questions that are made to ask. The first round encodes two low views of 16 patches; the second one reads what is
    behind the first prompts, and encodes two full views of 64 patches."""
    policy = LocalPolicy(tiny_base, max_new_tokens=1)
    batch = episodes(tiny_base, synth.suite(2))
    run_batch(batch, ForcedPolicy.of(policy, tiny_base.protocol, "request"))
    counts = policy._generation.counts
    assert (counts.prepared, counts.patches) == (4, 2 * 16 + 2 * 64)  # forced, the first round is not computed
    policy = LocalPolicy(tiny_base, max_new_tokens=1)
    counts, batch = policy._generation.counts, episodes(tiny_base, synth.suite(2))
    prompts = [len(policy.renderer.prompt_ids(e.history)) for e in batch]
    policy.complete([e.history for e in batch])
    first = dataclasses.replace(counts)
    assert (first.prepared, first.patches) == (2, 2 * 16) and max(prompts) < first.prefilled < sum(prompts)
    for episode in batch:
        episode.step(visionthink.Completion(tiny_base.protocol.request()))
    policy.complete([e.history for e in batch])
    behind = sum(len(policy.renderer.prompt_ids(e.history)) for e in batch) - sum(prompts)
    assert (counts.prepared, counts.patches, counts.prefilled - first.prefilled) == (4, 2 * 16 + 2 * 64, behind)


def test_answers_are_those_of_the_weights_there_are(tmp_path):
    """A model that is changed between two equal questions."""
    checkpoint = open_checkpoint("tiny-base")
    policy = LocalPolicy(checkpoint, max_new_tokens=4)
    history = begin(synth.suite(1)[0], (1,), checkpoint.protocol, budget=checkpoint.budget).history
    before = policy.complete([history])
    with torch.no_grad():
        for layer in checkpoint.model.model.language_model.layers:
            layer.self_attn.v_proj.weight.data.mul_(3)  # which changes no version that torch counts
    after = policy.complete([history])
    assert after[0].logprobs == LocalPolicy(checkpoint, max_new_tokens=4).complete([history])[0].logprobs
    assert after[0].logprobs != before[0].logprobs


def test_a_call_that_fails_leaves_nothing_behind(tiny_base):
    policy = LocalPolicy(tiny_base, max_new_tokens=4)
    histories = [e.history for e in episodes(tiny_base, synth.suite(2))]
    usual = [c.token_ids for c in policy.complete(histories)]

    def fail(*_):
        raise KeyboardInterrupt

    hook = tiny_base.model.lm_head.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        policy.complete(histories)
    hook.remove()
    assert policy._generation.bytes_held == 0
    assert [c.token_ids for c in policy.complete(histories)] == usual and policy._generation.bytes_held > 0


@pytest.mark.parametrize("whole", [False, True])
def test_what_is_sampled_does_not_depend_on_memory_that_ran_out(tiny_base, whole):
    """In the second token of a batch, which is halved then."""
    histories = [e.history for e in episodes(tiny_base, synth.suite(6))] * 2

    def sampled() -> list[tuple[int, ...]]:
        policy = LocalPolicy(tiny_base, max_new_tokens=6, temperature=4.0)
        return [c.token_ids for c in (policy.reading_whole() if whole else policy).complete(histories)]

    usual, calls = sampled(), []

    def run_out(*_):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError

    hook = tiny_base.model.lm_head.register_forward_hook(run_out)
    try:
        assert sampled() == usual and len(calls) > 7
    finally:
        hook.remove()


def test_an_image_that_is_drawn_on_is_another(tiny_base):
    policy = LocalPolicy(tiny_base, max_new_tokens=2)
    history = begin(synth.suite(1)[0], (1,), tiny_base.protocol, budget=tiny_base.budget).history
    before = policy.complete([history])
    views(history)[0].image.paste((255, 0, 0), (0, 0, 80, 80))
    after = policy.complete([history])
    assert before[0].logprobs != after[0].logprobs == LocalPolicy(tiny_base, max_new_tokens=2).complete([history])[0].logprobs


def test_images_that_differ_in_their_palette_alone_are_two():
    one, other = (Image.new("P", (56, 56)) for _ in range(2))
    one.putpalette([255, 0, 0])
    other.putpalette([0, 0, 255])
    [(first,), (second,)] = PreparedImages(Qwen2VLImageProcessorPil()).of([[one], [other]])
    assert first.number != second.number


def test_a_session_of_compression_takes_hold_of_a_policy(tiny_base):
    """The engine would pass its hooks by."""
    policy = LocalPolicy(tiny_base, max_new_tokens=4)
    histories = [e.history for e in episodes(tiny_base, synth.suite(3), (1,))]
    found = []
    for each in (policy, policy.reading_whole()):
        with compress(tiny_base.model, Uniform(keep=0.5)) as session:
            found.append([c.logprobs for c in each.complete(histories)])
        assert session.report()["retained"] == 0.5
    assert found[0] == found[1] != [c.logprobs for c in policy.complete(histories)]


@pytest.mark.parametrize("temperature", [1e-300, 1e-320])
def test_a_temperature_next_to_nothing_is_greedy(tiny_base, temperature):
    histories = [e.history for e in episodes(tiny_base, synth.suite(3))]
    greedy, cold = (LocalPolicy(tiny_base, max_new_tokens=4, temperature=t).complete(histories) for t in (0.0, temperature))
    assert [c.token_ids for c in greedy] == [c.token_ids for c in cold]


@pytest.mark.parametrize(
    "option", [{"batch_size": "4"}, {"batch_size": 2.5}, {"max_new_tokens": None}, {"max_new_tokens": 1.5}, {"temperature": "1"}]
)
def test_options_of_other_types_are_refused(tiny_base, option):
    [(name, value)] = option.items()
    with pytest.raises(OptionError, match=f"{name} {value!r}: must be a "):
        LocalPolicy(tiny_base, **option)


def test_prompts_are_completed_by_length_and_answered_in_order():
    calls = []

    def complete(part):
        calls.append(list(part))
        return [visionthink.Completion(str(i)) for i in part]

    said = complete_in_parts([0, 1, 3, 4], [5, 9, 7, 5, 9], lambda lengths: 2, complete)
    assert calls == [[1, 4], [0, 3]] and [c.text for c in said] == ["0", "1", "3", "4"]


@pytest.mark.parametrize("broken", [TreeAttention, Decode])
def test_an_engine_that_computes_something_else_is_found(tiny_base, monkeypatch, broken):
    """In reading prompts, and in decoding behind them; as it is asked on a GPU."""
    policy = LocalPolicy(tiny_base)
    tried = (policy._generation, policy._stock, policy.renderer.plain("What is the colour of the shape on the left?"))
    assert difference(*tried) == ""
    name = {TreeAttention: "__call__", Decode: "attend"}[broken]
    usual = getattr(broken, name)
    monkeypatch.setattr(broken, name, lambda *given: usual(*given) / 2)
    assert difference(*tried).endswith(" from those of plain attention")
    monkeypatch.setattr(broken, name, lambda *_: torch.zeros(1) @ torch.zeros(2))
    assert difference(*tried).startswith("inconsistent tensor size")


def test_rows_shorter_than_what_is_banned(tiny_base):
    rule = Sampling(ends=frozenset(), most=1, phrases=((5, 6, 7, 8),))
    drawn, *_ = rule.draw(torch.zeros(2, 9).index_fill(1, torch.tensor([8]), 1.0), [[7], [1, 5, 6, 7]], None)
    assert drawn.tolist() == [8, 0]


def test_image_tokens_cannot_be_sampled(tiny_base):
    """Even where the model wants nothing else."""
    policy = LocalPolicy(tiny_base, max_new_tokens=4, temperature=1.0)
    head = tiny_base.model.lm_head
    banned = [tiny_base.tokenizer.convert_tokens_to_ids(t) for t in NEVER_SAMPLED if t in tiny_base.tokenizer.get_vocab()]

    def eager(_, __, logits):
        logits[..., banned] = 1e4
        return logits

    hook = head.register_forward_hook(eager)
    try:
        transcripts = run_batch(episodes(tiny_base, synth.suite(6), (1,)), policy)
    finally:
        hook.remove()
    assert not {i for t in transcripts for i in t.turns[0].token_ids} & set(banned)


def test_a_model_that_never_stops(tiny_base):
    policy = LocalPolicy(tiny_base, max_new_tokens=5)
    end = policy.renderer.end_id

    def endless(_, __, logits):
        logits[..., policy.renderer.end_ids] = -1e4
        return logits

    hook = tiny_base.model.lm_head.register_forward_hook(endless)
    try:
        [transcript] = run_batch(episodes(tiny_base, synth.suite(1), (1,)), policy)
    finally:
        hook.remove()
    assert transcript.stop_reason == StopReason.LENGTH
    assert len(transcript.turns[0].token_ids) == 5 and end not in transcript.turns[0].token_ids
    assert transcript.answer is None


def test_forced_branches(tiny_base):
    policy = LocalPolicy(tiny_base, max_new_tokens=8)
    asked = run_batch(episodes(tiny_base, synth.suite(6)), ForcedPolicy.of(policy, tiny_base.protocol, "request"))
    direct = run_batch(episodes(tiny_base, synth.suite(6)), ForcedPolicy.of(policy, tiny_base.protocol, "direct"))
    assert [t.requested for t in asked + direct] == [True] * 6 + [False] * 6
    assert [len(t.turns) for t in asked + direct] == [2] * 6 + [1] * 6
    assert [t.visual_tokens for t in asked + direct] == [20] * 6 + [4] * 6
    assert {t.turns[0].text for t in asked} == {tiny_base.protocol.request()}


@pytest.mark.parametrize("levels", [(1,), (0.25, 1)])
def test_qwen3_vl_runs_through_the_same_policy(qwen3_folder, levels):
    checkpoint = open_checkpoint(str(qwen3_folder))
    assert checkpoint.model.config.model_type == "qwen3_vl"
    assert checkpoint.budget.factor == 32
    policy = LocalPolicy(checkpoint, max_new_tokens=3)
    batch = episodes(checkpoint, [synth.draw("scene", 0), synth.draw("chart", 1)], levels)
    if len(levels) > 1:
        policy = ForcedPolicy.of(policy, checkpoint.protocol, "request")
    for transcript in run_batch(batch, policy):
        assert transcript.turns[-1].logprobs is not None
        assert transcript.visual_tokens == (16 if len(levels) == 1 else 20)
        assert transcript.token_ids.count(checkpoint.model.config.image_token_id) == transcript.visual_tokens


def test_what_load_refuses_and_takes(red, tmp_path):
    for bad in ({"batch_size": 0}, {"max_new_tokens": 0}, {"temperature": -1.0}, {"ladder": ("a",)}):
        with pytest.raises(OptionError):
            visionthink.load("tiny", **bad)
    with pytest.raises(TypeError, match=r"^load\(\) got an unexpected keyword argument 'divice'"):
        visionthink.load("tiny", divice="cpu")
    with pytest.raises(OptionError, match="timeout, deadline: only for an endpoint, and tiny is none; leave it out"):
        visionthink.load("tiny", timeout=5, deadline=5)
    with pytest.raises(OptionError, match="engine_options: are for engine vllm, and tiny is run by transformers"):
        visionthink.load("tiny", engine_options={"tensor_parallel_size": 2})
    model = visionthink.load(Path(resolve("tiny")), ladder="0.25,1")
    with pytest.raises(OptionError, match="question None: must be text"):
        model.ask(red, None)
    with pytest.raises(ImageError, match="NoneType is not a path, the bytes of a file, or an opened image"):
        model.ask(None, "How many?")
    assert model.ask(red, "How many shapes are there?", ladder=(1,)).levels == (1.0,)


def test_load_and_ask(red, tmp_path):
    red.save(tmp_path / "red.png")
    result = visionthink.load("tiny").ask(tmp_path / "red.png", "How many shapes are there?")
    assert result.levels[0] == 0.25
    assert result.usage["visual_tokens_full"] == 16
    assert result.transcript.question == "How many shapes are there?"


def test_other_dialects_on_the_same_weights(red):
    model = visionthink.load("tiny", dialect="agent", boundary="released", max_new_tokens=4)
    assert model.protocol == Protocol("agent", "released")
    assert model.ask(red, "What is it?").transcript.turns[0].prompt.startswith("You are a helpful assistant.")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_checkpoint_with_a_file_missing(tiny, tmp_path, file):
    folder = tmp_path / "copy"
    shutil.copytree(tiny.path, folder)
    (folder / file).unlink()
    with pytest.raises(ModelError) as error:
        open_checkpoint(str(folder))
    assert str(error.value) == f"model {folder}: {file} is missing"


def test_damaged_checkpoints(tiny, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny.path, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match=r"cannot be loaded"):
        open_checkpoint(str(folder))
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "visionthink.json").write_text("{")
    with pytest.raises(ModelError, match=r"visionthink.json: not a JSON object"):
        open_checkpoint(str(folder))
    (folder / "visionthink.json").write_text('{"dialect": "x"}')
    with pytest.raises(ModelError, match=r"visionthink.json: unknown dialect 'x'"):
        open_checkpoint(str(folder))
    (folder / "visionthink.json").write_text('{"dialect": []}')
    with pytest.raises(ModelError, match=r"visionthink.json: expected an object"):
        open_checkpoint(str(folder))
    (folder / "visionthink.json").unlink()
    processor = (folder / "preprocessor_config.json").read_text()
    (folder / "preprocessor_config.json").write_text(processor.replace('"patch_size": 14', '"patch_size": 16'))
    with pytest.raises(ModelError, match=r"patch_size is 16 in the image processor and 14 in config.json"):
        open_checkpoint(str(folder))
    (folder / "preprocessor_config.json").write_text(processor)
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match=r"model.safetensors.index.json is damaged"):
        open_checkpoint(str(folder))
    with pytest.raises(ModelError, match="no such folder"):
        open_checkpoint(str(tmp_path / "nowhere"))


def test_a_model_that_is_only_described_says_nothing_of_sharing(caplog):
    visionthink.load("tiny", device="meta")
    assert not caplog.records
