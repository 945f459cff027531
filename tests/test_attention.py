"""Attention: which implementation runs, and the windows of the vision tower in one call for each length."""

from __future__ import annotations

import json
import types

import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode
from training import small
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel, Qwen2_5_VLVisionConfig
from transformers.utils import is_flash_attn_2_available

import visionthink
from visionthink.data import synth
from visionthink.engine.windows import GROUPED, group_windows
from visionthink.errors import OptionError
from visionthink.policies.attention import chosen_attention
from visionthink.policies.checkpoint import open_checkpoint, save_checkpoint
from visionthink.policies.local import LocalPolicy
from visionthink.recipes.curate import CurateConfig
from visionthink.train.config import TrainConfig
from visionthink.train.trainer import make_trainer

LARGE = [[1, 74, 146]]
"""Patches of an image of 2048x1024 px, which the processor makes 2044x1036."""
SEVERAL = [[1, 20, 14], [1, 20, 14], [1, 8, 8], [1, 22, 30]]


class Calls(TorchFunctionMode):
    """Counts calls of scaled_dot_product_attention."""

    count = 0

    def __torch_function__(self, function, _, args=(), kwargs=None):
        self.count += function is torch.nn.functional.scaled_dot_product_attention
        return function(*args, **(kwargs or {}))


def tower(*, dtype=torch.float32, **sizes):
    """Layers and windows of Qwen2.5-VL-7B's vision tower, tiny widths, random weights."""
    torch.manual_seed(0)
    small = {"depth": 32, "hidden_size": 16, "num_heads": 1, "intermediate_size": 32, "out_hidden_size": 32, "patch_size": 4}
    config = Qwen2_5_VLVisionConfig(**(small | {"window_size": 32} | sizes))
    return Qwen2_5_VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa").to(dtype)


def grouped(stock):
    group_windows(types.SimpleNamespace(model=types.SimpleNamespace(visual=stock)))
    assert stock.config._attn_implementation == GROUPED
    return stock


def pixels(grids, model) -> torch.Tensor:
    torch.manual_seed(1)
    values = 3 * 2 * model.config.patch_size**2
    return torch.randn(sum(h * w for _, h, w in grids), values, dtype=model.dtype)


def encode(model, grids) -> tuple[torch.Tensor, int]:
    with Calls() as calls:
        features = model(pixels(grids, model), torch.tensor(grids)).pooler_output
    return features, calls.count


def test_a_call_for_each_length_of_windows():
    """190 windows in 28 layers and the whole image in 4; grouped, windows have 64, 16 or 4 patches."""
    model = tower()
    with torch.inference_mode():
        stock, each = encode(model, LARGE)
        found, together = encode(grouped(model), LARGE)
    assert (each, together) == (28 * 190 + 4, 28 * 3 + 4) == (5324, 88)
    assert torch.equal(found, stock)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_the_same_bits(dtype, checkpointing):
    model = tower(depth=3, fullatt_block_indexes=[1], dtype=dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable()

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        features, _ = encode(model, SEVERAL)
        features.float().square().sum().backward()
        return [features.detach(), *(p.grad for p in model.parameters())]

    stock = gradients()
    with torch.inference_mode():
        encode(grouped(model), SEVERAL)  # what is kept of it must not get in the way of training
    found = gradients()
    assert len(found) == len(stock) > 30
    assert all(torch.equal(x, y) for x, y in zip(found, stock, strict=True))


def test_one_call_has_a_limit():
    """1,156 windows of 64 patches: 1,024 and 132."""
    model = tower(depth=1, fullatt_block_indexes=[], patch_size=2, window_size=16)
    grids = [[1, 272, 272]]
    with torch.inference_mode():
        stock, each = encode(model, grids)
        found, together = encode(grouped(model), grids)
    assert (each, together) == (1156, 2) and torch.equal(found, stock)


@pytest.mark.parametrize("kind", ["tiny-base", "qwen2", "qwen3"])
def test_images_of_equal_size_are_encoded_together(kind, qwen2_folder, qwen3_folder):
    """Three images, two of them equally large: a call for each size in each layer of the tower."""
    checkpoint = open_checkpoint({"qwen2": str(qwen2_folder), "qwen3": str(qwen3_folder)}.get(kind, kind))
    side = checkpoint.budget.factor
    images = [Image.new("RGB", (side * w, 4 * side), (9 * w, 99, 9)) for w in (4, 6, 4)]
    inputs = checkpoint.image_processor(images=images, return_tensors="pt")
    visual = checkpoint.model.model.visual

    def encoded() -> tuple[torch.Tensor, int]:
        with Calls() as calls, torch.inference_mode():
            return visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output, calls.count

    found, together = encoded()
    checkpoint.model.set_attn_implementation("sdpa")  # as in transformers: the hooks do nothing then
    stock, each = encoded()
    assert (together, each) == (2 * len(visual.blocks), 3 * len(visual.blocks))
    assert torch.equal(found, stock)


def test_what_is_loaded_and_what_is_saved(tmp_path):
    """The decoder shares prefixes once something asks it to."""
    for name in ("", "sdpa", "eager"):
        checkpoint = open_checkpoint("tiny-base", attention=name)
        config, usual = checkpoint.model.config, name or "sdpa"
        assert config.get_text_config()._attn_implementation == usual
        LocalPolicy(checkpoint)
        parts = (config, config.get_text_config(), config.vision_config)
        tower = "eager" if name == "eager" else GROUPED
        assert [part._attn_implementation for part in parts] == [usual, f"shared_{usual}", tower]
    save_checkpoint(
        tmp_path / "saved",
        model=checkpoint.model,
        tokenizer=checkpoint.tokenizer,
        image_processor=checkpoint.image_processor,
        protocol=checkpoint.protocol,
    )
    saved = (tmp_path / "saved" / "config.json").read_text("utf-8")
    assert "attn" not in saved and json.loads(saved)["model_type"] == "qwen2_5_vl"


def test_another_model_of_the_same_configuration_runs(tiny_base):
    """Without hooks, as TRL's copies are: called once for every window, as under sdpa, and patches go through the Conv3d."""
    model = tiny_base.model
    copy = type(model).from_pretrained(tiny_base.path, config=model.config, dtype=torch.float32).eval()
    inputs = tiny_base.image_processor(images=[Image.new("RGB", (112, 84), (200, 9, 9))], return_tensors="pt")
    with torch.inference_mode():
        ours, theirs = (m.model.visual(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output for m in (model, copy))
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-4) and float(theirs.abs().max()) > 10


@pytest.mark.parametrize("attention", ["", "eager"])
def test_the_reference_model_has_the_attention_of_the_trained_one(tmp_path, attention):
    trainer = make_trainer(small(tmp_path, kl_coef=0.1, attention=attention), synth.suite(6))
    for model in (trainer.model, trainer.ref_model):
        config = model.config
        parts = (config, config.get_text_config(), config.vision_config)
        shared = "shared_" if trainer.engine else ""  # older versions of transformers take no features of images
        expected = ["eager", f"{shared}eager", "eager"] if attention else ["sdpa", f"{shared}sdpa", GROUPED]
        assert [part._attn_implementation for part in parts] == expected
        assert all(len(block.attn._forward_pre_hooks) == (not attention) for block in model.model.visual.blocks)


# ------------------------------------------------------------------------------------------------ which implementation


def test_flash_attention_is_chosen_where_it_can_be_used(monkeypatch):
    """The choice alone: flash attention itself needs a GPU."""
    assert chosen_attention("", device="cpu", dtype=torch.bfloat16) == "sdpa"
    assert chosen_attention("eager", device="cuda", dtype="bfloat16") == "eager"
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (8, 0))
    for dtype, expected in ((torch.bfloat16, "flash_attention_2"), ("float16", "flash_attention_2")):
        assert chosen_attention("", device="cuda:0", dtype=dtype) == expected
        assert chosen_attention("sdpa", device="cuda:0", dtype=dtype) == "sdpa"
        assert chosen_attention("flash_attention_2", device="cuda:0", dtype=dtype) == expected
    for dtype in (torch.float32, None):
        assert chosen_attention("", device="cuda:0", dtype=dtype) == "sdpa"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    assert chosen_attention("", device="cuda:0", dtype=torch.bfloat16) == "sdpa"
    with pytest.raises(OptionError, match=r"compute capability 8\.0 or above, and cuda:0 is an older one; or use sdpa$"):
        chosen_attention("flash_attention_2", device="cuda:0", dtype=torch.bfloat16)


def test_what_cannot_be_used_is_refused():
    flash = "flash_attention_2"
    with pytest.raises(
        OptionError, match=r"^attention flash_attention_2: needs an NVIDIA GPU, and the model is on the cpu; or use sdpa$"
    ):
        open_checkpoint("tiny-base", device="cpu", attention=flash)
    with pytest.raises(OptionError, match=r"needs weights in bfloat16 or float16, and these are float32"):
        chosen_attention(flash, device="cuda", dtype=torch.float32)
    with pytest.raises(OptionError, match=r"of a type that config\.json does not say"):
        chosen_attention(flash, device="cuda", dtype=None)
    for wrong in (open_checkpoint, visionthink.load):
        with pytest.raises(OptionError, match=r"^unknown attention 'flash'; choose from sdpa, flash_attention_2, eager$"):
            wrong("no-such-model", attention="flash")
    for settings in (TrainConfig, lambda **given: CurateConfig(data="mini", model="tiny", out=".", **given)):
        with pytest.raises(OptionError, match=r"^unknown attention 'flash'"):
            settings(attention="flash")
    with pytest.raises(OptionError, match=r"^attention sdpa: is for a model that transformers runs; the endpoint has its own$"):
        visionthink.load("http://localhost:1/v1", attention="sdpa")
    with pytest.raises(OptionError, match=r"vllm has its own$"):
        visionthink.load("tiny", engine="vllm", attention="sdpa")


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash attention is installed")
def test_flash_attention_that_is_not_installed():
    with pytest.raises(OptionError, match=r"flash_attention_2: is not installed; pip install flash-attn; or use sdpa$"):
        chosen_attention("flash_attention_2", device="cuda", dtype=torch.bfloat16)


def test_a_model_under_eager_attention_answers(red):
    assert visionthink.load("tiny", attention="eager", max_new_tokens=8).ask(red, "What colour is it?").answer
