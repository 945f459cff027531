"""Attention of a vision tower under sdpa: all windows of one length in one call.

A tower lays its images out as one sequence, cut into windows (Qwen2.5-VL, most layers) or into images, which attend within
themselves. transformers calls scaled_dot_product_attention once for each of these parts unless flash attention is chosen: 5,324
times in one forward pass over an image of 2048x1024 px. Here an attention module is told that the sequence is in one part, so
that it calls the registered attention function once, and that function is told the true bounds.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

GROUPED = "sdpa_windows"
"""The name of this attention in transformers."""

AT_ONCE = 2**22
"""Query-key pairs of a head in one call: 1,024 windows of 64 patches. Where no fused kernel can be used, torch holds the weights
of all pairs of a call in memory, 256 MiB for 16 heads in float32; longer parts go one by one, as in transformers."""


def group_windows(model: Any) -> None:
    """Let the vision tower of a Qwen-VL model under sdpa attend to windows of equal length in one call.

    `set_attn_implementation` changes it to another attention, as any. Towers under another attention stay as they are.
    """
    tower = model.model.visual
    if tower.config._attn_implementation != "sdpa":
        return
    tower.config._attn_implementation = GROUPED
    for block in tower.blocks:
        block.attn.register_forward_pre_hook(_in_one_part, with_kwargs=True)


def _in_one_part(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of an attention module, with the bounds of the parts beside those of the whole sequence."""
    if module.config._attn_implementation != GROUPED:
        return None
    bounds = kwargs["cu_seqlens"]
    return args, kwargs | {"cu_seqlens": bounds[:: len(bounds) - 1], "part_bounds": bounds}


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    part_bounds: Tensor | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Attention within parts of the sequence, as transformers calls it: [1, heads, tokens, width] to [1, tokens, heads, width].

    `part_bounds` are where the parts begin, and the end of the last one; None: there is one part.
    """
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if part_bounds is None:
        return sdpa(module, query, key, value, attention_mask, **settings)
    groups, order, back = _groups(tuple(part_bounds.diff().tolist()))
    tokens = [x[0].transpose(0, 1) for x in (query, key, value)]
    if order is not None:
        index = torch.from_numpy(order).to(query.device)
        tokens = [x.index_select(0, index) for x in tokens]
    attended, start = list[Tensor](), 0
    for length, count in groups:
        rows = [x[start : start + count * length].unflatten(0, (count, length)).transpose(1, 2) for x in tokens]
        start += count * length
        for parts in zip(*(x.split(max(1, AT_ONCE // length**2)) for x in rows), strict=True):
            attended.append(sdpa(module, *parts, None, **settings)[0].flatten(0, 1))
    joined = torch.cat(attended)
    if back is not None:
        joined = joined.index_select(0, torch.from_numpy(back).to(query.device))
    return joined[None], None


@functools.lru_cache(maxsize=8)
def _groups(lengths: tuple[int, ...]) -> tuple[list[tuple[int, int]], np.ndarray | None, np.ndarray | None]:
    """How many parts there are of each length, the order of tokens in which those of equal length stand together, and the way
    back; None for an order that changes nothing. Every layer asks for the same.

    The orders are no tensors: one that is made while gradients are off can take no part in training.
    """
    sizes, counts = np.unique(lengths, return_counts=True)
    order = np.repeat(lengths, lengths).argsort(kind="stable")
    groups = list(zip(sizes.tolist(), counts.tolist(), strict=True))
    return (groups, order, order.argsort()) if (np.diff(order) != 1).any() else (groups, None, None)


AttentionInterface.register(GROUPED, _attend)
