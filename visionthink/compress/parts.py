"""Building blocks of the trained methods. All of them compute in float32."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from visionthink.errors import ModelError, one_line

WIDTH = 1024
"""The largest inner width of a method."""


def width_of(hidden: int) -> int:
    """The inner width of a method for visual tokens of this width."""
    return min(WIDTH, hidden)


class Standard(nn.Module):
    """Standardises each dimension to mean 0 and variance 1; before `measure` it is the identity."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def measure(self, x: Tensor) -> None:
        """Set mean and deviation from rows [N, D]. Deviations have a lower bound, so that constant dimensions stay finite."""
        x = x.float()
        self.mean.copy_(x.mean(0))
        self.deviation.copy_(x.std(0, correction=0).clamp(min=1e-3 * float(x.pow(2).mean().sqrt()) or 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) / self.deviation


class Attention(nn.Module):
    """Multi-head attention in plain matrix products, whose operations PyTorch's counter knows on every device (it does not know
    the fused kernels of the CPU).

    Args:
        width: of keys, values and all heads together.
        hidden: width of queries and outputs, if it is another.
    """

    def __init__(self, width: int, hidden: int = 0):
        super().__init__()
        self.heads = math.gcd(8, width)
        hidden = hidden or width
        self.query, self.key, self.value = nn.Linear(hidden, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, hidden)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """Outputs [..., Q, D] for queries [..., Q, D] and for keys and values [..., K, width]. `seen` [..., Q, K] is the mask of
        the keys that a query attends to, at least one."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for layer, x in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen[..., None, :, :], -torch.inf)
        mixed: Tensor = self.out((scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2))
        return mixed


class Block(nn.Module):
    """A pre-norm Transformer layer: y = x + A(LN(x)), y + MLP(LN(y))."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = Attention(width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Outputs [N, D] for x [N, D]; `seen` [N, N] is the mask of the rows that a row attends to."""
        normed = self.before(x)
        x = x + self.attention(normed, normed, normed, seen)
        result: Tensor = x + self.mlp(self.between(x))
        return result


def weights_in(file: Path) -> dict[str, Tensor]:
    """The weights in a file.

    Raises:
        ModelError: it is missing or damaged, or a weight is no number.
    """
    try:
        weights: dict[str, Tensor] = load_file(file)
    except Exception as error:  # safetensors raises its own
        raise ModelError(f"{file}: missing or damaged ({one_line(error)})") from None
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ModelError(f"{file}: damaged ({name} is not finite)")
    return weights


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer, initialised to zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
