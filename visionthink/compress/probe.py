"""What attention looks at: softmax rows and keys, computed again from a layer's own weights for the queries that are asked for.

No attention implementation hands its weights out (flash and sdpa never have them), so that the few rows a method needs are
computed beside it: R rows cost 2 R L H d operations and one projection, and no matrix of all pairs is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_SCORES_AT_ONCE, _SCORES_AT_ONCE_ON_CPU = 2**27, 2**22
"""On a processor 16 MB of float32: a block that stays in its cache is read three times as fast as one that does not."""


def decoder_attention(
    attention: Any, hidden: Tensor, cosine: Tensor, sine: Tensor, rows: Tensor, *, averaged: bool = False
) -> tuple[Tensor, Tensor]:
    """(softmax rows [H, R, L], mean key [L, d]) of one sample in a decoder layer, causal; with `averaged` the mean over heads and
    rows, [1, 1, L], for which no more than some rows are held at a time.

    `hidden` [L, D] is what the attention module was given; `cosine` and `sine` [L, d] its rotary embedding.
    """
    length, size = len(hidden), attention.head_dim
    queries = attention.q_proj(hidden[rows]).view(len(rows), -1, size)
    keys = attention.k_proj(hidden).view(length, -1, size)
    if hasattr(attention, "q_norm"):
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    queries = _rotated(queries, cosine[rows], sine[rows]).float()
    keys = _rotated(keys, cosine, sine).float()
    groups = queries.shape[1] // keys.shape[1]
    weights = _weights(queries, keys.repeat_interleave(groups, dim=1), attention.scaling, rows)
    if not averaged:
        return torch.cat(list(weights), dim=1), keys.mean(1)
    total = sum((some.sum((0, 1)) for some in weights), queries.new_zeros(length))
    return (total / queries.shape[1] / len(rows))[None, None], keys.mean(1)


def tower_attention(attention: Any, hidden: Tensor, cosine: Tensor, sine: Tensor, merge: int) -> tuple[Tensor, Tensor]:
    """(received [N], mean key [N, d]) of one image's visual tokens in a block of the vision tower, in the block's own order.

    `hidden` [patches, D] is what the attention module was given, `merge` the patches of a token. Received is the mean over heads
    of the sum over queries, a mean over the patches of a token.
    """
    patches = len(hidden)
    queries, keys, _ = attention.qkv(hidden).view(patches, 3, attention.num_heads, -1).unbind(1)
    queries, keys = (_rotated(x, cosine, sine).float() for x in (queries, keys))
    total = sum((some.sum((0, 1)) for some in _weights(queries, keys, attention.scaling)), queries.new_zeros(patches))
    received = (total / attention.num_heads).view(-1, merge).mean(1)
    return received, keys.mean(1).view(patches // merge, merge, -1).mean(1)


def _weights(queries: Tensor, keys: Tensor, scaling: float, rows: Tensor | None = None) -> Iterator[Tensor]:
    """[heads, some rows, positions] softmax of queries [rows, heads, d] and keys [positions, heads, d], one block of rows after
    the other; causal where `rows` says at which positions the queries stand."""
    queries, keys = (scaling * queries).transpose(0, 1).contiguous(), keys.permute(1, 2, 0).contiguous()
    heads, _, length = keys.shape
    at_once = max(1, (_SCORES_AT_ONCE_ON_CPU if keys.device.type == "cpu" else _SCORES_AT_ONCE) // (heads * length))
    for first in range(0, queries.shape[1], at_once):
        with torch.autocast(keys.device.type, enabled=False):
            scores = queries[:, first : first + at_once] @ keys
        if rows is not None:
            ahead = torch.arange(length, device=rows.device) > rows[first : first + at_once, None]
            scores = scores.masked_fill(ahead, -torch.inf)
        yield scores.softmax(-1)


def merged(x: Tensor, config: Any) -> Tensor:
    """[batch, length, d] of a decoder's cosine or sine. Up to transformers 5.16, those of Qwen2-VL and Qwen2.5-VL have an axis
    for time, height and width in front, and attention takes its sections from each in turn; later they come as one."""
    if x.ndim == 3:
        return x
    sections = x.split(2 * list(config.rope_parameters["mrope_section"]), dim=-1)
    return torch.cat([section[i % 3] for i, section in enumerate(sections)], dim=-1)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of [positions, heads, d]: halves are the two parts of a rotation."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cosine[:, None].float() + turned * sine[:, None].float()).to(x.dtype)


def window_order(grids: Sequence[tuple[int, int, int]], window: int, merge: int) -> Tensor:
    """Where the k-th visual token of a tower with windows stands in row-major order, image after image.

    `grids` are (frames, rows, columns) in patches, `window` is the side of a window in tokens; 0 where there are no windows.
    """
    order, before = [], 0
    for frames, rows, columns in grids:
        height, width = rows // merge, columns // merge
        tokens = torch.arange(frames * height * width).view(frames, height, width)
        if window:
            parts = [
                frame[top : top + window, left : left + window].reshape(-1)
                for frame in tokens
                for top in range(0, height, window)
                for left in range(0, width, window)
            ]
            order.append(before + torch.cat(parts))
        else:
            order.append(before + tokens.reshape(-1))
        before += tokens.numel()
    return torch.cat(order)
