"""Attention over sequences that share prefixes, as an attention implementation of transformers.

`share_attention` lets the decoder of a stock Qwen-VL model take a keyword `shared`, an object that says how one pass attends
(`Prefill`, `Decode`, or `Forest` under gradients); without it the decoder attends as it did. On a CPU a tree is attended to in
parts that need no mask, which are merged by their log-sum-exps; on a GPU FlexAttention takes the rule of the tree as its mask.
The GPU path has not run.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from visionthink.engine.tree import Part, PrefixTree

_PREFIX = "shared_"
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Shared(Protocol):
    """How the tokens of one pass attend."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of a layer: queries [batch, heads, tokens, width], keys and values [batch, key heads, tokens, width] of the
        tokens of this pass; returns [batch, tokens, heads, width]."""
        ...


def share_attention(model: Any) -> None:
    """Let the decoder of a Qwen-VL model attend over shared prefixes where it is asked to.

    Flash attention, which cannot, is replaced by sdpa in the decoder, also for passes that share nothing; the vision tower keeps
    its own.
    """
    config = model.config.get_text_config()
    usual = config._attn_implementation
    if not usual.startswith(_PREFIX):
        config._attn_implementation = _PREFIX + (usual if usual == "eager" else "sdpa")


def without_mask(model: Any) -> dict[str, None] | None:
    """What a decoder is given instead of a mask, so that it makes none."""
    return {"full_attention": None} if hasattr(model.config.get_text_config(), "layer_types") else None


def keep_wanted(model: Any) -> None:
    """Let a Qwen-VL model that reads a `Forest` return the hidden states of its `places` alone, so that the head is run on
    nothing else."""
    model.model.register_forward_hook(_wanted, with_kwargs=True)


def _wanted(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
    forest = kwargs.get("shared")
    if isinstance(forest, Forest):
        output.last_hidden_state = output.last_hidden_state[:, forest.places]
    return output


def plain_attention(name: str) -> str:
    """The attention that stands behind an implementation's name."""
    return name.removeprefix(_PREFIX)


def why_not(model: Any) -> str:
    """Why prefixes cannot be shared in this model where it is; empty if they can be."""
    if model.device.type == "meta":  # it has no weights, and is not run
        return ""
    if model.device.type not in ("cpu", "cuda"):
        return f"attention over shared prefixes runs on a CPU or a GPU of NVIDIA, and the model is on {model.device.type}"
    text = model.config.get_text_config()
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        return "its decoder has layers with a sliding window"
    if getattr(text, "attention_dropout", 0):
        return "its decoder drops attention at random while it is trained (attention_dropout)"
    return ""


def _attend(usual: str, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> tuple[Any, ...]:
    shared: Shared | None = settings.pop("shared", None)
    if shared is None:
        # every modelling file has an eager attention of its own
        eager = sys.modules[type(module).__module__].eager_attention_forward
        stock = eager if usual == "eager" else ALL_ATTENTION_FUNCTIONS[usual]
        return stock(module, query, key, value, mask, **settings)
    if torch.is_autocast_enabled(query.device.type):  # as for torch's own attention
        query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in (query, key, value))
    return shared.attend(module.layer_idx, query, key, value, settings["scaling"]), None


for _usual in ("sdpa", "eager"):
    AttentionInterface.register(_PREFIX + _usual, functools.partial(_attend, _usual))
    AttentionMaskInterface.register(_PREFIX + _usual, AttentionMaskInterface()[_usual])


# ------------------------------------------------------------------------------------------------ trees


class TreeAttention:
    """Attention of the tokens `asking` of a tree to those they follow, themselves included; see `PrefixTree.parts`."""

    def __init__(self, tree: PrefixTree, asking: np.ndarray | None, device: torch.device):
        if device.type == "cpu":
            self._parts = _Parts(tree.parts(asking))
        else:
            self._mask = _block_mask(tree, asking, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[1, heads, asking, width] to [1, asking, heads, width]; keys and values [1, key heads, tokens, width] of all tokens."""
        if query.device.type == "cpu":
            repeats = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
            return _InParts.apply(query, key, value, self._parts, scale).transpose(1, 2)
        return _flex()(query, key, value, block_mask=self._mask, scale=scale, enable_gqa=True).transpose(1, 2)


class Forest:
    """A tree of which all tokens are read in one pass, under gradients. `places` [n] are those whose hidden states are wanted."""

    def __init__(self, tree: PrefixTree, places: np.ndarray, device: torch.device):
        self._attention = TreeAttention(tree, None, device)
        self.places = torch.from_numpy(places).to(device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return self._attention(query, key, value, scale)


@functools.cache
def _flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _block_mask(tree: PrefixTree, asking: np.ndarray | None, device: torch.device) -> Any:
    """The rule of the tree for FlexAttention: query `q` stands at `place[q]`, and sees key `j` if `j <= place[q] < end[j]`."""
    from torch.nn.attention.flex_attention import create_block_mask

    place = torch.from_numpy(np.arange(len(tree.keys)) if asking is None else np.flatnonzero(asking)).to(device)
    end = torch.from_numpy(tree.end).to(device)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= place[query]) & (place[query] < end[key])

    return create_block_mask(sees, None, None, len(place), len(end), device=device)


class _Parts:
    """Parts of a tree, those of equal length side by side: `alone` are segments to themselves, as places [segments, length] of
    their queries and of their keys; `below` are parts that follow a segment."""

    def __init__(self, parts: Sequence[Part]):
        alone: dict[int, list[Part]] = {}
        for part in parts:
            if part.causal:
                alone.setdefault(part.last - part.first, []).append(part)
        self.below = [part for part in parts if not part.causal]
        self.alone = [
            (_places([p.first for p in of_length], length), _places([p.begin for p in of_length], length))
            for length, of_length in alone.items()
        ]


def _places(begins: Sequence[int], length: int) -> Tensor | slice:
    """[segments, length]; of a single segment a slice, which copies nothing."""
    if len(begins) == 1:
        return slice(begins[0], begins[0] + length)
    return torch.from_numpy(np.add.outer(np.asarray(begins), np.arange(length)))


def _taken(x: Tensor, places: Tensor | slice) -> Tensor:
    """[1, heads, tokens, ...] to [segments, heads, length, ...]."""
    if isinstance(places, slice):
        return x[:, :, places]
    return x[0].index_select(1, places.flatten()).unflatten(1, tuple(places.shape)).transpose(0, 1)


def _put(x: Tensor, places: Tensor | slice, values: Tensor) -> None:
    """The reverse of `_taken`: writes [segments, heads, length, ...]."""
    if isinstance(places, slice):
        x[:, :, places] = values
    else:
        x[0].index_copy_(1, places.flatten(), values.transpose(0, 1).flatten(1, 2))


class _InParts(torch.autograd.Function):
    """Exact attention in parts without masks. Every query has one part with itself; those of the segments before it are merged
    by log-sum-exp. In the backward pass every part gets the merged output and log-sum-exp, which makes its share of the gradient
    that of the whole."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: _Parts, scale: float) -> Tensor:
        out, total = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
        for queries, keys in parts.alone:
            attended, sums = _flash(_taken(query, queries), _taken(key, keys), _taken(value, keys), 0.0, True, scale=scale)
            _put(out, queries, attended)
            _put(total, queries, sums)
        for p in parts.below:
            rows, columns = slice(p.first, p.last), slice(p.begin, p.end)
            attended, sums = _flash(query[:, :, rows], key[:, :, columns], value[:, :, columns], 0.0, False, scale=scale)
            before = total[:, :, rows]
            merged = torch.logaddexp(before, sums)
            share = torch.exp(sums - merged)[..., None]
            out[:, :, rows] = (out[:, :, rows] * (1 - share) + attended * share).to(out.dtype)
            total[:, :, rows] = merged
        ctx.save_for_backward(query, key, value, out, total)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        query, key, value, out, total = ctx.saved_tensors
        [grad] = grads
        of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for queries, keys in ctx.parts.alone:  # each query, and each key of this pass, is in one of them
            shares = _flash_backward(
                _taken(grad, queries).contiguous(),
                _taken(query, queries),
                _taken(key, keys),
                _taken(value, keys),
                _taken(out, queries),
                _taken(total, queries).contiguous(),
                0.0,
                True,
                scale=ctx.scale,
            )
            for x, places, share in zip((of_query, of_key, of_value), (queries, keys, keys), shares, strict=True):
                _put(x, places, share)
        for p in ctx.parts.below:
            rows, columns = slice(p.first, p.last), slice(p.begin, p.end)
            shares = _flash_backward(
                grad[:, :, rows].contiguous(),
                query[:, :, rows],
                key[:, :, columns],
                value[:, :, columns],
                out[:, :, rows],
                total[:, :, rows].contiguous(),
                0.0,
                False,
                scale=ctx.scale,
            )
            for x, places, share in zip((of_query, of_key, of_value), (rows, columns, columns), shares, strict=True):
                x[:, :, places] += share
        return of_query, of_key, of_value, None, None
