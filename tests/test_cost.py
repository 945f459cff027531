"""Costs: hand-computed numbers, and PyTorch's own counter on real models."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen3VLConfig

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


def test_windows_at_the_edge_are_smaller():
    shape = VisionShape(1, 4, 8, True, windowed=1, window=2, patch=14, merge=2, patch_values=6, mergers=1)
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
    """Two layers with the widths of Qwen2.5-VL-7B; and a small Qwen3-VL with DeepStack."""
    if kind == "tiny":
        return AutoConfig.from_pretrained("visionthink/assets/tiny/tuned")
    if kind == "7b":
        vision = {"depth": 2, "fullatt_block_indexes": [1], "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
        text = {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
        return AutoConfig.for_model(
            "qwen2_5_vl",
            vision_config=vision | {"out_hidden_size": 3584, "window_size": 112},
            text_config=text | {"num_hidden_layers": 2, "vocab_size": 2048, "layer_types": ["full_attention"] * 2},
            image_token_id=7,
        )
    vision = {"depth": 3, "deepstack_visual_indexes": [0, 1], "hidden_size": 64, "intermediate_size": 96, "num_heads": 4}
    text = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
    return Qwen3VLConfig(
        vision_config=vision | {"out_hidden_size": 128},
        text_config=text | {"num_hidden_layers": 3, "vocab_size": 512, "rope_parameters": rope},
        image_token_id=7,
    )


@pytest.mark.parametrize("kind", ["tiny", "7b", "qwen3"])
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
    v = config.vision_config
    rows, columns = size
    tokens, text = rows * columns // 4, 20
    ids = torch.tensor([[9] * 10 + [config.image_token_id] * tokens + [9] * (text - 10)])
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.zeros(rows * columns, 3 * v.temporal_patch_size * v.patch_size**2),
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
        "mm_token_type_ids": (ids == config.image_token_id).long(),
    }
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs, logits_to_keep=1)
    architecture = Architecture.of(config)
    ours = vision_flops(architecture.vision, columns * v.patch_size, rows * v.patch_size, architecture.decoder.hidden)
    ours += decoder_flops(architecture.decoder, tokens + text)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)


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
    views = [vision_flops(architecture.vision, *t.view_size, 160) for t in transcript.turns]
    said = sum(
        generation_flops(architecture.decoder, n, len(t.token_ids)) for n, t in zip((one, both), transcript.turns, strict=True)
    )
    read = decoder_flops(architecture.decoder, one) + decoder_flops(architecture.decoder, both)
    assert cost.flops == 2 * views[0] + views[1] + said + read
    assert cost.flops_cached < cost.flops
    assert cost.vision_flops == sum(views)
    assert cost.flops_paper == paper_flops(architecture.decoder, both)
    assert cost.kv_bytes == 2 * 3 * 2 * 40 * (both + len(second.token_ids)) * 4


def test_percentiles():
    assert percentile([4, 1, 3, 2], 0.5) == 2.5 and percentile([7], 0.95) == 7
    assert percentile(range(101), 0.95) == 95
