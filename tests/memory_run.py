"""One short run of a random model in a process of its own, and the most memory it took.

`memory_run.py build|measure SHAPE FOLDER`

`measure` prints a JSON object: bytes that were resident beyond those of the libraries, and the estimate.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401  libraries are not what is measured
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from visionthink import chatml
from visionthink.policies.checkpoint import open_checkpoint, save_checkpoint
from visionthink.protocol import Protocol
from visionthink.recipes.stand_in import large_examples
from visionthink.train.config import TrainConfig
from visionthink.train.hardware import this_hardware
from visionthink.train.memory import estimate
from visionthink.train.run import train
from visionthink.train.sizes import read_sizes

SHAPES = {
    # weights, gradients, optimizer and reference model
    "weights": (
        {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16},
        {"prompts_per_step": 1, "updates_per_step": 2, "max_image_tokens": 16, "micro_batch": 1, "gradient_checkpointing": True},
    ),
    # activations of all layers at once, under an adapter
    "activations": (
        {"hidden_size": 256, "intermediate_size": 2048, "num_hidden_layers": 4},
        {"prompts_per_step": 2, "max_image_tokens": 64, "lora_rank": 8, "max_new_tokens": 32},
    ),
    # pixels of a step, every image in full
    "pixels": (
        {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2},
        {
            "prompts_per_step": 8,
            "max_image_tokens": 1024,
            "micro_batch": 1,
            "gradient_checkpointing": True,
            "dialect": "general",
            "ladder": "1",
            "kl_coef": 0.0,
        },
    ),
}


def build(name: str, folder: Path) -> None:
    text, _ = SHAPES[name]
    tokenizer = open_checkpoint("tiny-base").tokenizer
    ids = tokenizer.convert_tokens_to_ids
    marks = {
        "image_token_id": ids(chatml.IMAGE_PAD),
        "video_token_id": ids(chatml.VIDEO_PAD),
        "vision_start_token_id": ids(chatml.VISION_START),
        "vision_end_token_id": ids(chatml.VISION_END),
    }
    text = text | {
        "vocab_size": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": text["hidden_size"] // 4,
        "max_position_embeddings": 128_000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "bos_token_id": None,
        "eos_token_id": ids(chatml.TURN_END),
        "pad_token_id": ids(chatml.END_OF_TEXT),
    }
    if text["hidden_size"] == 512:
        text["rope_parameters"]["mrope_section"] = [16, 24, 24]
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": text["hidden_size"]}
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision | {"fullatt_block_indexes": [1]}, **marks)
    )
    processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56**2, "longest_edge": 28**2 * 16_384})
    save_checkpoint(folder, model=model, tokenizer=tokenizer, image_processor=processor, protocol=Protocol("agent"))


def measure(name: str, folder: Path) -> None:
    _, settings = SHAPES[name]
    usual = {"share": "off", "steps": 1, "group_size": 2, "refill": 0, "exclude": "", "penalty": "none", "max_new_tokens": 2}
    config = TrainConfig(model=str(folder), out=folder.parent / f"{folder.name}-run", **usual | settings)
    found = estimate(config, read_sizes(config), this_hardware())
    examples = large_examples(config.prompts_per_step)
    before = resident("VmRSS")
    train(config, examples)
    most = resident("VmHWM") - before
    parts = {part.name: part.bytes for part in found.parts}
    sys.stdout.write(json.dumps({"measured": most, "estimated": found.most, "when": found.fullest, **parts}) + "\n")


def resident(field: str) -> int:
    """Bytes of memory of this process, by a field of Linux. `ru_maxrss` would not do: a process that is started by a larger one
    inherits the other's peak."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    return int(status[field].split()[0]) * 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"build": build, "measure": measure}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
