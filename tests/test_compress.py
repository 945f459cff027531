"""Compression on stock models: what left is as if masked, with padding, in batches, with a cache, and nothing stays behind."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import threading
from collections.abc import Mapping

import pytest
import torch
from episodes import begin

from visionthink.chatml import IMAGE_PAD
from visionthink.compress.prepare import prepare
from visionthink.compress.selection import LayerContext, Needs, Rows, Selection, VisionContext
from visionthink.compress.session import compress
from visionthink.data import synth
from visionthink.engine.attention import plain_attention
from visionthink.errors import CompressionError, OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.forced import ForcedPolicy
from visionthink.policies.local import LocalPolicy
from visionthink.types import Message

NOTHING = Needs()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every:
    """Keeps every `step`-th visual token, before the decoder or at a layer."""

    step: int = 2
    layer: int | None = None
    rows: Rows = "last"
    positions: str = "keep"
    needs: Needs = NOTHING
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


COMMON = "qwen2.5-sdpa"
OTHERS = ("qwen2-sdpa", "qwen2.5-eager", "qwen3-sdpa", "qwen3-eager")


@pytest.fixture(scope="module", params=[COMMON, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def policy(request, qwen2_folder, qwen3_folder):
    kind, attention = request.param.split("-")
    name = {"qwen2": str(qwen2_folder), "qwen2.5": "tiny-base", "qwen3": str(qwen3_folder)}[kind]
    checkpoint = open_checkpoint(name, attention=attention)
    return LocalPolicy(checkpoint, max_new_tokens=6)


def deepest(policy) -> int:
    return len(policy.checkpoint.model.model.language_model.layers) - 1


def hooks(model) -> list[tuple[int, int]]:
    """How many each module has."""
    return [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]


def histories(policy, count: int = 3, *, asked: bool = False):
    """Prompts with one image, or after a request with two; of different lengths."""
    checkpoint = policy.checkpoint
    found = []
    for i, example in enumerate(synth.suite(count)):
        levels = (0.25, 1) if asked or i % 2 else (1,)
        episode = begin(example, levels, checkpoint.protocol, budget=checkpoint.budget)
        if asked and episode.can_request:
            forced = ForcedPolicy.of(policy, checkpoint.protocol, "request")
            episode.step(forced.complete([episode.history])[0])
        found.append(episode.history)
    return found


def inputs_of(policy, found):
    return policy.model_inputs([policy.renderer.prompt_ids(h) for h in found], found)


def logits_of(policy, inputs):
    with torch.inference_mode():
        return policy.checkpoint.model(**inputs).logits[:, -1].float()


@contextlib.contextmanager
def masked(model, dropped: torch.Tensor, layer: int, behind: int = 1000):
    """The plain model with what `dropped` [batch, length] names hidden from attention, from a layer on, up to another."""

    def hide(_module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        batch, queries, keys = hidden.shape[0], hidden.shape[1], hidden.shape[1]
        seen = torch.ones(queries, keys, dtype=torch.bool).tril()[None] & ~dropped[:, None]
        mask = kwargs.get("attention_mask")
        if mask is not None:
            seen = seen & (mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > -1)
        seen = (seen | torch.eye(queries, dtype=torch.bool))[:, None]
        eager = plain_attention(model.config.get_text_config()._attn_implementation) == "eager"
        zero = torch.zeros(batch, 1, queries, keys)
        return args, kwargs | {"attention_mask": zero.masked_fill(~seen, torch.finfo(zero.dtype).min) if eager else seen}

    hooks = [
        x.register_forward_pre_hook(hide, with_kwargs=True)
        for i, x in enumerate(model.model.language_model.layers)
        if layer <= i < behind
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


def with_answer(inputs, sequences):
    """What the model would read if prompt and answer [batch, length] were one prompt."""
    said = sequences[:, inputs["input_ids"].shape[1] :]
    whole = dict(inputs) | {"input_ids": sequences}
    whole["attention_mask"] = torch.cat((inputs["attention_mask"], torch.ones_like(said)), 1)
    whole["mm_token_type_ids"] = torch.cat((inputs["mm_token_type_ids"], torch.zeros_like(said)), 1)
    return whole


def text_of(inputs, sequences):
    """Prompt, answer and three more words [batch, length], whose images a cache has already."""
    mask = torch.cat((inputs["attention_mask"], torch.ones_like(sequences[:, inputs["input_ids"].shape[1] :])), 1)
    return {name: torch.nn.functional.pad(x, (0, 3), value=1) for name, x in (("input_ids", sequences), ("attention_mask", mask))}


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
            whole = with_answer(inputs, output.sequences)
            dropped = dropped_by(whole, method, model.config.image_token_id)
            with masked(model, dropped, method.layer or 0), torch.inference_mode():
                expected = model(**whole).logits[:, -5:-1].float()
            found = torch.stack(output.logits, 1).float()
            assert close(found, expected), (method, asked)


def test_twice_is_once_and_nothing_stays(policy):
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy))
    plain, before = logits_of(policy, inputs), hooks(model)
    method = methods(policy)[1]
    with compress(model, method) as session:
        first, second = logits_of(policy, inputs), logits_of(policy, inputs)
    assert torch.equal(first, second) and session.tokens[0] == session.tokens[1]
    assert torch.equal(logits_of(policy, inputs), plain)
    with pytest.raises(RuntimeError, match="on purpose"), compress(model, method):
        logits_of(policy, inputs)
        raise RuntimeError("on purpose")
    assert torch.equal(logits_of(policy, inputs), plain)
    assert hooks(model) == before


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
    for method in methods(policy):
        with compress(model, method), torch.inference_mode():
            said = model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, return_dict_in_generate=True)
            with pytest.raises(CompressionError, match="goes on where tokens have left the cache"):
                model.generate(**text_of(inputs, said.sequences), past_key_values=said.past_key_values, max_new_tokens=2)
        with pytest.raises(CompressionError, match="was filled before"), compress(model, method), torch.inference_mode():
            model.generate(**text_of(inputs, said.sequences), past_key_values=said.past_key_values, max_new_tokens=2)
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
        self.chosen.append((None, self.method.vision(context)))
        return self.chosen[-1][1]

    def select(self, context):
        self.chosen.append((context.layer, self.method.select(context)))
        return self.chosen[-1][1]


def real(policy, keep: float):
    """Every method."""
    from visionthink.compress import baselines, fastv, sparsevlm, todre, visiondrop, visionzip

    # the tokens of Qwen3-VL are complete from the second layer on
    layers = (2, 4) if policy.checkpoint.model.config.model_type == "qwen3_vl" else None
    return [
        fastv.FastV(keep=keep),
        sparsevlm.SparseVLM(keep=keep, layers=layers),
        sparsevlm.SparseVLM(keep=keep, layers=layers, positions="renumber"),
        sparsevlm.SparseVLM(keep=keep, layers=layers, version="plus"),
        visionzip.VisionZip(keep=keep),
        visionzip.VisionZip(keep=keep, merge="mean"),
        todre.ToDRE(keep=keep),
        todre.ToDRE(keep=keep, objective="k_center"),
        todre.ToDRE(keep=keep, stage2=True),
        visiondrop.VisionDrop(keep=keep),
        baselines.Random(keep=keep),
        baselines.Uniform(keep=keep),
    ]


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


@contextlib.contextmanager
def as_recorded(model, inputs, chosen: list[tuple[int | None, Selection | None]]):
    """The plain model with what a method chose: dropped tokens hidden from attention from there on, kept ones overwritten."""
    ids, layers = inputs["input_ids"], len(model.model.language_model.layers)
    current = [(row == model.config.image_token_id).nonzero()[:, 0] for row in ids]
    dropped, written = {0: torch.zeros_like(ids, dtype=torch.bool)}, {}
    for stage in dict.fromkeys(where for where, _ in chosen):
        layer = stage or 0
        dropped[layer] = dropped[max(dropped)].clone()
        for i, selection in enumerate([s for where, s in chosen if where == stage]):
            if selection is None:
                continue
            kept = current[i][selection.keep]
            dropped[layer][i, current[i]] = True
            dropped[layer][i, kept] = False
            current[i] = kept
            if selection.values is not None:
                written.setdefault(layer, []).append((i, kept, selection.values))

    def write(layer):
        def hook(_module, args, kwargs):
            hidden = (args[0] if args else kwargs["hidden_states"]).clone()
            for i, kept, values in written[layer]:
                hidden[i, kept] = values.to(hidden.dtype)
            return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

        return hook

    stages = sorted(dropped)
    with contextlib.ExitStack() as stack:
        for layer in written:
            hook = model.model.language_model.layers[layer].register_forward_pre_hook(write(layer), with_kwargs=True)
            stack.callback(hook.remove)
        for layer, behind in zip(stages, [*stages[1:], layers], strict=True):
            stack.enter_context(masked(model, dropped[layer], layer, behind))
        yield


def test_every_method_leaves_what_masking_leaves(policy):
    """Three samples of two images each, padded: the plain model under a mask, with merged tokens written in by hand."""
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True))
    for method in real(policy, 0.4):
        if method.positions == "renumber":
            continue  # a mask cannot move positions
        recording = Recording(method)
        with compress(model, recording):
            found = logits_of(policy, inputs)
        with as_recorded(model, inputs, recording.chosen):
            assert close(found, logits_of(policy, inputs)), method


class Replaying(Recording):
    """A method that selects what another one did."""

    def __init__(self, recording):
        self.method, self.chosen = recording.method, iter(recording.chosen)

    def vision(self, context):
        return next(self.chosen)[1]

    select = vision


def test_every_method_cached_is_recomputed(policy):
    """Logits of every token generated behind a compressed cache, against prompt and answer read at once."""
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True))
    for method in real(policy, 0.4):
        recording = Recording(method)
        with compress(model, recording), torch.inference_mode():
            output = model.generate(
                **inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        with compress(model, Replaying(recording)), torch.inference_mode():
            expected = model(**with_answer(inputs, output.sequences)).logits[:, -5:-1].float()
        assert close(torch.stack(output.logits, 1).float(), expected), method


def test_samples_and_beams_share_a_prompt(policy):
    """Two answers per prompt: drawn, and by beam search, whose cache is put in another order as it goes."""
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 2, asked=True))
    for how in ({"do_sample": True, "num_return_sequences": 2}, {"do_sample": False, "num_beams": 2, "num_return_sequences": 2}):
        for method in methods(policy)[:2]:
            torch.manual_seed(0)
            with compress(model, method), torch.inference_mode():
                output = model.generate(
                    **inputs, max_new_tokens=4, min_new_tokens=4, output_logits=True, return_dict_in_generate=True, **how
                )
            whole = {k: x if k.startswith(("pixel", "image")) else x.repeat_interleave(2, 0) for k, x in inputs.items()}
            images = inputs["image_grid_thw"]
            order = [j for i in range(2) for _ in range(2) for j in (2 * i, 2 * i + 1)]
            patches = inputs["pixel_values"].split(images.prod(1).tolist())
            whole["pixel_values"], whole["image_grid_thw"] = torch.cat([patches[j] for j in order]), images[order]
            whole = with_answer(whole, output.sequences)
            with masked(model, dropped_by(whole, method, model.config.image_token_id), method.layer or 0), torch.inference_mode():
                expected = model(**whole).logits[:, -5:-1].float()
            if "num_beams" in how:
                steps = [scores[beams] for scores, beams in zip(output.logits, output.beam_indices.T, strict=False)]
                assert close(torch.stack(steps, 1).float(), expected), method
            else:
                assert close(torch.stack(output.logits, 1).float(), expected), method


def test_every_method_repeats_a_prompt_as_it_is(policy):
    """Images are encoded once and prompts repeated: every copy has the images of its own prompt."""
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True))
    for method in real(policy, 0.5):
        with compress(model, method):
            expected = logits_of(policy, inputs)
        with compress(model, method) as session, torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=1,
                do_sample=True,
                num_return_sequences=2,
                output_logits=True,
                return_dict_in_generate=True,
            )
        assert close(output.logits[0].float(), expected.repeat_interleave(2, 0)), method
        assert session.totals[0][::2] == session.totals[0][1::2]


def test_a_prompt_without_an_image_stands_beside_others(policy):
    model, found = policy.checkpoint.model, histories(policy, 2)
    text = [Message("user", ("How many legs has a spider?",))]
    for method in real(policy, 0.5):
        with compress(model, method) as session:
            together = logits_of(policy, inputs_of(policy, [found[0], text, found[1]]))
            alone = torch.cat([logits_of(policy, inputs_of(policy, [h])) for h in (found[0], text, found[1])])
        assert close(together, alone), method
        assert session.totals[0][1] == 0
    inputs = inputs_of(policy, [text, text, found[0]])
    with compress(model, Every(), views=[[], [], [True]]) as session:
        logits_of(policy, inputs)
    assert session.tokens[0][0][:2] == [0, 0] and 0 < session.tokens[0][0][2] < session.totals[0][2]


def generated(model, inputs, **options):
    with torch.inference_mode():
        options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False} | options
        return model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)


def check_cached(policy, inputs, method, dropped_of=dropped_by):
    """Every generated token, against prompt and answer read at once with what left masked."""
    model = policy.checkpoint.model
    with compress(model, method):
        output = generated(model, inputs)
    whole = with_answer(inputs, output.sequences)
    dropped = dropped_of(whole, method, model.config.image_token_id)
    with masked(model, dropped, method.layer or 0), torch.inference_mode():
        expected = model(**whole).logits[:, -5:-1].float()
    assert close(torch.stack(output.logits, 1).float(), expected), method


def test_the_longest_prompt_may_lose_nothing(policy):
    """Beside it others gain padding, though the batch is no narrower than before."""
    found = [histories(policy, 1)[0], [Message("user", ("How many legs has a spider? " * 12,))]]
    for method in methods(policy):
        check_cached(policy, inputs_of(policy, found), method)


def test_prompts_of_one_length_may_lose_different_numbers(policy):
    """There is no padding, so that generation makes no mask; then there is."""
    image, grids = policy.checkpoint.model.config.image_token_id, [(1, 4, 6), (1, 6, 8)]
    rows = []
    for _, h, w in grids:
        rows.append([*range(270, 270 + 20 - h * w // 4), *[image] * (h * w // 4), 300, 301, 302])
    for method in methods(policy):
        check_cached(policy, raw_inputs(policy, rows, grids), method)


def raw_inputs(policy, rows, grids):
    """Prompts [batch][length] of one length, with random images."""
    vision = policy.checkpoint.model.config.vision_config
    values = sum(t * h * w for t, h, w in grids), 3 * vision.temporal_patch_size * vision.patch_size**2
    ids = torch.tensor(rows)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(*values, generator=torch.Generator().manual_seed(0)),
        "image_grid_thw": torch.tensor(grids),
        "mm_token_type_ids": (ids == policy.checkpoint.model.config.image_token_id).long(),
    }


def test_a_loop_of_ones_own_goes_on_behind_the_whole_prompt(policy):
    """The plain call with a cache counts positions by its length, which is not that of the prompt any more."""
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 1))
    for method in methods(policy):
        with compress(model, method):
            expected = generated(model, inputs)
        with compress(model, method), torch.inference_mode():
            output = model(**inputs, use_cache=True)
            for i in range(3):
                token = expected.sequences[:, inputs["input_ids"].shape[1] + i :][:, :1]
                output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
                assert close(output.logits[:, -1].float(), expected.logits[i + 1].float()), method


def test_sessions_that_would_do_nothing_are_errors(policy):
    model, found = policy.checkpoint.model, []
    before = hooks(model)
    inputs = inputs_of(policy, histories(policy, 2))
    with pytest.raises(CompressionError, match="no prompt was read by the thread of the session"), compress(model, Every()):
        thread = threading.Thread(target=lambda: found.append(logits_of(policy, inputs)))
        thread.start()
        thread.join()
    with pytest.raises(CompressionError, match="compiled"), compress(torch.compile(model), Every()):
        pass
    with compress(model, Every()), torch.inference_mode(), pytest.raises(CompressionError, match="an image behind"):
        plain = model(input_ids=torch.tensor([[270, 271]]), use_cache=True)
        model(**{k: x[:1] for k, x in inputs.items() if x.ndim == 2}, past_key_values=plain.past_key_values)
    with compress(model, Every()), pytest.raises(CompressionError, match="another session of this thread"):
        logits_of(policy, inputs)
        with compress(model, Every()):
            pass
    with pytest.raises(CompressionError, match="no layer to skip, and none to scale"), compress(model, PassingEarly()):
        logits_of(policy, inputs)
    assert hooks(model) == before


class PassingEarly(Every):
    def vision(self, context):
        return Selection(torch.arange(1), others="pass")


def test_only_the_cache_of_the_last_prompt_goes_on(policy):
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 1))
    step = {"input_ids": torch.tensor([[270]]), "use_cache": True}
    for method in methods(policy):
        with torch.inference_mode(), compress(model, method):
            first = model(**inputs, use_cache=True)
            model(**inputs_of(policy, histories(policy, 2)[1:]), use_cache=True)
            with pytest.raises(CompressionError, match="filled before or by an earlier one"):
                model(**step, past_key_values=first.past_key_values)


@pytest.mark.parametrize("layered", [False, True])
def test_a_method_that_answers_nonsense_is_told(policy, layered):
    answers = {
        "indices": Selection(torch.tensor([True, False])),
        "does not ascend": Selection(torch.tensor([2, 1])),
        "ascend within": Selection(torch.tensor([0, 500])),
        r"values are \[1, 3\] for 2": Selection(torch.tensor([0, 1]), torch.zeros(1, 3)),
    }
    for line, answer in answers.items():

        class Wrong(Every):
            def vision(self, context, answer=answer):
                return None if layered else answer

            def select(self, context, answer=answer):
                return answer

        method = Wrong(layer=deepest(policy) if layered else None)
        with pytest.raises(OptionError, match=line), compress(policy.checkpoint.model, method):
            logits_of(policy, inputs_of(policy, histories(policy, 1)))


def test_an_exception_that_is_caught_within_leaves_no_half_a_record(policy):
    class Failing(Every):
        calls = 0

        def select(self, context):
            Failing.calls += 1
            if Failing.calls == 2:
                raise RuntimeError("on purpose")
            return super().select(context)

    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 3))
    method = Failing(layer=deepest(policy))
    with compress(model, method) as session:
        with pytest.raises(RuntimeError, match="on purpose"):
            logits_of(policy, inputs)
        found = logits_of(policy, inputs)
    assert len(session.tokens) == len(session.totals) == len(session.flops) == 1 and len(session.samples()) == 3
    with compress(model, Every(layer=deepest(policy))):
        assert torch.equal(logits_of(policy, inputs), found)


def test_what_is_missing_is_named(policy):
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 1))
    inputs.pop("mm_token_type_ids")  # some models ask for it themselves
    with pytest.raises((CompressionError, ValueError), match="mm_token_type_ids"), compress(model, Every()):
        logits_of(policy, inputs)
    with pytest.raises(CompressionError, match="with its language head"), compress(model.model, Every()):
        pass


def test_gradient_checkpointing_is_for_prepared_batches(policy):
    from visionthink.compress.visionzip import VisionZip

    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 2))
    model.gradient_checkpointing_enable()
    model.train()
    try:
        with pytest.raises(CompressionError, match="do not go together"), compress(model, Every()):
            model(**inputs)
        prepare(model, inputs, VisionZip(keep=0.5))["inputs_embeds"].sum().backward()
    finally:
        model.eval()
        model.gradient_checkpointing_disable()
        model.zero_grad(set_to_none=True)


def test_half_precision_under_autocast_is_scored_in_float32(policy):
    seen = []

    class Looking(Every):
        def select(self, context):
            seen.append((context.attention.dtype, (context.hidden.float() @ context.hidden.float().T).dtype))
            return super().select(context)

    inputs = inputs_of(policy, histories(policy, 1))
    with compress(policy.checkpoint.model, Looking(layer=deepest(policy))), torch.autocast("cpu", dtype=torch.bfloat16):
        assert logits_of(policy, inputs).isfinite().all()
    assert set(seen) == {(torch.float32, torch.float32)}


def test_the_method_acts_on_the_views_it_is_told_to(policy):
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True))
    image = model.config.image_token_id
    for method in methods(policy):
        for which in (0, 1):
            dropped = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
            for i, row in enumerate(inputs["input_ids"]):
                places = (row == image).nonzero()[:, 0]
                sizes = (inputs["image_grid_thw"][2 * i : 2 * i + 2].prod(1) // 4).tolist()
                places = places.split(sizes)[which]
                dropped[i, [p for j, p in enumerate(places.tolist()) if j % method.step]] = True
            with masked(model, dropped, method.layer or 0):
                expected = logits_of(policy, inputs)
            with compress(model, method, views=[[which == 0, which == 1]] * 3) as session:
                assert close(logits_of(policy, inputs), expected), (method, which)
            gone = sum(session.totals[0]) - sum(session.tokens[0][-1])
            assert gone == dropped.sum()
    plain = logits_of(policy, inputs)
    with compress(model, methods(policy)[0], views=[[False, False]] * 3):
        assert torch.equal(logits_of(policy, inputs), plain)
    with pytest.raises(CompressionError, match="views: 1 for a prompt of 2 images"), compress(model, Every(), views=[[True]] * 3):
        logits_of(policy, inputs)


@dataclasses.dataclass(frozen=True)
class Edit(Every):
    """Adds one to the visual tokens at a layer, or lets every second one pass the layer by."""

    passing: bool = False

    def select(self, context):
        if self.passing:
            return Selection(self._kept(int(context.visual.sum())).keep, others="pass")
        return Selection(torch.arange(int(context.visual.sum())), context.hidden[context.visual] + 1)

    def kept(self, layers):
        return [1.0] * layers


def test_tokens_can_be_edited_in_place(policy):
    model, inputs, layer = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True)), deepest(policy)
    visual = inputs["input_ids"] == model.config.image_token_id

    def edit(_module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        hidden = hidden + visual[..., None]
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    hook = model.model.language_model.layers[layer].register_forward_pre_hook(edit, with_kwargs=True)
    expected = logits_of(policy, inputs)
    hook.remove()
    with compress(model, Edit(layer=layer)) as session:
        assert close(logits_of(policy, inputs), expected)
    assert session.report()["retained"] == 1.0


def test_tokens_can_pass_a_layer_by(policy):
    """As in mixture-of-depths: neither attention nor feed-forward in that layer, and there again in the next."""
    model, inputs, layer = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True)), deepest(policy) - 1
    layer = max(layer, 1 if model.config.model_type != "qwen3_vl" else 2)
    method = Edit(layer=layer, passing=True)

    with compress(model, method) as session, torch.inference_mode():
        output = model.generate(
            **inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    whole = with_answer(inputs, output.sequences)
    dropped = dropped_by(whole, method, model.config.image_token_id)

    def restore(_module, args, kwargs, result):
        hidden = args[0] if args else kwargs["hidden_states"]
        return torch.where(dropped[..., None], hidden, result)

    hook = model.model.language_model.layers[layer].register_forward_hook(restore, with_kwargs=True)
    with masked(model, dropped, layer, layer + 1), torch.inference_mode():
        expected = model(**whole).logits[:, -4:-1].float()
    hook.remove()
    assert close(torch.stack(output.logits, 1).float(), expected)
    counts = [sum(c) for c in session.tokens[0]]
    assert counts[layer] < counts[0] and counts[:layer] + counts[layer + 1 :] == [counts[0]] * deepest(policy)
    lengths = [x.keys.shape[2] for x in output.past_key_values.layers]
    assert lengths[layer] < lengths[0] and {*lengths[:layer], *lengths[layer + 1 :]} == {lengths[0]}


def test_a_prepared_batch_needs_no_hooks(policy):
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 3, asked=True))
    layered = model.config.model_type == "qwen3_vl"
    for method in real(policy, 0.4):
        if method.at(deepest(policy) + 1):
            with pytest.raises(OptionError, match="within the decoder, which only `compress` can do"):
                prepare(model, inputs, method)
            continue
        with compress(model, method):
            expected = logits_of(policy, inputs)
        before = hooks(model)
        batch = prepare(model, inputs | {"labels": inputs["input_ids"]}, method)
        assert hooks(model) == before
        labels = batch.pop("labels")
        kept = batch["attention_mask"].bool() & (labels != model.config.image_token_id)
        text = inputs["attention_mask"].bool() & (inputs["input_ids"] != model.config.image_token_id)
        assert torch.equal(labels[kept], inputs["input_ids"][text])
        assert set(labels[~batch["attention_mask"].bool()].tolist()) <= {-100}
        with torch.inference_mode():
            if layered:
                found = model.lm_head(model.model.language_model(**batch).last_hidden_state)[:, -1]
            else:
                found = model(**batch).logits[:, -1]
        assert close(found.float(), expected), method


def test_a_prepared_batch_trains(policy):
    from visionthink.compress.visionzip import VisionZip

    """The gradient that reaches the vision tower is that of the features that are left, and of no others."""
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 2, asked=True))
    patch = model.model.visual.patch_embed.proj.weight

    def gradient(loss):
        model.zero_grad(set_to_none=True)
        loss.backward()
        return patch.grad.clone()

    found = gradient(prepare(model, inputs, Every(step=3))["inputs_embeds"].square().sum())
    images = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    samples = [torch.cat(images[i : i + 2])[::3] for i in (0, 2)]  # two images a sample
    expected = gradient(torch.cat(samples).square().sum())
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    merged = gradient(prepare(model, inputs, VisionZip(keep=0.4))["inputs_embeds"].square().sum())
    assert merged.isfinite().all() and (merged - expected).abs().max() > 1e-2 * expected.abs().max()
    model.zero_grad(set_to_none=True)


# ------------------------------------------------------------------------------------- what users of the forks complain about


def test_no_flash_attention_is_needed_and_no_implementation_is_changed(policy):
    assert importlib.util.find_spec("flash_attn") is None
    model, inputs = policy.checkpoint.model, inputs_of(policy, histories(policy, 2, asked=True))
    config = model.config.get_text_config()
    before = config._attn_implementation
    for method in real(policy, 0.5):
        with compress(model, method):
            assert logits_of(policy, inputs).isfinite().all()
            assert config._attn_implementation == before


LAYOUTS = {
    "image first": ["image", 5],
    "image last": [7, "image"],
    "nothing but an image": ["image"],
    "two images side by side": [3, "image", "image", 4],
    "images between words": [2, "image", 9, "image", 1, "image", 6],
    "no chat at all, a long question": [1, "image", 60],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_images_may_stand_anywhere_in_any_prompt(policy, layout):
    """Random words instead of a chat template, images of different sizes: every method, against the mask of what it dropped."""
    model, image = policy.checkpoint.model, policy.checkpoint.model.config.image_token_id
    generator = torch.Generator().manual_seed(len(layout))
    ids, grids = [], []
    for part in layout:
        if part == "image":
            grids.append((1, 4 + 2 * len(grids), 6))
            ids += [model.config.vision_start_token_id, *[image] * (grids[-1][1] * 6 // 4), model.config.vision_end_token_id]
        else:
            ids += torch.randint(260, 500, (part,), generator=generator).tolist()
    if layout[-1] == "image":
        ids.pop()  # the last position is a visual token
    if layout[0] == "image":
        ids.pop(0)  # and the first one
    inputs = raw_inputs(policy, [ids], grids)
    for method in real(policy, 0.5):
        recording = Recording(method)
        with compress(model, recording) as session:
            found = logits_of(policy, inputs)
        assert session.report()["visual_tokens"] == sum(h * w // 4 for _, h, w in grids)
        assert session.report()["retained"] < 1
        if method.positions == "keep":
            with as_recorded(model, inputs, recording.chosen):
                assert close(found, logits_of(policy, inputs)), method


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
    with compress(policy.checkpoint.model, Looking(needs=Needs(attention=True))):
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
    from visionthink.compress.sparsevlm import SparseVLM
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
        assert all(t.usage.selection_flops == 0 for t in transcript.turns)
    with pytest.raises(OptionError, match=r"sparsevlm keep 0.25: must be above 0.333, since all tokens go through 1 of 3 layers"):
        compressed(model.policy, SparseVLM(keep=0.25))
    with pytest.raises(OptionError, match="needs a local model"):
        compressed(ScriptedPolicy(["a"]), Uniform(keep=0.5))


def test_a_compressed_policy_reads_smaller_batches_where_memory_runs_out(monkeypatch):
    from visionthink.compress.fastv import FastV
    from visionthink.compress.policy import compressed
    from visionthink.model import load

    model, sizes = load("tiny", max_new_tokens=4), []
    halved, found = compressed(model.policy, FastV(keep=0.5)), [model.episode(e).history for e in synth.suite(5)]
    expected = halved.complete(found)
    generate = halved.checkpoint.model.generate

    def generate_two_at_most(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return generate(**inputs)

    monkeypatch.setattr(halved.checkpoint.model, "generate", generate_two_at_most)
    completions = halved.complete(found)
    assert sizes == [5, 2, 3, 1, 2]
    for completion, whole in zip(completions, expected, strict=True):
        assert (completion.text, completion.visual_by_layer) == (whole.text, whole.visual_by_layer)
        assert completion.selection_flops == whole.selection_flops > 0


def test_a_compressed_policy_samples_with_a_seed_of_its_own():
    from visionthink.compress.baselines import Uniform
    from visionthink.compress.policy import CompressedPolicy, compressed
    from visionthink.model import load

    def drawn(policy):
        return [completion.token_ids for completion in policy.complete(found)]

    model = load("tiny", max_new_tokens=8, temperature=1.5, seed=3)
    found = [model.episode(e).history for e in synth.suite(6)]
    halved = compressed(model.policy, Uniform(keep=0.5))
    first, second = drawn(halved), drawn(halved)
    assert first != second and drawn(halved.seeded(3)) == first
    assert drawn(model.policy) == drawn(model.policy.seeded(3))  # what the compressed policy drew did not move its seed
    silent = halved.forbidding("<tool_call>")
    assert isinstance(silent, CompressedPolicy) and silent.method is halved.method
    assert all("<tool_call>" not in completion.text for completion in silent.complete(found))


def test_windows_are_counted_as_the_tower_counts_them():
    from transformers.vision_utils import get_vision_window_index

    from visionthink.compress.probe import window_order

    grids = [(1, 12, 8), (1, 18, 22), (1, 4, 4)]
    theirs, _ = get_vision_window_index(torch.tensor(grids), spatial_merge_size=2, window_size=112, patch_size=14)
    assert window_order(grids, 4, 2).tolist() == torch.as_tensor(theirs).tolist()
    assert window_order([(1, 4, 4), (1, 2, 2)], 0, 2).tolist() == [0, 1, 2, 3, 4]


def test_the_attention_that_a_method_sees_is_the_layers_own(policy):
    """Against the weights that eager attention hands out, in a batch with padding."""
    model, layer, seen, caught = policy.checkpoint.model, deepest(policy), [], {}
    if plain_attention(model.config.get_text_config()._attn_implementation) != "eager":
        pytest.skip("no other implementation hands its weights out")

    class Looking(Every):
        def select(self, context):
            seen.append(context)
            return super().select(context)

    inputs = inputs_of(policy, histories(policy, asked=True))
    attention = model.model.language_model.layers[layer - 1].self_attn
    hook = attention.register_forward_hook(lambda m, a, out: caught.update(weights=out[1]))
    with compress(model, Looking(layer=layer, rows="text")):
        logits_of(policy, inputs)
    hook.remove()
    assert len(seen) == len(inputs["input_ids"])
    for context, weights, mask in zip(seen, caught["weights"], inputs["attention_mask"].bool(), strict=True):
        assert close(context.attention, weights[:, mask][:, :, mask][:, context.rows])
