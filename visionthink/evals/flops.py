"""Floating-point operations of a forward pass, exactly as PyTorch's counter sees them under eager attention.

A product of an [a, b] and a [b, c] matrix counts 2abc; norms, activations and softmax count nothing. Vision tower of p patches
(width d_v, FFN m_v, merged 2x2 into p/4 visual tokens of width d):

    embed   2 p c d_v                                   c values per patch
    layer   2 p (4 d_v^2 + k d_v m_v) + 4 d_v sum w^2   k = 3 gated, 2 plain; w patches attend to each other: all p, or a window's
    merger  2 (p/4) ((4 d_v)^2 + 4 d_v d)               once, and once for every DeepStack level

Decoder layer (width d, FFN m, h heads of size s, g key-value heads) for n new tokens behind `past` cached ones:

    2 n d s (2h + 2g) + 4 n (past + n) h s + 6 n d m

summed over the layers, with n_l and past_l of each where layers see different numbers of tokens; and 2 d V for every position
whose logits are computed. The causal half of the scores is computed and counted too, as stock attention does. A cache of n_l
tokens per layer holds 2 g s sum_l n_l values. The shapes are those of Qwen2.5-VL (arXiv 2502.13923) and Qwen3-VL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from visionthink import records

Tokens: TypeAlias = "int | Sequence[int]"
"""A number of tokens that holds for every layer of the decoder, or one number for each layer."""


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    layers: int
    hidden: int
    ffn: int
    gated: bool
    windowed: int
    """Layers that attend within windows only."""
    window: int
    """Visual tokens along a window's side."""
    patch: int
    """Pixels along a patch's side."""
    merge: int
    """Patches along a visual token's side."""
    patch_values: int
    mergers: int


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int


@dataclass(frozen=True)
class Architecture:
    """Everything that operations and cache depend on, and nothing else."""

    vision: VisionShape
    decoder: DecoderShape
    value_bytes: int = 2
    """Bytes of a value in the key-value cache."""

    @classmethod
    def of(cls, config: Any, value_bytes: int = 2) -> Architecture:
        """Read from a Qwen2-VL, Qwen2.5-VL or Qwen3-VL configuration of transformers."""
        v, t = config.vision_config, config.get_text_config()
        full = getattr(v, "fullatt_block_indexes", None)
        hidden = getattr(v, "embed_dim", None) or v.hidden_size  # Qwen2-VL's hidden_size is that of the decoder
        vision = VisionShape(
            layers=v.depth,
            hidden=hidden,
            ffn=round(hidden * v.mlp_ratio) if hasattr(v, "mlp_ratio") else v.intermediate_size,
            gated=full is not None,
            windowed=0 if full is None else v.depth - len(set(full) & set(range(v.depth))),
            window=0 if full is None else v.window_size // v.spatial_merge_size // v.patch_size,
            patch=v.patch_size,
            merge=v.spatial_merge_size,
            patch_values=v.in_channels * v.temporal_patch_size * v.patch_size**2,
            mergers=1 + len(getattr(v, "deepstack_visual_indexes", None) or ()),
        )
        decoder = DecoderShape(
            layers=t.num_hidden_layers,
            hidden=t.hidden_size,
            ffn=t.intermediate_size,
            heads=t.num_attention_heads,
            kv_heads=t.num_key_value_heads,
            head_size=getattr(t, "head_dim", None) or t.hidden_size // t.num_attention_heads,
            vocabulary=t.vocab_size,
        )
        return cls(vision, decoder, value_bytes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Architecture:
        """Inverse of `to_dict`.

        Raises:
            ValueError: a field is missing, or cannot be; the message names it.
        """
        architecture: Architecture = records.read(cls, record, "architecture")
        vision, decoder = architecture.vision, architecture.decoder
        numbers = {"value_bytes": architecture.value_bytes}
        numbers |= {
            f"vision.{name}": value for name, value in vars(vision).items() if name not in ("gated", "windowed", "window")
        }
        numbers |= {f"decoder.{name}": value for name, value in vars(decoder).items()}
        if vision.windowed:
            numbers |= {"vision.window": vision.window, "vision.windowed": vision.layers - vision.windowed + 1}
        for name, value in numbers.items():
            if not 1 <= value < (1000 if name.endswith("layers") else 10**9):
                raise ValueError(f"architecture.{name}: {value}: no model has it")
        return architecture


def vision_flops(shape: VisionShape, width: int, height: int, out: int) -> int:
    """Operations of encoding one view of width x height px (multiples of a visual token's side) into tokens of `out` values."""
    columns, rows = width // shape.patch, height // shape.patch
    p, d = columns * rows, shape.hidden
    linear = 2 * p * (4 * d * d + (3 if shape.gated else 2) * d * shape.ffn)
    attention = 4 * d * ((shape.layers - shape.windowed) * p * p + shape.windowed * _window_pairs(shape, columns, rows))
    wide, tokens = shape.merge**2 * d, p // shape.merge**2
    merger = 2 * tokens * (wide * wide + wide * out)
    return 2 * p * shape.patch_values * d + shape.layers * linear + attention + shape.mergers * merger


def _window_pairs(shape: VisionShape, columns: int, rows: int) -> int:
    """Sum over windows of the square of their patches; windows at the right and lower edge may be smaller."""
    if not shape.windowed:
        return 0
    side = shape.window * shape.merge

    def parts(length: int) -> list[int]:
        return [min(side, length - start) for start in range(0, length, side)]

    return sum((a * b) ** 2 for a in parts(columns) for b in parts(rows))


def by_layer(shape: DecoderShape, tokens: Tokens) -> Sequence[int]:
    """One number per layer."""
    return [tokens] * shape.layers if isinstance(tokens, int) else tokens


def decoder_flops(shape: DecoderShape, new: Tokens, past: Tokens = 0, logits: int = 1) -> int:
    """Operations of reading `new` tokens behind `past` cached ones; `logits` positions are given to the head."""
    layers = zip(by_layer(shape, new), by_layer(shape, past), strict=True)
    return sum(_layer_flops(shape, n, p) for n, p in layers) + 2 * logits * shape.hidden * shape.vocabulary


def _layer_flops(shape: DecoderShape, new: int, past: int) -> int:
    d, attended = shape.hidden, shape.heads * shape.head_size
    projections = 2 * new * d * (2 * attended + 2 * shape.kv_heads * shape.head_size)
    return projections + 4 * new * (past + new) * attended + 6 * new * d * shape.ffn


def generation_flops(shape: DecoderShape, prompt: Tokens, output: int) -> int:
    """Operations of sampling `output` tokens one by one behind a cached prompt; the first token comes with the prompt."""
    later = max(0, output - 1)
    # the sum of decoder_flops(new=1, past=prompt + i) for i < later; attention grows by one position each time
    attended = 4 * shape.heads * shape.head_size * shape.layers
    return later * decoder_flops(shape, 1, prompt) + attended * (later * (later - 1) // 2)


def cache_bytes(architecture: Architecture, tokens: Tokens) -> int:
    """Keys and values of a context."""
    d = architecture.decoder
    return 2 * d.kv_heads * d.head_size * sum(by_layer(d, tokens)) * architecture.value_bytes
