"""How tokens of one pass attend while answers are generated: prompts to what is new of them, and one token of every answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from visionthink.engine.attention import TreeAttention
from visionthink.engine.tree import PrefixTree

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer; of a sequence or a tree [key heads, tokens, width]."""


class Prefill:
    """One pass over the tokens of a tree that are not known yet; `cache` is that of the whole tree afterwards.

    Args:
        tree: of the prompts.
        known: [tokens] of bool.
        past: keys and values of the known tokens, in the order of the tree.
    """

    def __init__(self, tree: PrefixTree, known: np.ndarray, past: Cache, device: torch.device):
        self._attention = TreeAttention(tree, ~known, device)
        self._known = torch.from_numpy(np.flatnonzero(known)).to(device) if known.any() else None
        self._new = torch.from_numpy(np.flatnonzero(~known)).to(device)
        self._past, self._tokens = past, len(known)
        self.cache: Cache = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        whole = tuple(self._whole(x[0], layer, i) for i, x in enumerate((key, value)))
        self.cache.append((whole[0], whole[1]))
        return self._attention(query, whole[0][None], whole[1][None], scale)

    def _whole(self, new: Tensor, layer: int, which: int) -> Tensor:
        if self._known is None:
            return new
        whole = new.new_empty((new.shape[0], self._tokens, new.shape[2]))
        whole[:, self._known] = self._past[layer][which]
        whole[:, self._new] = new
        return whole


@dataclass(eq=False, kw_only=True)
class Decode:
    """Passes over one new token of each row. All rows that share a context read one copy of its keys and values; those of a row's
    own tokens are collected.

    `contexts` has, for each layer, keys and values [contexts, key heads, longest, width]; `mask` [contexts, longest] is added to
    the scores, minus infinity behind the end of a context; None: all have one length. `of` is the context of each row; contexts
    are numbered in the order of their first rows.
    """

    contexts: Cache
    mask: Tensor | None
    of: list[int]
    own: Cache = field(default_factory=list)
    """Keys and values [rows, key heads, room, width] of the rows' own tokens."""
    steps: int = 0
    """Tokens of its own that every row has."""

    def __post_init__(self) -> None:
        self._seat()

    def _seat(self) -> None:
        """Arrange rows by context, [contexts, most rows of one]; a context with fewer computes some for nothing."""
        members: dict[int, list[int]] = {}
        for row, context in enumerate(self.of):
            members.setdefault(context, []).append(row)
        device, most = self.contexts[0][0].device, max(map(len, members.values()))
        seats = [rows + rows[:1] * (most - len(rows)) for rows in members.values()]
        seat_of = {row: (i, j) for i, rows in enumerate(members.values()) for j, row in enumerate(rows)}
        self._one_row_each = most == 1
        self._seats = torch.tensor(seats, device=device)
        self._group, self._place = torch.tensor([seat_of[row] for row in range(len(self.of))], device=device).T
        self._mask = None if self.mask is None else self.mask[torch.tensor(self.of, device=device)][:, None, None]

    def leave(self, staying: Sequence[int]) -> None:
        """Only these rows go on."""
        index = torch.tensor(staying, device=self.contexts[0][0].device)
        self.own = [(keys.index_select(0, index), values.index_select(0, index)) for keys, values in self.own]
        of = [self.of[i] for i in staying]
        present = {context: i for i, context in enumerate(dict.fromkeys(of))}
        if len(present) < len(self.contexts[0][0]):
            kept = torch.tensor(list(present), device=index.device)
            self.contexts = [(keys.index_select(0, kept), values.index_select(0, kept)) for keys, values in self.contexts]
            self.mask = None if self.mask is None else self.mask.index_select(0, kept)
        self.of = [present[context] for context in of]
        self._seat()

    def said(self, row: int) -> Cache:
        """Keys and values of a row's own tokens."""
        return [(keys[row, :, : self.steps], values[row, :, : self.steps]) for keys, values in self.own]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        rows, heads, _, width = query.shape
        of_keys = key.shape[1]
        self._collect(layer, key, value)
        keys, values = self.contexts[layer]
        own_keys, own_values = (x[:, :, : self.steps + 1] for x in self.own[layer])
        query = query.reshape(rows, of_keys, heads // of_keys, width) * scale
        context = self._to_rows(self._to_contexts(query) @ keys.transpose(-1, -2))
        if self._mask is not None:
            context = context + self._mask
        scores = torch.cat([context, query @ own_keys.transpose(-1, -2)], -1)
        weights = scores.float().softmax(-1).to(query.dtype)
        split = context.shape[-1]
        out = self._to_rows(self._to_contexts(weights[..., :split]) @ values) + weights[..., split:] @ own_values
        return out.reshape(rows, 1, heads, width)

    def _collect(self, layer: int, key: Tensor, value: Tensor) -> None:
        if layer == len(self.own):
            room = (*key.shape[:2], 16, key.shape[3])
            self.own.append((key.new_empty(room), value.new_empty(room)))
        keys, values = self.own[layer]
        if self.steps == keys.shape[2]:
            keys, values = torch.cat([keys, torch.empty_like(keys)], 2), torch.cat([values, torch.empty_like(values)], 2)
            self.own[layer] = keys, values
        keys[:, :, self.steps], values[:, :, self.steps] = key[:, :, 0], value[:, :, 0]

    def _to_contexts(self, x: Tensor) -> Tensor:
        """[rows, key heads, queries of one, ...] to [contexts, key heads, queries of all its rows, ...]."""
        return x if self._one_row_each else x[self._seats].transpose(1, 2).flatten(2, 3)

    def _to_rows(self, x: Tensor) -> Tensor:
        """The reverse."""
        if self._one_row_each:
            return x
        return x.unflatten(2, (self._seats.shape[1], -1))[self._group, :, self._place]
