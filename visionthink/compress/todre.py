"""ToDRE (arXiv 2505.18757): keep tokens that differ from each other; late in the decoder, perhaps none at all.

Stage 1, within each image, on the tokens in decoder space (k = round(keep N)): the pivot is the token with the highest attention
received in the tower's last block, and then, k - 1 times, the token is added that is farthest from those chosen so far, C:

    max_sum   argmin_v  sum_{c in C} cos(x_v, x_c)     the paper's second version
    k_center  argmin_v  max_{c in C} cos(x_v, x_c)     its first version: the greatest distance 1 - cos to the nearest chosen one

Stage 2, at the entry of layer floor(7 T / 8): all visual tokens leave if text takes little from images and images from text,

    alpha_tv < tau  and  alpha_vt < tau,    alpha_tv = mean over heads and text rows of the attention that visual tokens receive

in the layer before; the text is all that stands behind the last image. Attention is causal and images stand before that text, so
that alpha_vt is 0 and alpha_tv decides. (Text before an image is the prompt's attention sink and says nothing about the task.)

No code of the authors is public; the formulas come from two independent notes on the paper. That stage 2 reads exactly this text,
this mean and the layer before is our reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from visionthink.compress.picking import count, everything, per_image, top
from visionthink.compress.selection import (
    LayerContext,
    Needs,
    Rows,
    Selection,
    TrainingFree,
    VisionContext,
    check_choice,
    check_share,
    required,
)
from visionthink.errors import OptionError

Objective = Literal["max_sum", "k_center"]


@dataclass(frozen=True, kw_only=True)
class ToDRE(TrainingFree):
    """ToDRE's two stages. With `keep=1` and `stage2`, stage 2 stands alone."""

    family: ClassVar[str] = "todre"
    needs: ClassVar[Needs] = Needs(attention=True)
    keep: float = 0.25
    objective: Objective = "max_sum"
    stage2: bool = False
    tau: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.family, "tau", self.tau)
        check_choice(self.family, "objective", self.objective, Objective)

    def at(self, layers: int) -> Mapping[int, Rows]:
        if not self.stage2:
            return {}
        if layers < 2:
            raise OptionError(f"todre: stage 2 needs a layer to read before the one it acts at; this model has {layers}")
        return {7 * layers // 8: "text"}

    def vision(self, context: VisionContext) -> Selection | None:
        received = required(context.received, self.family, "the attention of the vision tower")

        def choose(image: slice) -> Selection:
            tokens = image.stop - image.start
            k = count(self.keep, tokens)
            if k == tokens:
                return everything(tokens, context.features.device)
            return Selection(diverse(context.features[image], top(received[image], 1), k, self.objective))

        return per_image(context, choose)

    def select(self, context: LayerContext) -> Selection | None:
        tokens = int(context.visual.sum())
        if not tokens:
            return None
        taken = context.attention[..., context.visual].float().sum(-1).mean()
        return everything(0 if taken < self.tau else tokens, context.hidden.device)

    def kept(self, layers: int) -> list[float]:
        """Count the tokens without stage 2, because whether it runs depends on the sample."""
        return super().kept(layers)


def diverse(features: Tensor, pivot: Tensor, k: int, objective: str) -> Tensor:
    """[k] ascending indices into `features` [N, D], grown greedily from `pivot` [1]; k N products instead of N^2."""
    unit = normalize(features.float(), dim=-1)
    chosen, near = [pivot], (unit @ unit[pivot].T)[:, 0]
    taken = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    taken[pivot] = True
    while len(chosen) < k:
        following = near.masked_fill(taken, torch.inf).argmin().reshape(1)
        chosen.append(following)
        taken[following] = True
        similar = (unit @ unit[following].T)[:, 0]
        near = near + similar if objective == "max_sum" else torch.maximum(near, similar)
    return torch.cat(chosen).sort().values
