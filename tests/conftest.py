"""Shared fixtures: real small parts. The tiny model is the shipped one; Qwen3-VL is a random one of the real architecture."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# read when torch is imported: tests run in two processes, and a second thread on small tensors mostly waits for the first
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# workers of a curation take as many threads as there are cores for each: those wait without spinning, as under the command line
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest
import torch
from PIL import Image

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def tiny():
    from visionthink.policies.checkpoint import open_checkpoint

    return open_checkpoint("tiny")


@pytest.fixture(scope="session")
def tiny_base():
    from visionthink.policies.checkpoint import open_checkpoint

    return open_checkpoint("tiny-base")


@pytest.fixture(scope="session")
def renderer(tiny):
    from visionthink.policies.render import Renderer

    return Renderer(tiny.tokenizer)


@pytest.fixture
def red() -> Image.Image:
    """A 112x112 px red image: 16 visual tokens in full, 4 at a quarter, for the tiny model."""
    return Image.new("RGB", (112, 112), (200, 30, 30))


@pytest.fixture
def example(red):
    from visionthink.types import Example

    return Example("e1", "What colour is it?", red, answer="red", need="easy", family="test")


@pytest.fixture(scope="session")
def qwen3_folder(tiny, tmp_path_factory):
    """A random Qwen3-VL of six layers with the tiny model's tokenizer, saved as a checkpoint folder."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    ids = tiny.tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": tiny.model.config.text_config.vocab_size,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "mrope_interleaved": True},
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
            "bos_token_id": None,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return saved(Qwen3VLForConditionalGeneration(config), tiny, tmp_path_factory.mktemp("qwen3"), patch=16)


@pytest.fixture(scope="session")
def qwen2_folder(tiny, tmp_path_factory):
    """A random Qwen2-VL of three layers, likewise."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = tiny.tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": tiny.model.config.text_config.vocab_size,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
            "bos_token_id": None,
        },
        vision_config={"depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "hidden_size": 64, "patch_size": 14},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return saved(Qwen2VLForConditionalGeneration(config), tiny, tmp_path_factory.mktemp("qwen2"), patch=14)


def saved(model, tiny, folder, patch):
    from transformers import Qwen2VLImageProcessorPil

    from visionthink.policies.checkpoint import save_checkpoint

    side = 2 * patch
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": side**2, "longest_edge": (4 * side) ** 2}, patch_size=patch, merge_size=2
    )
    save_checkpoint(folder, model=model, tokenizer=tiny.tokenizer, image_processor=processor, protocol=tiny.protocol)
    return folder
