"""Small random models of the real architectures, to rehearse a large run on any machine without downloading anything.

Patch sizes, merging, windows, rotary sections and the image processor are the real ones; layers are few and narrow, the
vocabulary is the embedded tokenizer's.
"""

from __future__ import annotations

import atexit
import dataclasses
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from visionthink import chatml
from visionthink.data import synth
from visionthink.images import open_image
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from visionthink.protocol import Protocol
from visionthink.train.processes import of_the_first
from visionthink.types import Example

SIDE = 896
"""Side of the rehearsal's square images, in px: 1,024 visual tokens for Qwen2.5-VL."""


def large_examples(n: int) -> list[Example]:
    """Generated questions at the size of real photographs, so that views cost what they cost in a real run."""
    small = synth.suite(n, split="train")
    return [dataclasses.replace(e, image=open_image(e.images[0]).image.resize((SIDE, SIDE))) for e in small]


def _checkpoint(model: Any, image_processor: Qwen2VLImageProcessorPil, dialect: str) -> Checkpoint:
    """Through a folder, as any checkpoint: TRL loads the reference model from there."""

    def write() -> str:
        folder = Path(tempfile.mkdtemp(prefix="visionthink-stand-in-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        tokenizer = open_checkpoint("tiny-base").tokenizer
        save_checkpoint(folder, model=model, tokenizer=tokenizer, image_processor=image_processor, protocol=Protocol(dialect))
        return str(folder)

    return open_checkpoint(of_the_first(write))  # of several processes, transformers lets only the first one write


def _ids() -> dict[str, int]:
    convert = open_checkpoint("tiny-base").tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": convert(chatml.IMAGE_PAD),
        "video_token_id": convert(chatml.VIDEO_PAD),
        "vision_start_token_id": convert(chatml.VISION_START),
        "vision_end_token_id": convert(chatml.VISION_END),
    }


def _vision(**more: Any) -> dict[str, Any]:
    shape = {"depth": 4, "hidden_size": 160, "intermediate_size": 320, "num_heads": 2, "out_hidden_size": 256}
    return {**shape, "spatial_merge_size": 2, "temporal_patch_size": 2, **more}


def _text(**more: Any) -> dict[str, Any]:
    tokenizer = open_checkpoint("tiny-base").tokenizer
    return {
        "vocab_size": math.ceil(len(tokenizer) / 64) * 64,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128_000,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(chatml.TURN_END),
        "pad_token_id": tokenizer.convert_tokens_to_ids(chatml.END_OF_TEXT),
        **more,
    }


def qwen2_5_vl(dialect: str = "agent") -> Checkpoint:
    """Qwen2.5-VL with 2 + 4 layers: patches of 14 px, 2 x 2 merged, windows of 112 px, every fourth vision layer full."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision = _vision(patch_size=14, window_size=112, fullatt_block_indexes=[3])
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=_text(rope_parameters=rope), vision_config=vision, **_ids())
    )
    return _checkpoint(model, Qwen2VLImageProcessorPil(size={"shortest_edge": 56**2, "longest_edge": 28**2 * 16_384}), dialect)


def qwen3_vl(dialect: str = "agent") -> Checkpoint:
    """Qwen3-VL with 3 + 4 layers: patches of 16 px, 2 x 2 merged, features of two vision layers injected (DeepStack)."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    vision = _vision(patch_size=16, num_position_embeddings=2304, deepstack_visual_indexes=[1, 2])
    torch.manual_seed(0)
    text = _text(rope_parameters=rope, head_dim=128, num_hidden_layers=3)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **_ids()))
    size = {"shortest_edge": 256**2, "longest_edge": 32**2 * 16_384}
    return _checkpoint(model, Qwen2VLImageProcessorPil(size=size, patch_size=16, merge_size=2), dialect)
