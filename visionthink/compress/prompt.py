"""A batch of prompts from which tokens are removed: the remaining tokens, their places, and attention masks for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from visionthink.compress.selection import Rows


@dataclass(kw_only=True)
class Prompt:
    """Samples aligned to the right, [batch, length] throughout."""

    valid: Tensor
    """False: padding."""
    visual: Tensor
    offered: Tensor
    """The visual tokens among which the method selects."""
    index: Tensor
    """Where each position stood when the model was called."""
    ends: Tensor
    """Where turns of the dialogue end."""
    total: list[int]
    """Number of offered tokens of each sample before any was removed."""

    # cached, as each of them is a wait for the device
    @functools.cached_property
    def counts(self) -> list[int]:
        """Visual tokens of each sample."""
        return [int(n) for n in self.visual.sum(1).tolist()]

    @functools.cached_property
    def full(self) -> bool:
        """Whether nothing of it is padding."""
        return bool(self.valid.all())

    @property
    def positions(self) -> Tensor:
        """Positions from 0 without gaps."""
        return (self.valid.cumsum(1) - 1).clamp(min=0)

    def without(self, keep: list[Tensor]) -> tuple[Prompt, Tensor]:
        """The positions [k] of each sample that stay, aligned again; and, for gathering, where each of the new ones was."""
        length = max(map(len, keep))
        source = torch.stack([torch.nn.functional.pad(k, (length - len(k), 0)) for k in keep])
        valid = torch.stack([torch.arange(length, device=k.device) >= length - len(k) for k in keep])
        visual, offered, ends = (x.gather(1, source) & valid for x in (self.visual, self.offered, self.ends))
        index = self.index.gather(1, source)
        return Prompt(valid=valid, visual=visual, offered=offered, index=index, ends=ends, total=self.total), source

    def question_of(self, sample: int) -> Tensor:
        """[Q] places of the text in the turn that shows the first image of a sample. Later turns are left out: in training data
        they contain the answer."""
        valid, visual = self.valid[sample], self.visual[sample]
        turn = self.ends[sample].cumsum(0) - self.ends[sample].long()  # the end of a turn is part of it
        return (valid & ~visual & (turn == turn[visual.nonzero()[0, 0]])).nonzero()[:, 0]

    def places_in(self, earlier: Prompt) -> Tensor:
        """[batch, length]: where its positions stood in an earlier state of the same prompt."""
        index = earlier.index.masked_fill(~earlier.valid, -1).contiguous()
        return torch.searchsorted(index, self.index.contiguous()).clamp(max=index.shape[1] - 1)

    def mask(self, kind: str, dtype: torch.dtype) -> Tensor | None:
        """What attention of an implementation may see within the prompt."""
        if "flash" in kind:
            return None if self.full else self.valid.long()
        if self.full and kind == "sdpa":
            return None
        length = self.valid.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=self.valid.device).tril() & self.valid[:, None]
        seen |= torch.eye(length, dtype=torch.bool, device=seen.device)  # padding sees itself: a row of nothing is no number
        return _as_mask(seen[:, None], kind, dtype)

    def mask_of_next(self, behind: int, kind: str, dtype: torch.dtype) -> Tensor | None:
        """What a new token may see of the prompt and of the `behind` positions that follow it, itself included."""
        if self.full and (kind == "sdpa" or "flash" in kind):
            return None
        seen = torch.nn.functional.pad(self.valid, (0, behind), value=True)
        return seen.long() if "flash" in kind else _as_mask(seen[:, None, None], kind, dtype)


def rows_of(kind: Rows, visual: Tensor, offered: Tensor) -> Tensor:
    """Queries of one sample by name, as indices into its positions."""
    if kind == "none":
        return offered.new_empty(0, dtype=torch.long)
    if kind == "visual":
        return offered.nonzero()[:, 0]
    length = len(visual)
    last_visual = int(visual.nonzero()[-1, 0])
    first = length - 1 if kind == "last" else min(last_visual + 1, length - 1)
    return torch.arange(first, length, device=visual.device)


def gathered(x: Tensor, source: Tensor, valid: Tensor | None = None) -> Tensor:
    """[batch, length, D] at [batch, new length]; zero where that is not valid."""
    if x.shape[0] != source.shape[0]:
        x = x.expand(source.shape[0], *x.shape[1:])
    taken = x.gather(1, source[..., None].expand(-1, -1, x.shape[-1]))
    return taken if valid is None or valid.all() else taken * valid[..., None].to(taken.dtype)


def _as_mask(seen: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """[batch, 1, queries, keys] as the implementation wants it: booleans, or what is added to the scores."""
    if kind != "eager":
        return seen
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
