"""A model together with the method that acts on it, checked against each other before any prompt is read."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

from visionthink.compress.selection import Method, Rows
from visionthink.engine.attention import plain_attention
from visionthink.errors import CompressionError, OptionError
from visionthink.policies.checkpoint_files import MODEL_TYPES


def complete_from(model: Any) -> int:
    """The first layer of the decoder at whose entry tokens can be chosen: behind the first, and behind those of Qwen3-VL to whose
    outputs features of the image are added."""
    return max(1, len(getattr(model.config.vision_config, "deepstack_visual_indexes", None) or ()))


class Target:
    """The parts of a model that compression works with, and the method that has a place in them.

    `flops` are operations of choosing tokens by the shapes that decide them, each counted once; targets of the same model and
    method may share them.

    Raises:
        CompressionError: the model is not one that tokens can be taken out of.
        OptionError: the method has no place in this model.
    """

    def __init__(self, model: Any, method: Method, flops: dict[Hashable, int] | None = None):
        if hasattr(model, "get_base_model"):  # wrapped by peft
            model = model.get_base_model()
        kind = getattr(getattr(model, "config", None), "model_type", "")
        if kind not in MODEL_TYPES:
            raise CompressionError(f"{kind or type(model).__name__}: tokens can be taken out of {', '.join(MODEL_TYPES)} only")
        if not hasattr(model, "lm_head"):
            raise CompressionError(f"{type(model).__name__}: compression needs the model with its language head")
        self.model, self.method = model, method
        self.inner, self.decoder, self.tower = model.model, model.model.language_model, model.model.visual
        self.layers = len(self.decoder.layers)
        parts = (model, self.inner, self.decoder, self.tower, *self.decoder.layers)
        if any(hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None for part in parts):
            raise CompressionError("tokens cannot be taken out of a compiled model")
        self.at: dict[int, Rows] = dict(method.at(self.layers))
        least = complete_from(model)
        for layer in self.at:
            if not least <= layer < self.layers:
                raise OptionError(f"{method.name}: layer {layer}: must be from {least} to {self.layers - 1}")
        blocks = len(self.tower.blocks)
        if method.needs.attention and kind == "qwen2_5_vl" and blocks - 1 not in self.tower.fullatt_block_indexes:
            raise CompressionError("the last block of the vision tower attends within windows only")
        for block in method.needs.levels:
            if not 0 <= block < blocks:
                raise OptionError(f"{method.name}: block {block} of the vision tower: must be from 0 to {blocks - 1}")
        self.flops = {} if flops is None else flops
        ends = getattr(model.generation_config, "eos_token_id", None)
        self.turn_ends: list[int] = ends if isinstance(ends, list) else [] if ends is None else [ends]
        """Token ids that end a turn of the dialogue."""

    @property
    def implementation(self) -> str:
        """The implementation of the decoder's attention, as transformers names it."""
        return plain_attention(self.model.config.get_text_config()._attn_implementation)

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of positions [batch, length] that are the same along time, height and width."""
        cosine, sine = self.decoder.rotary_emb(hidden, positions.expand(3, *positions.shape))
        return cosine, sine
