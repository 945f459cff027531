"""Cells: rectangles of neighbouring visual tokens, of which a method makes one token.

The tokens of an image stand row by row on a grid of (frames, h, w). Cells of (a, b) are its ceil(h / a) ceil(w / b) rectangles,
frame by frame, never across images; at the right and lower edges they are smaller where the grid does not divide. The token of a
cell takes the position of the cell's first token: distances along rows and columns stay in proportion, and the positions of the
text do not change. Example: on a grid of 3 x 5, cells of (2, 2) begin at tokens 0, 2, 4, 10, 12 and 14; the last one consists of
token 14 alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visionthink.compress.selection import Grid
from visionthink.errors import OptionError

WHOLE = "images with all their tokens (a prompt that ends in an image withholds the last one)"
"""What methods with cells need, for messages."""

SHAPES: Mapping[float, tuple[int, int]] = {1 / 2: (1, 2), 1 / 4: (2, 2), 1 / 8: (2, 4), 1 / 16: (4, 4), 1: (1, 1)}
"""Rows and columns of a cell, by the share of the tokens that it leaves."""


def shape_of(family: str, keep: float) -> tuple[int, int]:
    """Rows and columns of the cells that reduce the tokens to a share.

    Raises:
        OptionError: there are no such cells.
    """
    if keep not in SHAPES:
        raise OptionError(f"{family} keep {keep:g}: mixes whole cells; choose {', '.join(f'{share:g}' for share in SHAPES)}")
    return SHAPES[keep]


def places(grids: Sequence[Grid], width: int, device: torch.device | str = "cpu") -> Tensor:
    """[N, width] sinusoidal positional encodings of the tokens of images with these grids: first the row, then the column."""
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
    """[cells, a b] indices of the tokens of each cell, row by row; smaller cells are padded with their first token."""
    real: Tensor
    """[cells, a b] bool: False for padding."""

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
        """[cells], ascending: the first token of each cell, whose position the token of the cell takes."""
        return self.members[:, 0]

    def mean(self, tokens: Tensor) -> Tensor:
        """[cells, D] means of `tokens` [N, D]."""
        weights = self.real[..., None].to(tokens.dtype)
        return (tokens[self.members] * weights).sum(1) / weights.sum(1)

    @property
    def average(self) -> Tensor:
        """[cells, N] matrix whose product with the tokens is the mean of each cell."""
        weights = self.real / self.real.sum(1, keepdim=True)
        return weights.new_zeros(len(weights), int(self.members.max()) + 1).scatter_add(1, self.members, weights)
