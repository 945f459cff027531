"""A small Transformer encoder over the visual tokens of a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from visionthink.compress.cells import places
from visionthink.compress.parts import Block
from visionthink.compress.selection import Grid


@dataclass(frozen=True, kw_only=True)
class Images:
    """A padded batch of images."""

    tokens: Tensor
    """[B, N, D] features; zero for padding."""
    real: Tensor
    """[B, N] bool: False for padding."""
    grids: tuple[Grid, ...]

    @classmethod
    def of(cls, images: Sequence[tuple[Tensor, Grid]]) -> Images:
        """A batch of images, each given as its features [N, D] and its grid."""
        features = [tokens for tokens, _ in images]
        real = pad_sequence([torch.ones(len(x), dtype=torch.bool, device=x.device) for x in features], batch_first=True)
        return cls(tokens=pad_sequence(features, batch_first=True), real=real, grids=tuple(grid for _, grid in images))


class Encoder(nn.Module):
    """Transformer layers from features [B, N, D] to outputs [B, N, out]; tokens attend within their image.

    Args:
        width: width of the hidden states.
    """

    def __init__(self, features: int, out: int, *, layers: int, width: int):
        super().__init__()
        self.width = width
        self.enter = nn.Linear(features, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, out)

    def forward(self, tokens: Tensor, images: Images) -> Tensor:
        """`tokens` [B, N, D] take the place of `images.tokens`."""
        where = pad_sequence([places([grid], self.width, tokens.device) for grid in images.grids], batch_first=True)
        hidden = self.enter(tokens) + where
        for layer in self.layers:
            hidden = layer(hidden, images.real[:, None])
        found: Tensor = self.leave(self.norm(hidden))
        return found
