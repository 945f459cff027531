"""SparseVLM (arXiv 2410.04417): words that relate to the image judge its tokens, at three depths; `version="plus"` is SparseVLM+.

    raters    M = softmax_text(E_v E_t^T),  m = mean over visual of M,  raters = { t : m_t > mean(m) }
              E: what entered the decoder; t: text behind the last image (all of it, should no m_t stand out)
    score     s_v = mean over heads and raters of A[h, t, v]        attention of the layer before
    1         keep the highest s; of the d dropped, the best int(recycle d) + 1 are clustered and each cluster's mean is kept too
    plus      no clusters; A is divided by `gravity` first, and only the half of the heads with the most mass from raters to
              visual tokens counts (14 of 28 in the authors' code)

Schedule. The authors prune behind layers 2, 6 and 15 of 32 (0-based), that is at the entry of 3, 7 and 16, with fixed lists for
576 tokens whose true averages are above their names (206, 145 and 82 for "192", "128" and "64") because clusters come on top.
Here the entries scale with the depth (a decoder of fewer than four layers has room for fewer), every entry leaves the same
share q of what reaches it, and q is solved so that the average over all layers is `keep`, clusters included: with w_i layers
behind entry i, sum_i w_i q^i = keep T. Averages of w_0 / T and less cannot be had. At 192/576 this gives 0.55, 0.31, 0.17,
where the authors have 0.52, 0.35, 0.19. The paper's rank-adaptive count is neither in their code nor here.

Differences: a cluster's mean stands where its centre stood, so that positions mean something in three dimensions; the authors
append it and number anew. Raters at the second and third entry are found with the visual tokens that are left. Formulas read in
the authors' code (Apache-2.0) and restated; SparseVLM+ has no other source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from visionthink.compress.clusters import cluster_means, clusters_of, recyclable
from visionthink.compress.picking import average, count, everything, replaced, solved, steps, top
from visionthink.compress.selection import LayerContext, Rows, Selection, TrainingFree, check_choice, check_share, required
from visionthink.errors import OptionError

Version = Literal["1", "plus"]

ENTRIES, DEPTH = (3, 7, 16), 32


@dataclass(frozen=True, kw_only=True)
class SparseVLM(TrainingFree):
    """`keep` is the average over the decoder layers; tokens leave at the entry of `layers` (None: the paper's, scaled)."""

    family: ClassVar[str] = "sparsevlm"
    keep: float = 0.5
    version: Version = "1"
    layers: tuple[int, ...] | None = None
    recycle: float = 0.3
    gravity: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.family, "recycle", self.recycle, least=0)
        check_choice(self.family, "version", self.version, Version)
        if self.layers is not None and (not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 1):
            raise OptionError(f"sparsevlm layers {self.layers}: whole numbers from 1, ascending")

    @property
    def name(self) -> str:
        return f"sparsevlm{'+' if self.version == 'plus' else ''}:{self.keep:g}{self._ending}"

    def entries(self, layers: int) -> tuple[int, ...]:
        """Layers at whose entry tokens leave."""
        if self.layers is not None:
            if self.layers[-1] >= layers:
                raise OptionError(f"sparsevlm layers {self.layers}: this model's last layer is {layers - 1}")
            return self.layers
        if layers < 2:
            raise OptionError(f"sparsevlm: a decoder of {layers} layer has no layer to read before the one it acts at")
        found = list[int]()
        for entry in ENTRIES:
            found.append(max(found[-1] + 1 if found else 1, round(entry * layers / DEPTH)))
        return tuple(entry for entry in found if entry < layers)

    def at(self, layers: int) -> Mapping[int, Rows]:
        self.kept(layers)  # refuses a share that cannot be had
        return dict.fromkeys(self.entries(layers), "text")

    def kept(self, layers: int) -> list[float]:
        entries = self.entries(layers)

        def shares(q: float) -> list[float]:
            return steps(layers, entries, [q**i for i in range(len(entries) + 1)])

        if self.keep * layers <= entries[0]:
            least = f"must be above {entries[0] / layers:.3f}, since all tokens go through {entries[0]} of {layers} layers"
            raise OptionError(f"sparsevlm keep {self.keep:g}: {least}")
        return shares(solved(lambda q: average(shares(q)), self.keep, 1.0))

    def select(self, context: LayerContext) -> Selection | None:
        tokens = int(context.visual.sum())
        if not tokens:
            return None
        left = min(tokens, count(self.kept(context.layers)[context.layer], context.total))
        if left == tokens:
            return everything(tokens, context.hidden.device)
        scores = self.scores(context)
        best = self.best(tokens, left)
        keep = top(scores, best)
        if best == left:
            return Selection(keep)
        dropped = torch.ones(tokens, dtype=torch.bool, device=keep.device)
        dropped[keep] = False
        others = dropped.nonzero().flatten()
        members = others[top(scores[others], recyclable(tokens - best, self.recycle))]
        hidden = context.hidden[context.visual]
        centres, means = cluster_means(hidden[members], left - best)
        return replaced(hidden, torch.cat((keep, members[centres])).sort().values, members[centres], means)

    def best(self, tokens: int, left: int) -> int:
        """How many of `left` are kept by score: as many as leave room for the clusters of all others; all if there is no room."""
        if self.version == "plus" or not self.recycle:
            return left
        fitting = (n for n in range(left, 0, -1) if n + clusters_of(tokens - n, self.recycle) <= left)
        return next(fitting, left)

    def scores(self, context: LayerContext) -> Tensor:
        """[N] of the visual tokens."""
        text, visual = context.embeddings[context.rows].float(), context.embeddings[context.visual].float()
        related = (visual @ text.T).softmax(-1).mean(0)
        raters = related > related.mean()
        raters = raters if raters.any() else torch.ones_like(raters)
        attention = context.attention[:, raters][..., context.visual].float()
        if self.version == "plus":
            if self.gravity:
                cosine, sine = required(context.rotary, "sparsevlm+", "the rotary embedding")
                pull = gravity(cosine, sine, context.rows)[raters]
                attention = attention / pull[:, context.visual]
            attention = attention[top(attention.sum((1, 2)), max(1, len(attention) // 2))]
        return attention.mean((0, 1))


def gravity(cosine: Tensor, sine: Tensor, rows: Tensor) -> Tensor:
    """[R, L]: the score of a query of ones at each of `rows` with a key of ones at each position, under the rotary embedding
    `cosine`, `sine` [L, d], over sqrt(d): what SparseVLM+ takes for the pull of position alone. It may be negative far away."""
    sign = torch.ones(cosine.shape[-1], device=cosine.device)
    sign[: len(sign) // 2] = -1  # a vector of ones, its halves swapped and the first one negated
    ones = cosine.float() + sign * sine.float()
    return ones[rows] @ ones.T / len(sign) ** 0.5
