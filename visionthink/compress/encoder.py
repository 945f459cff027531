"""A small Transformer over the visual tokens of images, of which several make a batch."""

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
    tokens: Tensor
    """[B, N, D] features; zero where an image has fewer."""
    real: Tensor
    """[B, N] bool: False where it has."""
    grids: tuple[Grid, ...]

    @classmethod
    def of(cls, images: Sequence[tuple[Tensor, Grid]]) -> Images:
        """Images of features [N, D] each."""
        features = [tokens for tokens, _ in images]
        real = pad_sequence([torch.ones(len(x), dtype=torch.bool, device=x.device) for x in features], batch_first=True)
        return cls(tokens=pad_sequence(features, batch_first=True), real=real, grids=tuple(grid for _, grid in images))


class Encoder(nn.Module):
    """Layers of self-attention from vectors [B, N, D] to vectors [B, N, out], within images.

    Args:
        width: of the hidden states.
    """

    def __init__(self, features: int, out: int, *, layers: int, width: int):
        super().__init__()
        self.width = width
        self.enter = nn.Linear(features, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, out)

    def forward(self, tokens: Tensor, images: Images) -> Tensor:
        """`tokens` are in the places of those of the images."""
        where = pad_sequence([places([grid], self.width, tokens.device) for grid in images.grids], batch_first=True)
        hidden = self.enter(tokens) + where
        for layer in self.layers:
            hidden = layer(hidden, images.real[:, None])
        found: Tensor = self.leave(self.norm(hidden))
        return found
