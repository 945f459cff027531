"""VisionZip (arXiv 2412.04467): the tokens that the vision tower itself looks at, and a few that sum up the rest.

Within each image of N tokens, k = round(keep N) are left: D dominant and C = round(contextual k) contextual ones.

    dominant     the D tokens with the highest attention received in the tower's last block
    targets      of the r others, in order, every max(1, r // C)-th, the first C of them
    assignment   every other token belongs to the target whose key is most similar (cosine of head-averaged keys)
    sum          target + mean(assigned)       what the authors' code computes: twice the scale of a token
    mean         mean of the target and its assigned tokens

A contextual token stands where its target stood. The paper reads attention and keys of the last block but one and scores by the
class token (54 dominant and 10 contextual of 64); towers without a class token use the attention received from all patches. The
choice of block for Qwen is that of public ports, reported second-hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from visionthink.compress.picking import count, everything, per_image, replaced, top
from visionthink.compress.selection import Needs, Selection, TrainingFree, VisionContext, check_choice, check_share, required

Merge = Literal["sum", "mean"]


@dataclass(frozen=True, kw_only=True)
class VisionZip(TrainingFree):
    """`contextual` is the share of the tokens left that are merged ones."""

    family: ClassVar[str] = "visionzip"
    needs: ClassVar[Needs] = Needs(attention=True)
    keep: float = 0.5
    contextual: float = 10 / 64
    merge: Merge = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.family, "contextual", self.contextual, least=0)
        check_choice(self.family, "merge", self.merge, Merge)

    def vision(self, context: VisionContext) -> Selection | None:
        received = required(context.received, self.family, "the attention of the vision tower")
        keys = required(context.keys, self.family, "the keys of the vision tower")

        def choose(image: slice) -> Selection:
            k = count(self.keep, image.stop - image.start)
            return zipped(context.features[image], received[image], keys[image], k, self.contextual, self.merge)

        return per_image(context, choose)


def zipped(tokens: Tensor, received: Tensor, keys: Tensor, k: int, contextual: float, merge: Merge) -> Selection:
    """k of `tokens` [N, D], the share `contextual` of them merged; at least one stays as it is."""
    if k >= len(tokens):
        return everything(len(tokens), tokens.device)
    merged = min(round(contextual * k), k - 1)
    dominant = top(received, k - merged)
    if not merged:
        return Selection(dominant)
    chosen = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    chosen[dominant] = True
    others = (~chosen).nonzero().flatten()
    targets = others[:: max(1, len(others) // merged)][:merged].contiguous()
    chosen[targets] = True
    assigned = (~chosen).nonzero().flatten()

    unit = normalize(keys.float(), dim=-1)
    owner = (unit[assigned] @ unit[targets].T).argmax(-1)
    sums = torch.zeros(merged, tokens.shape[1], device=tokens.device).index_add_(0, owner, tokens[assigned].float())
    sizes = torch.bincount(owner, minlength=merged).unsqueeze(-1)
    centre = tokens[targets].float()
    values = centre + sums / sizes.clamp(min=1) if merge == "sum" else (centre + sums) / (1 + sizes)
    return replaced(tokens, chosen.nonzero().flatten(), targets, values)
