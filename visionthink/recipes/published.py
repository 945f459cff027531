"""Sizes of the published models, for arithmetic on memory without downloading their configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from visionthink.resolution import QWEN2_5_VL, QWEN3_VL

if TYPE_CHECKING:
    from visionthink.train.sizes import Sizes

_TEXT = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
_VISION = ("hidden_size", "intermediate_size", "depth")
_SIZES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "text": (3584, 18944, 28, 28, 4, 152064),
        "vision": (1280, 3420, 32),
        "more": {"num_heads": 16, "patch_size": 14},
        "tied": False,
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "text": (2048, 11008, 36, 16, 2, 151936),
        "vision": (1280, 3420, 32),
        "more": {"num_heads": 16, "patch_size": 14},
        "tied": True,
    },
    "Qwen/Qwen3-VL-8B-Instruct": {
        "text": (4096, 12288, 36, 32, 8, 151936),
        "vision": (1152, 4304, 27),
        "more": {"num_heads": 16, "patch_size": 16, "deepstack_visual_indexes": [8, 16, 24], "num_position_embeddings": 2304},
        "tied": False,
    },
    "Qwen/Qwen3-VL-4B-Instruct": {
        "text": (2560, 9728, 36, 32, 8, 151936),
        "vision": (1024, 4096, 24),
        "more": {"num_heads": 16, "patch_size": 16, "deepstack_visual_indexes": [5, 11, 17], "num_position_embeddings": 2304},
        "tied": True,
    },
}


def published_sizes(model: str) -> Sizes | None:
    """The sizes of a model by its hub id; None for one that is not known here."""
    if model not in _SIZES:
        return None
    import transformers

    from visionthink.train.sizes import Sizes

    known, third = _SIZES[model], "Qwen3" in model
    text: dict[str, Any] = dict(zip(_TEXT, known["text"], strict=True))
    vision = dict(zip(_VISION, known["vision"], strict=True)) | known["more"]
    vision |= {"out_hidden_size": text["hidden_size"], "spatial_merge_size": 2, "temporal_patch_size": 2}
    text |= {"tie_word_embeddings": known["tied"], "max_position_embeddings": 262_144 if third else 128_000}
    if third:
        text["head_dim"] = 128
    config_class = transformers.Qwen3VLConfig if third else transformers.Qwen2_5_VLConfig
    config = config_class(text_config=text, vision_config=vision, tie_word_embeddings=known["tied"])
    return Sizes(config=config, budget=QWEN3_VL if third else QWEN2_5_VL)
