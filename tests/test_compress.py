"""Compression on stock models: what left is as if masked, with padding, in batches, with a cache, and nothing stays behind."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Mapping

import pytest
import torch

from visionthink.chatml import IMAGE_PAD
from visionthink.compress.selection import LayerContext, Rows, Selection, VisionContext
from visionthink.compress.session import CompressionError, compress
from visionthink.data import synth
from visionthink.episode import Episode
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.forced import ForcedPolicy
from visionthink.policies.local import LocalPolicy
from visionthink.resolution import ResolutionLadder


@dataclasses.dataclass(frozen=True)
class Every:
    """Keeps every `step`-th visual token, before the decoder or at a layer."""

    step: int = 2
    layer: int | None = None
    rows: Rows = "last"
    positions: str = "keep"
    sees_tower: bool = False
    name: str = "every"

    def at(self, layers: int) -> Mapping[int, Rows]:
        return {} if self.layer is None else {self.layer: self.rows}

    def vision(self, context: VisionContext) -> Selection | None:
        return self._kept(len(context.features)) if self.layer is None else None

    def select(self, context: LayerContext) -> Selection | None:
        return self._kept(int(context.visual.sum()))

    def _kept(self, count: int) -> Selection:
        return Selection(torch.arange(0, count, self.step))

    def kept(self, layers: int) -> list[float]:
        return [1.0 if self.layer is not None and i < self.layer else 1 / self.step for i in range(layers)]


@pytest.fixture(scope="module", params=["qwen2.5-sdpa", "qwen2.5-eager", "qwen3-sdpa", "qwen3-eager"])
def policy(request, qwen3_folder):
    kind, attention = request.param.split("-")
    checkpoint = open_checkpoint("tiny-base" if kind == "qwen2.5" else str(qwen3_folder))
    checkpoint.model.set_attn_implementation(attention)
    return LocalPolicy(checkpoint, max_new_tokens=6)


def deepest(policy) -> int:
    return len(policy.checkpoint.model.model.language_model.layers) - 1


def histories(policy, count: int = 3, *, asked: bool = False):
    """Prompts with one image, or after a request with two; of different lengths."""
    checkpoint = policy.checkpoint
    found = []
    for i, example in enumerate(synth.suite(count)):
        episode = Episode(
            example, ResolutionLadder((0.25, 1) if asked or i % 2 else (1,)), checkpoint.protocol, budget=checkpoint.budget
        )
        if asked and episode.can_request:
            forced = ForcedPolicy(policy, checkpoint.protocol, "request")
            episode.step(forced.complete([episode.history])[0])
        found.append(episode.history)
    return found


def inputs_of(policy, found):
    return policy.model_inputs([policy.renderer.prompt_ids(h) for h in found], found)


def logits_of(policy, inputs):
    with torch.inference_mode():
        return policy.checkpoint.model(**inputs).logits[:, -1].float()


@contextlib.contextmanager
def masked(model, dropped: torch.Tensor, layer: int):
    """The plain model with what `dropped` [batch, length] names hidden from attention, from a layer on."""

    def hide(_module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        batch, queries, keys = hidden.shape[0], hidden.shape[1], hidden.shape[1]
        seen = torch.ones(queries, keys, dtype=torch.bool).tril()[None] & ~dropped[:, None]
        mask = kwargs.get("attention_mask")
        if mask is not None:
            seen = seen & (mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > -1)
        seen = (seen | torch.eye(queries, dtype=torch.bool))[:, None]
        eager = model.config.get_text_config()._attn_implementation == "eager"
        zero = torch.zeros(batch, 1, queries, keys)
        return args, kwargs | {"attention_mask": zero.masked_fill(~seen, torch.finfo(zero.dtype).min) if eager else seen}

    hooks = [
        x.register_forward_pre_hook(hide, with_kwargs=True) for i, x in enumerate(model.model.language_model.layers) if i >= layer
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """To 1e-5 of the largest logit."""
    return bool((found - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item()))


def dropped_by(inputs, method, image_id: int) -> torch.Tensor:
    """[batch, length]: what the test's method takes out."""
    dropped = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for i, ids in enumerate(inputs["input_ids"]):
        places = (ids == image_id).nonzero()[:, 0]
        gone = torch.ones(len(places), dtype=torch.bool)
        gone[:: method.step] = False
        dropped[i, places[gone]] = True
    return dropped


def methods(policy):
    layer = deepest(policy)
    return [Every(), Every(layer=layer), Every(step=3, layer=layer, rows="visual"), Every(layer=layer, rows="text")]


def test_keeping_all_is_bit_identical(policy):
    for asked in (False, True):
        inputs = inputs_of(policy, histories(policy, asked=asked))
        plain = logits_of(policy, inputs)
        for layer in (None, deepest(policy)):
            with compress(policy.checkpoint.model, Every(step=1, layer=layer)) as session:
                assert torch.equal(logits_of(policy, inputs), plain)
            assert session.report()["retained"] == 1.0


def test_dropping_is_masking(policy):
    """One image, two images, batched with padding."""
    model = policy.checkpoint.model
    for asked in (False, True):
        inputs = inputs_of(policy, histories(policy, asked=asked))
        for method in methods(policy):
            dropped = dropped_by(inputs, method, model.config.image_token_id)
            with masked(model, dropped, method.layer or 0):
                expected = logits_of(policy, inputs)
            with compress(model, method) as session:
                found = logits_of(policy, inputs)
            assert close(found, expected), method
            left = int((inputs["input_ids"] == model.config.image_token_id).sum() - dropped.sum())
            assert sum(session.tokens[0][-1]) == left and sum(session.totals[0]) == left + int(dropped.sum())
            first = sum(session.totals[0]) if method.layer else left
            assert sum(session.tokens[0][0]) == first


def test_batched_padded_and_one_by_one_are_the_same(policy):
    found = histories(policy, 4)
    for method in methods(policy):
        with compress(policy.checkpoint.model, method):
            together = logits_of(policy, inputs_of(policy, found))
            alone = torch.cat([logits_of(policy, inputs_of(policy, [h])) for h in found])
        assert close(together, alone), method


def test_cached_generation_is_full_recomputation(policy):
    """Every sampled token's logits, against the plain model that reads prompt and answer at once with what left masked."""
    model = policy.checkpoint.model
    for asked in (False, True):
        inputs = inputs_of(policy, histories(policy, asked=asked))
        for method in methods(policy):
            with compress(model, method), torch.inference_mode():
                output = model.generate(
                    **inputs,
                    max_new_tokens=4,
                    min_new_tokens=4,
                    do_sample=False,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
            sampled = output.sequences[:, inputs["input_ids"].shape[1] :]
            whole = dict(inputs)
            whole["input_ids"] = output.sequences
            whole["attention_mask"] = torch.cat((inputs["attention_mask"], torch.ones_like(sampled)), 1)
            whole["mm_token_type_ids"] = torch.cat((inputs["mm_token_type_ids"], torch.zeros_like(sampled)), 1)
            dropped = dropped_by(whole, method, model.config.image_token_id)
            with masked(model, dropped, method.layer or 0), torch.inference_mode():
                expected = model(**whole).logits[:, -5:-1].float()
            found = torch.stack(output.logits, 1).float()
            assert close(found, expected), (method, asked)


def test_twice_is_once_and_nothing_stays(policy):
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy))
    plain = logits_of(policy, inputs)
    method = methods(policy)[1]
    with compress(model, method) as session:
        first, second = logits_of(policy, inputs), logits_of(policy, inputs)
    assert torch.equal(first, second) and session.tokens[0] == session.tokens[1]
    assert torch.equal(logits_of(policy, inputs), plain)
    with pytest.raises(RuntimeError, match="on purpose"), compress(model, method):
        logits_of(policy, inputs)
        raise RuntimeError("on purpose")
    assert torch.equal(logits_of(policy, inputs), plain)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_another_thread_reads_as_ever(policy):
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy))
    plain, found = logits_of(policy, inputs), []
    with compress(model, methods(policy)[0]):
        thread = threading.Thread(target=lambda: found.append(logits_of(policy, inputs)))
        thread.start()
        thread.join()
        logits_of(policy, inputs)
    assert torch.equal(found[0], plain)


def test_renumbered_positions_go_on_without_gaps(policy):
    """Dropping before the decoder and renumbering is reading the embeddings that are left as plain text."""
    model, found = policy.checkpoint.model, histories(policy, 1)
    inputs = inputs_of(policy, found)
    if model.config.model_type == "qwen3_vl":
        pytest.skip("DeepStack adds to positions that plain text does not have")
    method = Every(positions="renumber")
    with compress(model, method), torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, output_logits=True, return_dict_in_generate=True)
    dropped = dropped_by(inputs, method, model.config.image_token_id)[0]
    with torch.inference_mode():
        features = torch.cat(model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output)
        embeddings = model.get_input_embeddings()(output.sequences)[0].clone()
        embeddings[: len(dropped)][inputs["input_ids"][0] == model.config.image_token_id] = features
        left = torch.cat((embeddings[: len(dropped)][~dropped], embeddings[len(dropped) :]))[None]
        expected = model.lm_head(model.model.language_model(inputs_embeds=left).last_hidden_state)[0, -4:-1]
    assert close(torch.stack(output.logits, 1)[0], expected)


def test_what_cannot_be_done_is_refused(policy):
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy))
    layers = deepest(policy) + 1
    with (
        pytest.raises(OptionError, match=rf"layer {layers}: must be from \d to {layers - 1}"),
        compress(model, Every(layer=layers)),
    ):
        pass
    with pytest.raises(OptionError, match="layer 0"), compress(model, Every(layer=0)):
        pass
    with pytest.raises(CompressionError, match="needs input_ids"), compress(model, Every()):
        model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]))
    with pytest.raises(CompressionError, match="static cache"), compress(model, Every()), torch.inference_mode():
        model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
    with pytest.raises(CompressionError, match="only"), compress(model.lm_head, Every()):  # no vision-language model at all
        pass


def test_a_method_that_takes_nothing_out_is_an_error(policy):
    class Nothing(Every):
        def vision(self, context):
            return None

    with pytest.raises(CompressionError, match="took no token out"), compress(policy.checkpoint.model, Nothing()):
        logits_of(policy, inputs_of(policy, histories(policy)))


def test_the_sign_of_an_image_is_what_we_think(policy):
    assert policy.checkpoint.tokenizer.convert_tokens_to_ids(IMAGE_PAD) == policy.checkpoint.model.config.image_token_id


class Recording:
    """A method, and what it selected."""

    def __init__(self, method):
        self.method, self.chosen = method, []

    def __getattr__(self, name):
        return getattr(self.method, name)

    def vision(self, context):
        self.chosen.append(self.method.vision(context))
        return self.chosen[-1]

    def select(self, context):
        self.chosen.append(self.method.select(context))
        return self.chosen[-1]


def real(policy, keep: float):
    """Every method, as far as the model has layers for it."""
    from visionthink.compress import baselines, fastv, sparsevlm, todre, visionzip

    last = deepest(policy)
    found = [
        fastv.FastV(keep=keep, layer=last),
        visionzip.VisionZip(keep=keep),
        visionzip.VisionZip(keep=keep, merge="mean"),
        todre.ToDRE(keep=keep),
        todre.ToDRE(keep=keep, objective="k_center"),
        baselines.Random(keep=keep),
        baselines.Uniform(keep=keep),
    ]
    share = keep if keep == 1 else max(keep, 0.8)  # what one layer of three can bring the average down to
    found += [sparsevlm.SparseVLM(keep=share, layers=(last,)), sparsevlm.SparseVLM(keep=share, version="plus", layers=(last,))]
    found.append(sparsevlm.SparseVLM(keep=share, layers=(last,), positions="renumber"))
    return found


def test_every_method_at_keep_one_is_bit_identical(policy):
    inputs = inputs_of(policy, histories(policy, asked=True))
    plain = logits_of(policy, inputs)
    for method in real(policy, 1.0):
        with compress(policy.checkpoint.model, method) as session:
            assert torch.equal(logits_of(policy, inputs), plain), method
        assert session.report()["retained"] == 1.0


def test_every_method_alone_batched_and_twice(policy):
    """Three samples of one or two images: together, one by one, and again."""
    found = histories(policy, 3, asked=True)
    for method in real(policy, 0.5):
        with compress(policy.checkpoint.model, method) as session:
            together = logits_of(policy, inputs_of(policy, found))
            again = logits_of(policy, inputs_of(policy, found))
            alone = torch.cat([logits_of(policy, inputs_of(policy, [h])) for h in found])
        assert torch.equal(together, again), method
        assert close(together, alone), method
        assert 0 < session.report()["retained_last"] < 1, method


def test_every_method_generates_on_what_it_left(policy):
    """The cache holds, layer by layer, what stayed, and generation comes to an end."""
    model = policy.checkpoint.model
    inputs = inputs_of(policy, histories(policy, 2, asked=True))
    for method in real(policy, 0.5):
        with compress(model, method) as session, torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True, do_sample=False)
        text = inputs["attention_mask"].sum(1) - (inputs["input_ids"] == model.config.image_token_id).sum(1)
        for layer, counts in enumerate(session.tokens[0]):
            longest = max(int(t) + c for t, c in zip(text, counts, strict=True))
            assert output.past_key_values.layers[layer].keys.shape[2] == longest + 2, (method, layer)


@pytest.mark.parametrize("name", ["fastv", "random", "uniform", "todre"])
def test_methods_without_merging_mask_what_they_drop(policy, name):
    from visionthink.compress import baselines, fastv, todre

    last = deepest(policy)
    method = {
        "fastv": fastv.FastV(keep=0.4, layer=last),
        "random": baselines.Random(keep=0.4),
        "uniform": baselines.Uniform(keep=0.4),
        "todre": todre.ToDRE(keep=0.4),
    }[name]
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True))
    recording = Recording(method)
    with compress(model, recording):
        found = logits_of(policy, inputs)
    chosen = [c for c in recording.chosen if c is not None]
    dropped = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    for i, selection in enumerate(chosen):
        assert selection.values is None
        places = (inputs["input_ids"][i] == model.config.image_token_id).nonzero()[:, 0]
        gone = torch.ones(len(places), dtype=torch.bool)
        gone[selection.keep] = False
        dropped[i, places[gone]] = True
    assert len(chosen) == 3 and dropped.any(1).all()
    with masked(model, dropped, last if name == "fastv" else 0):
        assert close(found, logits_of(policy, inputs))


def test_what_the_tower_says_stands_in_the_order_of_the_tokens(policy):
    """Received attention and keys against the tower's own tensors: the token that the merger makes of four patches is theirs."""
    seen = []

    class Looking(Every):
        def vision(self, context):
            seen.append(context)
            return super().vision(context)

    found = histories(policy, 1)
    inputs = inputs_of(policy, found)
    tower, caught = policy.checkpoint.model.model.visual, {}
    hooks = [
        tower.merger.register_forward_hook(lambda m, a, out: caught.update(merged=out)),
        tower.blocks[-1].attn.register_forward_pre_hook(lambda m, a, k: caught.update(k, given=a), with_kwargs=True),
    ]
    with compress(policy.checkpoint.model, Looking(sees_tower=True)):
        logits_of(policy, inputs)
    for hook in hooks:
        hook.remove()
    [context] = seen
    # the token at a place of the merger's output stands where the same features stand in the prompt
    merged = caught["merged"].to(context.features.dtype)
    where = torch.cdist(context.features.float(), merged.float()).argmin(1)
    hidden = caught.get("hidden_states", caught["given"][0] if caught["given"] else None)
    with torch.inference_mode():
        keys = tower.blocks[-1].attn.qkv(hidden).view(len(hidden), 3, tower.blocks[-1].attn.num_heads, -1)[:, 1]
    cosine, sine = caught["position_embeddings"]
    first, second = keys.chunk(2, -1)
    keys = keys * cosine[:, None] + torch.cat((-second, first), -1) * sine[:, None]
    expected = keys.mean(1).view(-1, 4, keys.shape[-1]).mean(1)[where]
    assert close(context.keys, expected)
    assert context.received.sum() == pytest.approx(len(hidden) / 4, rel=1e-4)  # every query gives 1, shared by four patches


def test_a_compressed_policy_says_what_was_left():
    from visionthink.compress.baselines import Uniform
    from visionthink.compress.policy import compressed
    from visionthink.episode import run_batch
    from visionthink.model import load
    from visionthink.policies.scripted import ScriptedPolicy

    model = load("tiny", max_new_tokens=8)
    halved = compressed(model.policy, Uniform(keep=0.5))
    transcripts = run_batch([model.episode(e) for e in synth.suite(12)], halved)
    asked = [t for t in transcripts if t.requested]
    assert asked and len(asked) < 12
    for transcript in transcripts:
        assert transcript.retain_layers == transcript.retain_cumulative / 2
        assert [t.usage.retained_tokens for t in transcript.turns] == ([2.0, 10.0] if transcript.requested else [2.0])
    with pytest.raises(OptionError, match="needs a local model"):
        compressed(ScriptedPolicy(["a"]), Uniform(keep=0.5))


def test_windows_are_counted_as_the_tower_counts_them():
    from transformers.vision_utils import get_vision_window_index

    from visionthink.compress.probe import window_order

    grids = [(1, 12, 8), (1, 18, 22), (1, 4, 4)]
    theirs, _ = get_vision_window_index(torch.tensor(grids), spatial_merge_size=2, window_size=112, patch_size=14)
    assert window_order(grids, 4, 2).tolist() == torch.as_tensor(theirs).tolist()
    assert window_order([(1, 4, 4), (1, 2, 2)], 0, 2).tolist() == [0, 1, 2, 3, 4]
