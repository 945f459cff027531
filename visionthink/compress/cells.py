"""Cells of neighbouring visual tokens: what a method mixes that makes one token of several.

The tokens of an image stand row by row on a grid of (frames, h, w). Cells of (a, b) are its ceil(h / a) ceil(w / b) rectangles,
frame by frame, never across images; at the right and lower edges they are smaller where the grid does not divide. A cell's token
stands where its first one stood, so that rows and columns stay apart in proportion and text stays where it is. Example: on a grid
of 3 x 5, cells of (2, 2) begin at tokens 0, 2, 4, 10, 12 and 14; the last one holds token 14 alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionthink.compress.selection import Grid
from visionthink.errors import OptionError

WHOLE = "images with all their tokens (a prompt that ends in an image withholds the last one)"
"""What cells need, for messages."""

SHAPES: Mapping[float, tuple[int, int]] = {1 / 2: (1, 2), 1 / 4: (2, 2), 1 / 8: (2, 4), 1 / 16: (4, 4), 1: (1, 1)}
"""Rows and columns of a cell, by the share of the tokens that it leaves."""


def shape_of(family: str, keep: float) -> tuple[int, int]:
    """The cells that leave a share of the tokens.

    Raises:
        OptionError: no cell does.
    """
    if keep not in SHAPES:
        raise OptionError(f"{family} keep {keep:g}: mixes whole cells; choose {', '.join(f'{share:g}' for share in SHAPES)}")
    return SHAPES[keep]


def places(grids: Sequence[Grid], width: int, device: torch.device | str = "cpu") -> Tensor:
    """[N, width] sinusoids of the rows, and behind them of the columns, of the tokens of images with these grids."""
    half = -(-width // 4)
    frequencies = 10000.0 ** (-torch.arange(half, device=device) / half)

    def waves(count: int) -> Tensor:
        angles = torch.arange(count, device=device)[:, None] * frequencies
        return torch.cat((angles.sin(), angles.cos()), -1)

    found = []
    for frames, rows, columns in grids:
        shape = (frames, rows, columns, 2 * half)
        pair = waves(rows)[None, :, None].expand(shape), waves(columns)[None, None].expand(shape)
        found.append(torch.cat(pair, -1).flatten(0, 2))
    return torch.cat(found)[:, :width]


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of one sample, image after image."""

    members: Tensor
    """[cells, a b] tokens of each, row by row; where a cell is smaller its first one stands in."""
    real: Tensor
    """[cells, a b] bool: False where it does."""

    @classmethod
    def of(cls, grids: Sequence[Grid], shape: tuple[int, int], device: torch.device | str = "cpu") -> Cells:
        """The cells of images with these grids."""
        rows, columns = shape
        members, before = [], 0
        for frames, height, width in grids:
            tokens = before + torch.arange(frames * height * width).view(frames, height, width)
            padded = torch.nn.functional.pad(tokens, (0, -width % columns, 0, -height % rows), value=-1)
            members.append(padded.unfold(1, rows, rows).unfold(2, columns, columns).reshape(-1, rows * columns))
            before += tokens.numel()
        found = torch.cat(members).to(device)
        return cls(members=torch.where(found < 0, found[:, :1], found), real=found >= 0)

    @property
    def keep(self) -> Tensor:
        """[cells], ascending: the token in whose place that of a cell stands."""
        return self.members[:, 0]

    def mean(self, tokens: Tensor) -> Tensor:
        """[cells, D] means of `tokens` [N, D]."""
        weights = self.real[..., None].to(tokens.dtype)
        return (tokens[self.members] * weights).sum(1) / weights.sum(1)

    @property
    def average(self) -> Tensor:
        """[cells, N]: the matrix that takes tokens to their means."""
        return self.matrix(self.real / self.real.sum(1, keepdim=True))

    def matrix(self, weights: Tensor) -> Tensor:
        """[cells, N]: weights [cells, a b] of members as weights of all tokens."""
        tokens = int(self.members.max()) + 1
        return weights.new_zeros(len(weights), tokens).scatter_add(1, self.members, weights * self.real)

    def of_token(self) -> Tensor:
        """[N]: the cell of each token."""
        cell = torch.arange(len(self.members), device=self.members.device)[:, None].expand_as(self.members)
        return torch.empty(int(self.members.max()) + 1, dtype=torch.long, device=cell.device).index_put(
            (self.members[self.real],), cell[self.real]
        )
