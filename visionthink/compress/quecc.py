"""QueCC (arXiv 2411.03312): one visual token for each cell, by attention whose query depends on the question.

    q  = sum_j W_j MLP'(n_j, t)        one query for each cell, W_j per channel, over the tokens j of the cell
    y  = mean_j x_j + s O(A(q, K, V))  K = MLP(l_j), V = MLP(l_j), attention within the cell alone

Shapes: tokens x [N, D]; n [N, D] is x standardised per dimension plus sinusoidal positions of rows and columns; t [D] represents
the question and is standardised too: MLP'(n, t) = LN(L_2 GELU(L_1 n + LN(W t))). Queries, keys and values have the width
w = min(1024, D) and 8 heads. l is n, or with `levels` the normalised outputs of three blocks of the vision tower. O is a linear
layer, GELU, and a linear layer that is initialised to zero, so that an untrained module averages, bit for bit; s is the root mean
square of the features.

From the authors' code: x + LN(W t) before the MLP of the queries (here behind its first layer, so that t has the width of the
queries), a depthwise convolution with kernel and stride of the size of a cell, keys and values from several levels of the tower,
attention within the cell, and the question as the last hidden state of a decoder that reads the text alone. Ours: the mean and
the initialisation to zero (the authors have no residual connection), larger initial weights of queries and keys, the sinusoidal
positions (their tower adds positions to its features, Qwen's only rotates queries and keys), standardisation, padding of smaller
cells at the edges with the mean of their queries, and the mean of the question's embeddings as a cheap t. The authors tune the
whole decoder; here it is frozen. The formulas were read in locuslab/llava-token-compression, which has no licence; no code was
taken from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from visionthink.compress.cells import WHOLE, Cells, places, shape_of
from visionthink.compress.learned import Base, Learned
from visionthink.compress.parts import Attention, Standard, width_of, zeroed
from visionthink.compress.selection import Needs, Question, Selection, VisionContext, check_choice, required

SHARP = 4
"""Factor on the initial weights of queries and keys. With PyTorch's own, attention is nearly the mean of the tokens for every
question, and some trainings stay there."""


def _mlp(entering: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(entering, width), nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width))


class QueCC(Learned):
    """The module's docstring has the formulas.

    Args:
        question: how the question is represented: by the mean of its embeddings (`embedded`), by the last hidden state of the
            decoder that reads the text without the image (`read`; the operations of that pass are counted), or not at all
            (`unread`, the control).
        levels: whether keys and values come from blocks of the vision tower.
    """

    family: ClassVar[str] = "quecc"
    control: ClassVar = {"question": "unread"}

    def __init__(self, base: Base, keep: float = 1 / 16, question: Question = "embedded", levels: bool = False):
        super().__init__(base, keep)
        self.shape = shape_of(self.family, keep)
        check_choice(self.family, "question", question, Question)
        self.needs = Needs(question=question, levels=base.levels if levels else ())
        width, size = width_of(base.hidden), self.shape[0] * self.shape[1]
        known = base.hidden if not levels else len(base.levels) * base.patches * base.tower
        self.standard = Standard(base.hidden)
        self.norm = nn.LayerNorm(known) if levels else None
        self.query, self.key, self.value = _mlp(base.hidden, width), _mlp(known, width), _mlp(known, width)
        self.asked = Standard(base.hidden) if question != "unread" else None
        self.text = nn.Sequential(nn.Linear(base.hidden, width), nn.LayerNorm(width)) if question != "unread" else None
        self.weights = nn.Parameter(torch.full((size, width), 1 / size))
        self.attention = Attention(width)
        for layer in (self.attention.query, self.attention.key):
            layer.weight.data *= SHARP
        self.out = nn.Sequential(nn.Linear(width, width), nn.GELU(), zeroed(nn.Linear(width, base.hidden)))

    def measure(self, contexts: Sequence[VisionContext]) -> None:
        super().measure(contexts)
        self.standard.measure(torch.cat([context.features for context in contexts]))
        if self.asked is not None:
            self.asked.measure(torch.stack([self._question(context) for context in contexts]))

    def vision(self, context: VisionContext) -> Selection | None:
        grids = required(context.grids, self.family, WHOLE)
        cells = Cells.of(grids, self.shape, context.features.device)
        tokens = context.features.float()
        standard = self.standard(tokens) + places(grids, tokens.shape[1], tokens.device)
        known = standard if self.norm is None else self.norm(self._levels(context))
        real = cells.real[..., None]
        queries = self._queries(standard, context)
        members = torch.where(real, queries[cells.members], cells.mean(queries)[:, None])
        query = (members * self.weights).sum(1, keepdim=True)
        keys, values = (made(known)[cells.members] for made in (self.key, self.value))
        attended = self.attention(query, keys, values, cells.real[:, None])[:, 0]
        return Selection(cells.keep, cells.mean(tokens) + self.scale * self.out(attended), mix=cells.average)

    def _queries(self, standard: Tensor, context: VisionContext) -> Tensor:
        """Queries [N, w] of standardised tokens [N, D]."""
        first, *rest = self.query
        queries = first(standard)
        if self.text is not None and self.asked is not None:
            queries = queries + self.text(self.asked(self._question(context)))
        for layer in rest:
            queries = layer(queries)
        return queries

    def _question(self, context: VisionContext) -> Tensor:
        """The vector t [D] before standardisation; no gradient flows into the model."""
        text = required(context.question, self.family, "the question").detach().float()
        return text[-1] if self.needs.question == "read" else text.mean(0)

    def _levels(self, context: VisionContext) -> Tensor:
        """[N, width of all levels together]."""
        return torch.cat([context.levels[block].float().flatten(1) for block in self.needs.levels], -1)
