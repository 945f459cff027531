"""What `compression.py` reads: generated questions with the tiny model, and random pixels with a wide, shallow random one.

The wide model has the widths of Qwen2.5-VL-7B. On a CPU it has 5 decoder layers (with 4, SparseVLM's first entry alone would keep
a quarter) and 4 blocks in the vision tower, the last of which attends fully; rows say which share of the operations is the
tower's. Its weights are random, so its times are those of a real model and its errors are not. On a CPU they are bfloat16 or
float32, whichever multiplies 256x3584 by 3584x18944 faster there (with AVX-512 BF16 that is bfloat16); on a GPU bfloat16.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from visionthink.data import synth
from visionthink.episode import Episode
from visionthink.menu import Menu
from visionthink.picture import open_pictures
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.local import LocalPolicy
from visionthink.resolution import PixelBudget, ResolutionLadder
from visionthink.types import Example

TEXT = 60
"""Text tokens of a prompt for the wide model: a system prompt and a question."""
IMAGE, VIDEO, START, END, VOCABULARY = 5, 6, 3, 4, 1024


@dataclass(frozen=True)
class Prompt:
    inputs: dict[str, Tensor]
    resized: dict[float, dict[str, Tensor]]
    """By share of the visual tokens: the same prompt with a smaller image."""
    comparable: bool
    """Whether the smaller image shows the same thing."""


def opened(name: str, device: str) -> tuple[Any, Callable[[int, int, Iterable[float]], list[Prompt]]]:
    """The model "tiny" or "wide", and what makes (visual tokens, how many, shares to resize to) into prompts for it."""
    if name == "tiny":
        checkpoint = tiny(device)
        return checkpoint.model, functools.partial(tiny_prompts, checkpoint)
    model = wide(device)
    return model, functools.partial(wide_prompts, model)


def tiny(device: str) -> Checkpoint:
    """The shipped model, allowed larger images than it was trained on."""
    checkpoint = open_checkpoint("tiny", device=device)
    processor = copy.deepcopy(checkpoint.image_processor)
    budget = dataclasses.replace(checkpoint.budget, max_pixels=28 * 28 * 1024)
    processor.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
    return dataclasses.replace(checkpoint, image_processor=processor, budget=budget)


def tiny_prompts(checkpoint: Checkpoint, visual: int, count: int, keeps: Iterable[float]) -> list[Prompt]:
    """Generated questions with a square image, enlarged to `visual` tokens."""
    policy, side = LocalPolicy(checkpoint), math.isqrt(visual) * checkpoint.budget.factor

    def inputs(example: Example, level: float) -> dict[str, Tensor]:
        menu = Menu(ladder=ResolutionLadder((level,)))
        history = Episode(example, open_pictures(example), menu, checkpoint.protocol, budget=checkpoint.budget).history
        return policy.model_inputs([policy.renderer.prompt_ids(history)], [history])

    def enlarged(example: Example) -> Example:
        assert isinstance(example.image, Image.Image)
        return dataclasses.replace(example, image=example.image.resize((side, side)))

    examples = [enlarged(example) for example in synth.suite(count)]
    return [Prompt(inputs(e, 1), {keep: inputs(e, keep) for keep in keeps}, True) for e in examples]


def config_7b(layers: int = 28, blocks: int = 32, vocabulary: int = 152064) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL-7B as released, or with fewer decoder layers and vision blocks."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": layers,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": blocks,
            "fullatt_block_indexes": list(range(7, blocks, 8)) or [blocks - 1],
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "window_size": 112,
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=False,
    )


def wide(device: str) -> Any:
    """A random Qwen2.5-VL with the widths of the 7B; on a GPU with all its decoder layers and vision blocks."""
    torch.manual_seed(0)
    small, dtype = device == "cpu", faster_dtype() if device == "cpu" else torch.bfloat16
    config = config_7b(5, 4, VOCABULARY) if small else config_7b(vocabulary=VOCABULARY)
    with torch.device(device):
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()


def faster_dtype() -> torch.dtype:
    """On this CPU; not every one multiplies bfloat16 in hardware."""

    def seconds(dtype: torch.dtype) -> float:
        weights, x = torch.zeros(18944, 3584, dtype=dtype), torch.zeros(256, 3584, dtype=dtype)
        clocks = [time.perf_counter()]
        for _ in range(4):
            torch.nn.functional.linear(x, weights)
            clocks.append(time.perf_counter())
        return min(b - a for a, b in itertools.pairwise(clocks))

    return min((torch.bfloat16, torch.float32), key=seconds)


def wide_prompts(model: Any, visual: int, count: int, keeps: Iterable[float]) -> list[Prompt]:
    """Random pixels of a square image behind half of a random text."""
    side, budget = math.isqrt(visual) * 28, PixelBudget()

    def inputs(seed: int, width: int, height: int) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(seed)
        columns, rows = width // 14, height // 14
        text = torch.randint(END + 3, VOCABULARY, (TEXT - 2,), generator=chance)
        image = torch.tensor([START] + [IMAGE] * (columns * rows // 4) + [END])
        ids = torch.cat((text[: TEXT // 2], image, text[TEXT // 2 :]))[None]
        made = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.randn(columns * rows, 3 * 2 * 14 * 14, generator=chance).to(model.dtype),
            "image_grid_thw": torch.tensor([[1, rows, columns]]),
            "mm_token_type_ids": (ids == IMAGE).long(),
        }
        return {name: tensor.to(model.device) for name, tensor in made.items()}

    def smaller(keep: float) -> tuple[int, int]:
        width, height = ResolutionLadder((keep,)).size(keep, side, side, budget)
        return width, height

    return [Prompt(inputs(i, side, side), {keep: inputs(i, *smaller(keep)) for keep in keeps}, False) for i in range(count)]
