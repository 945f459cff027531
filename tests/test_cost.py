"""Costs: hand-computed numbers, and PyTorch's own counter on real models."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from episodes import record, turn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen3VLConfig

from visionthink.compress.baselines import Uniform
from visionthink.compress.families import FAMILIES, make
from visionthink.compress.fastv import FastV
from visionthink.compress.learned import Base
from visionthink.compress.policy import compressed
from visionthink.compress.session import compress
from visionthink.data import synth
from visionthink.episode import run_batch
from visionthink.evals.cost import episode_cost, percentile
from visionthink.evals.flops import (
    Architecture,
    DecoderShape,
    VisionShape,
    cache_bytes,
    decoder_flops,
    generation_flops,
    vision_flops,
)
from visionthink.evals.paper_flops import paper_flops
from visionthink.model import load
from visionthink.recipes.fits import FITS
from visionthink.transcript import Transcript, Usage

DECODER = DecoderShape(layers=2, hidden=4, ffn=8, heads=2, kv_heads=1, head_size=2, vocabulary=10)


def test_decoder_by_hand():
    # per layer: 2*3*4*(2*4 + 2*2) = 288, 4*3*(5+3)*4 = 384, 6*3*4*8 = 576; head 2*4*10 = 80
    assert decoder_flops(DECODER, new=3, past=5) == 2 * (288 + 384 + 576) + 80
    one_by_one = sum(decoder_flops(DECODER, 1, past) for past in (7, 8, 9))
    assert generation_flops(DECODER, prompt=7, output=4) == one_by_one
    assert generation_flops(DECODER, 7, 1) == generation_flops(DECODER, 7, 0) == 0
    assert paper_flops(DECODER, 3) == 2 * (4 * 3 * 16 + 2 * 9 * 4 + 2 * 3 * 4 * 8)


def test_cache_by_hand():
    architecture = Architecture(None, DECODER, value_bytes=2)
    assert cache_bytes(architecture, 5) == 2 * 2 * 1 * 2 * 5 * 2


def test_layers_of_different_lengths_by_hand():
    # 3 new behind 5 in the first layer, as above; 1 behind 2 in the second: 2*1*4*12 = 96, 4*1*(2+1)*4 = 48, 6*1*4*8 = 192
    assert decoder_flops(DECODER, new=[3, 1], past=[5, 2]) == (288 + 384 + 576) + (96 + 48 + 192) + 80
    assert decoder_flops(DECODER, new=[3, 3], past=[5, 5]) == decoder_flops(DECODER, 3, 5)
    one_by_one = sum(decoder_flops(DECODER, 1, past) for past in ([7, 4], [8, 5], [9, 6]))
    assert generation_flops(DECODER, prompt=[7, 4], output=4) == one_by_one
    assert generation_flops(DECODER, [7, 4], 1) == 0
    assert paper_flops(DECODER, [3, 1]) == (4 * 3 * 16 + 2 * 9 * 4 + 2 * 3 * 4 * 8) + (4 * 16 + 2 * 4 + 2 * 4 * 8)
    assert cache_bytes(Architecture(None, DECODER), [5, 3]) == 2 * 1 * 2 * (5 + 3) * 2
    with pytest.raises(ValueError, match="zip"):
        decoder_flops(DECODER, [3, 1, 1])


VISION = VisionShape(layers=1, hidden=2, ffn=2, gated=False, windowed=0, window=0, patch=14, merge=2, patch_values=3, mergers=1)
# of 28 x 28 px, 4 patches: embed 2*4*3*2 = 48, layer 2*4*(16 + 2*2*2) = 192, attention 4*2*16 = 128, merger 2*(64 + 8*4) = 192
ONE_TOKEN = 48 + 192 + 128 + 192


def bill(**usage) -> Usage:
    """Of a turn that shows one visual token."""
    return Usage(visual_tokens=1, seconds=0.0, **usage)


def compressed_episode(*turns: Usage) -> Transcript:
    """Each turn shows a view of one token."""
    said = [dataclasses.replace(turn(1.0, 1), usage=usage) for usage in turns]
    return record("e", *said, full=1)


def test_compressed_rounds_by_hand():
    """2 words and 1 visual token, which the second layer does not see; then 4 words and 2, of which it sees 1."""
    architecture = Architecture(VISION, DECODER)
    first = bill(text_tokens=2, output_tokens=2, visual_by_layer=(1, 0), selection_flops=100)
    second = bill(text_tokens=4, output_tokens=1, visual_by_layer=(2, 1), selection_flops=1000)
    cost = episode_cost(compressed_episode(first, second), architecture)
    # a token behind n others: 96 + 16 (n + 1) + 192 per layer
    read = (3 * 288 + 16 * 9) + (2 * 288 + 16 * 4) + 80, (6 * 288 + 16 * 36) + (5 * 288 + 16 * 25) + 80
    said = (288 + 16 * 4) + (288 + 16 * 3) + 80
    assert cost.flops == 3 * ONE_TOKEN + sum(read) + said + 1100
    assert cost.flops_cached == 2 * ONE_TOKEN + sum(read) + said + 1100  # only the vision tower's work is found again
    assert (cost.vision_flops, cost.selection_flops) == (2 * ONE_TOKEN, 1100)
    assert cost.prefill_tokens == cost.prefill_tokens_cached == 3 + 6
    assert cost.flops_paper == paper_flops(DECODER, [6, 5])
    assert cost.kv_bytes == 2 * 1 * 2 * ((6 + 1) + (5 + 1)) * 2
    of_three_layers = bill(text_tokens=2, output_tokens=2, visual_by_layer=(1, 1, 1))
    assert episode_cost(compressed_episode(of_three_layers), architecture) is None


def test_windows_at_the_edge_are_smaller():
    shape = VisionShape(layers=1, hidden=4, ffn=8, gated=True, windowed=1, window=2, patch=14, merge=2, patch_values=6, mergers=1)
    # 6 x 4 patches in windows of 4 x 4: 16 and 2 * 4 = 8 patches
    linear = 2 * 24 * (4 * 16 + 3 * 4 * 8)
    merger = 2 * 6 * (16 * 16 + 16 * 4)
    assert vision_flops(shape, 84, 56, 4) == 2 * 24 * 6 * 4 + linear + 4 * 4 * (16**2 + 8**2) + merger


def small(config, **changes):
    for part in ("vision_config", "text_config"):
        for name, value in changes.get(part, {}).items():
            setattr(getattr(config, part), name, value)
    return config


def of_7b_widths(kind: str):
    """Two layers with the widths of Qwen2.5-VL-7B; a small Qwen2-VL; and a small Qwen3-VL with DeepStack."""
    if kind == "tiny":
        return AutoConfig.from_pretrained("visionthink/assets/tiny/tuned")
    if kind == "7b":
        vision = {"depth": 2, "fullatt_block_indexes": [1], "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        text = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
        return AutoConfig.for_model(
            "qwen2_5_vl",
            vision_config=vision | {"out_hidden_size": 3584, "window_size": 112},
            text_config=text
            | {"num_hidden_layers": 2, "vocab_size": 2048, "layer_types": ["full_attention"] * 2}
            | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}},
            image_token_id=7,
        )
    text = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    if kind == "qwen2":
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
        return AutoConfig.for_model(
            "qwen2_vl",
            vision_config={"depth": 3, "embed_dim": 64, "mlp_ratio": 2, "num_heads": 4, "hidden_size": 128},
            text_config=text | {"num_hidden_layers": 3, "vocab_size": 512, "rope_parameters": rope},
            image_token_id=7,
        )
    vision = {"depth": 3, "deepstack_visual_indexes": [0, 1], "hidden_size": 64, "intermediate_size": 96, "num_heads": 4}
    text |= {"head_dim": 32}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
    return Qwen3VLConfig(
        vision_config=vision | {"out_hidden_size": 128},
        text_config=text | {"num_hidden_layers": 3, "vocab_size": 512, "rope_parameters": rope},
        image_token_id=7,
    )


@pytest.mark.parametrize("kind", ["tiny", pytest.param("7b", marks=pytest.mark.slow), "qwen2", "qwen3"])
@pytest.mark.parametrize("size", [(10, 6), (16, 22)])
def test_as_pytorch_counts_under_eager_attention(kind, size):
    config = of_7b_widths(kind)
    config._attn_implementation = "eager"
    with torch.device("meta" if kind == "7b" else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    if kind == "7b":
        model = model.to_empty(device="cpu")
        for parameter in model.parameters():
            parameter.data.zero_()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs_of(config, *size), logits_to_keep=1)
    ours = forward_flops(config, size, TEXT + size[0] * size[1] // 4)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)


TEXT = 20


def inputs_of(config, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """An image of rows x columns patches within 20 words."""
    v = config.vision_config
    ids = torch.tensor([[9] * 10 + [config.image_token_id] * (rows * columns // 4) + [9] * (TEXT - 10)])
    return {
        "input_ids": ids,
        "pixel_values": torch.zeros(rows * columns, 3 * v.temporal_patch_size * v.patch_size**2),
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
        "mm_token_type_ids": (ids == config.image_token_id).long(),
    }


def forward_flops(config, size: tuple[int, int], tokens) -> int:
    architecture, (rows, columns), patch = Architecture.of(config), size, config.vision_config.patch_size
    encoded = vision_flops(architecture.vision, columns * patch, rows * patch, architecture.decoder.hidden)
    return encoded + decoder_flops(architecture.decoder, tokens)


@pytest.mark.parametrize("method", [Uniform(keep=0.5), FastV(layer=2, keep=0.5)], ids=lambda m: m.family)
@pytest.mark.parametrize(("size", "whole", "half"), [((10, 6), 15, 8), ((16, 22), 88, 44), ((40, 40), 400, 200)])
def test_compressed_as_pytorch_counts_under_eager_attention(method, size, whole, half):
    """The engine counts what choosing takes; the decoder is counted by what entered each of its three layers."""
    config = of_7b_widths("tiny")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), compress(model, method) as session:
        model(**inputs_of(config, *size), logits_to_keep=1)
    [(visual_by_layer, selection_flops)] = session.samples()
    assert visual_by_layer == ((half,) * 3 if isinstance(method, Uniform) else (whole, whole, half))
    ours = forward_flops(config, size, [TEXT + n for n in visual_by_layer]) + selection_flops
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.001)  # choosing alone is 0.0014 and more


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(10, 6), (16, 22)])
def test_trained_methods_as_pytorch_counts(family, size):
    config = of_7b_widths("tiny")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    module = make(family, Base.of(model), FITS[family].keep, FITS[family].options)  # without its adapter, which is not billed
    with FlopCounterMode(display=False) as counter, torch.no_grad(), compress(model, module) as session:
        model(**inputs_of(config, *size), logits_to_keep=1)
    [(visual_by_layer, selection_flops)] = session.samples()
    assert selection_flops > 0
    ours = forward_flops(config, size, [TEXT + n for n in visual_by_layer]) + selection_flops
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.001)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_round_of_an_adaptive_episode_as_pytorch_counts(family):
    """A low view that is left as it is, and a full one that a trained method compresses: `adaptive+learned:FOLDER@full`."""
    config, sizes = of_7b_widths("tiny"), [(8, 12), (16, 22)]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    module = make(family, Base.of(model), FITS[family].keep, FITS[family].options)
    low, full = (inputs_of(config, *size) for size in sizes)
    both = {name: torch.cat([low[name], full[name]], int(name in ("input_ids", "mm_token_type_ids"))) for name in low}
    with FlopCounterMode(display=False) as counter, torch.no_grad(), compress(model, module, views=[[False, True]]) as session:
        model(**both, logits_to_keep=1)
    [(visual_by_layer, selection_flops)] = session.samples()
    assert selection_flops > 0 and min(visual_by_layer) < 24 + 88
    decoder = Architecture.of(config).decoder
    vision = sum(forward_flops(config, size, TEXT) - decoder_flops(decoder, TEXT) for size in sizes)
    read = decoder_flops(decoder, [2 * TEXT + n for n in visual_by_layer])
    assert vision + read + selection_flops == pytest.approx(counter.get_total_flops(), rel=0.001)


def test_the_bill_of_an_episode():
    """A request shows two views: with a cache each is read once, without one the first is read twice."""
    model = load("tiny", max_new_tokens=8)
    architecture = Architecture.of(model.policy.checkpoint.model.config, value_bytes=4)
    [transcript] = run_batch([model.episode(synth.draw("digits", 3, hard=True))], model.policy)
    assert transcript.levels_seen == (0.25, 1.0)
    first, second = transcript.turns
    cost = episode_cost(transcript, architecture)
    one, both = len(first.prompt_ids), len(first.prompt_ids) + len(first.token_ids) + len(second.prompt_ids)
    assert cost.prefill_tokens == one + both
    assert cost.prefill_tokens_cached == one + both - (one + len(first.token_ids) - 1)
    views = [vision_flops(architecture.vision, v.width, v.height, 160) for v in transcript.views]
    said = sum(
        generation_flops(architecture.decoder, n, len(t.token_ids)) for n, t in zip((one, both), transcript.turns, strict=True)
    )
    read = decoder_flops(architecture.decoder, one) + decoder_flops(architecture.decoder, both)
    assert cost.flops == 2 * views[0] + views[1] + said + read
    assert cost.flops_cached < cost.flops
    assert cost.vision_flops == sum(views)
    assert cost.flops_paper == paper_flops(architecture.decoder, both)
    assert cost.kv_bytes == 2 * 3 * 2 * 40 * (both + len(second.token_ids)) * 4


def test_the_bill_of_a_compressed_episode():
    """Every second visual token of the tiny model's views: half of 4, and of 4 and 16 in the second round."""
    model = load("tiny", max_new_tokens=8)
    architecture = Architecture.of(model.policy.checkpoint.model.config, value_bytes=4)
    [plain] = run_batch([model.episode(synth.draw("digits", 3, hard=True))], model.policy)
    [transcript] = run_batch([model.episode(synth.draw("digits", 3, hard=True))], compressed(model.policy, Uniform(keep=0.5)))
    assert [t.usage.visual_by_layer for t in transcript.turns] == [(2, 2, 2), (10, 10, 10)]
    cost, whole = episode_cost(transcript, architecture), episode_cost(plain, architecture)
    contexts = [t.usage.text_tokens + t.usage.visual_by_layer[0] for t in transcript.turns]
    assert cost.prefill_tokens == cost.prefill_tokens_cached == sum(contexts)
    assert cost.kv_bytes == 2 * 3 * 2 * 40 * (contexts[-1] + len(transcript.turns[-1].token_ids)) * 4
    assert cost.flops_paper == paper_flops(architecture.decoder, contexts[-1])
    assert cost.vision_flops == whole.vision_flops and cost.flops < whole.flops


def test_percentiles():
    assert percentile([4, 1, 3, 2], 0.5) == 2.5 and percentile([7], 0.95) == 7
    assert percentile(range(101), 0.95) == 95
