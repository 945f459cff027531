"""A small Transformer over the visual tokens of images, of which several make a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

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


def sinusoids(grid: Grid, width: int) -> Tensor:
    """[N, width]: sines and cosines of the rows of a grid in the first half, of its columns in the second, at width / 4 speeds
    from 1 down to 1 / 10,000. Frames are all alike."""
    frames, height, columns = grid
    speeds = 1e4 ** -(torch.arange(width // 4) / (width // 4))

    def waves(size: int) -> Tensor:
        angles = torch.arange(size)[:, None] * speeds
        return torch.cat((angles.sin(), angles.cos()), -1)

    rows = waves(height)[:, None].expand(-1, columns, -1)
    return torch.cat((rows, waves(columns).expand(height, -1, -1)), -1).flatten(0, 1).repeat(frames, 1)


class Encoder(nn.Module):
    """Layers of self-attention from vectors [B, N, D] to vectors [B, N, out], within images.

    Args:
        width: of the hidden states, a multiple of 4.
    """

    def __init__(self, features: int, out: int, *, layers: int, width: int):
        super().__init__()
        self.width = width
        self.enter = nn.Linear(features, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, out)

    def forward(self, tokens: Tensor, images: Images) -> Tensor:
        """`tokens` are in the places of those of the images."""
        places = pad_sequence([sinusoids(grid, self.width) for grid in images.grids], batch_first=True)
        hidden = self.enter(tokens) + places.to(tokens.device)
        seen = None if images.real.all() else images.real[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, seen)
        found: Tensor = self.leave(self.norm(hidden))
        return found


class _Layer(nn.Module):
    """A layer of it, with heads of about 64. (In inference torch's own runs as one piece, whose operations its counter does not
    know.)"""

    def __init__(self, width: int):
        super().__init__()
        self.heads = next(heads for heads in range(max(1, width // 64), 0, -1) if width % heads == 0)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Tensor, seen: Tensor | None) -> Tensor:
        query, key, value = self.mixed(self.before(hidden)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = scaled_dot_product_attention(query, key, value, attn_mask=seen)
        hidden = hidden + self.joined(read.transpose(1, 2).flatten(2))
        behind: Tensor = hidden + self.mlp(self.between(hidden))
        return behind
