"""A trained method that merges cells of neighbouring visual tokens by a convolution."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from visionthink.compress.cells import WHOLE, Cells, shape_of
from visionthink.compress.learned import Base, Learned
from visionthink.compress.parts import zeroed
from visionthink.compress.selection import Selection, VisionContext, check_choice, required

Weights = Literal["full", "channel", "mean"]


class Convolution(Learned):
    """FCoT-VL (arXiv 2502.18512): a small module between vision tower and decoder merges each cell of visual tokens into one. The
    paper trains it by distillation from the model without compression.

    For the tokens x_j of a cell, j = 1 ... ab:

        m = mean_j x_j + sum_j W_j x_j,  y = m + s MLP(LN(m))

    W_j and the last layer of the MLP are initialised to 0, and s is the root mean square of the features. In smaller cells at
    the edges, the mean takes the place of missing tokens. The sources, an abstract and second-hand notes, do not give the form of
    the paper's module: this convolution, s and the initialisation are ours.

    Args:
        weights: W_j as full matrices, as one number per channel, or none (`mean`, the control: it reads the mean alone).
    """

    family: ClassVar[str] = "fcot"
    control: ClassVar = {"weights": "mean"}

    def __init__(self, base: Base, keep: float = 0.25, weights: Weights = "full"):
        super().__init__(base, keep)
        self.shape = shape_of(self.family, keep)
        check_choice(self.family, "weights", weights, Weights)
        size, width = self.shape[0] * self.shape[1], base.hidden
        shapes = {"full": (size, width, width), "channel": (size, width), "mean": ()}
        self.weights = nn.Parameter(torch.zeros(shapes[weights])) if weights != "mean" else None
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), zeroed(nn.Linear(width, width)))

    def vision(self, context: VisionContext) -> Selection | None:
        cells = Cells.of(required(context.grids, self.family, WHOLE), self.shape, context.features.device)
        tokens = context.features.float()
        mean = cells.mean(tokens)
        values = mean
        if self.weights is not None:
            members = torch.where(cells.real[..., None], tokens[cells.members], mean[:, None])
            product = "cjd,jde->ce" if self.weights.ndim == 3 else "cjd,jd->cd"
            values = mean + torch.einsum(product, members, self.weights)
        values = values + self.scale * self.mlp(self.norm(values))
        return Selection(cells.keep, values, mix=cells.average)
