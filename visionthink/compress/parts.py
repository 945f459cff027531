"""What trained methods are built of. All of it computes in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WIDTH = 1024
"""The width that methods compute at, where tokens are not narrower."""


def width_of(hidden: int) -> int:
    """The width to compute at for tokens of this width."""
    return min(WIDTH, hidden)


class Standard(nn.Module):
    """Takes each dimension to mean 0 and variance 1, as measured; until then it changes nothing."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def measure(self, x: Tensor) -> None:
        """By rows [N, D]; a dimension that does not vary is not blown up."""
        x = x.float()
        self.mean.copy_(x.mean(0))
        self.deviation.copy_(x.std(0, correction=0).clamp(min=1e-3 * float(x.pow(2).mean().sqrt()) or 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.deviation


class Attention(nn.Module):
    """Multi-head attention in plain products, so that what it takes is counted on every device (fused kernels of the CPU are not
    known to PyTorch's counter).

    Args:
        width: of keys, values and the heads together.
        hidden: of queries and of what comes out, where it is another.
    """

    def __init__(self, width: int, hidden: int = 0):
        super().__init__()
        self.heads = math.gcd(8, width)
        hidden = hidden or width
        self.query, self.key, self.value = nn.Linear(hidden, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, hidden)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """[..., Q, D] of queries [..., Q, D], and of keys and values [..., K, width], of which each query sees those that `seen`
        [..., Q, K] says, at least one."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for layer, x in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen[..., None, :, :], -torch.inf)
        mixed: Tensor = self.out((scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2))
        return mixed


class Block(nn.Module):
    """A layer of a transformer: y = x + A(LN(x)), y + MLP(LN(y))."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = Attention(width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x [N, D], of which each row sees those that `seen` [N, N] says."""
        normed = self.before(x)
        x = x + self.attention(normed, normed, normed, seen)
        result: Tensor = x + self.mlp(self.between(x))
        return result


def zeroed(layer: nn.Linear) -> nn.Linear:
    """A layer that says nothing until it is trained."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
