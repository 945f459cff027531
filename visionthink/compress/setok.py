"""SeTok (arXiv 2406.05127): as many visual tokens as an image has clusters.

    d_ij     distance of standardised tokens n_i, n_j over sqrt(D), sinusoids of rows and columns added
    centres  where rho delta exceeds a threshold, see `compress.clusters`; k = 5; never none, and never every token
    A        [N, N] means of clusters, in the rows of their centres; every token belongs to the nearest centre
    z        = Among(A Within(P n)), Within: attention among the tokens of a cluster; Among: among the clusters of an image
    y        = A x + s O z

Within and Among are two layers of a transformer each, of width w = min(1024, D); P and O are linear; O is zero at the start, so
that an unfitted module gives the means of the clusters, bit for bit; s is the root mean square of the features. A cluster's token
stands where its centre stood. Clusters are within one image. All N rows are computed, also those of tokens that are no centres
and are then left out: what it takes depends on the sizes of the images alone, as the bill supposes. The control draws as many
centres by chance.

Theirs: density peaks with a threshold (k = 64 and 0.5 there, for 729 tokens of another tower), two layers within, the
mean, two layers among. Ours: k = 5; the threshold, which is solved so that as many tokens are left on average of the
images that are learnt from as `keep` says; ties to the lower index (random noise there); one pass with a mask instead of a loop;
A x and the zero at the start; no reconstruction and no contrast with concepts, for which there are no labels. The
formulas were read in the authors' code (ChocoWu/SeTok, Apache-2.0, which does not run as released); none of it is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from visionthink.compress.cells import WHOLE, places
from visionthink.compress.clusters import distances, owners, peaks, threshold_for, top_above
from visionthink.compress.learned import Base, Learned
from visionthink.compress.parts import Block, Standard, width_of, zeroed
from visionthink.compress.selection import Selection, VisionContext, check_choice, required

NEAREST = 5
"""Tokens whose distances make a density, the token itself among them."""

Centres = Literal["peaks", "random"]


class SeTok(Learned):
    """See above.

    Args:
        centres: `random` is the control: as many as there are peaks, drawn anew for every set of peaks, so that an image has
            the same ones each time.
    """

    family: ClassVar[str] = "setok"
    control: ClassVar = {"centres": "random"}
    threshold: Tensor
    share: Tensor

    def __init__(self, base: Base, keep: float = 0.5, centres: Centres = "peaks"):
        super().__init__(base, keep)
        check_choice(self.family, "centres", centres, Centres)
        self.centres = centres
        width = width_of(base.hidden)
        self.register_buffer("threshold", torch.tensor(0.5))
        self.register_buffer("share", torch.tensor(keep))
        """What is left, on average, of the tokens that were measured."""
        self.standard = Standard(base.hidden)
        self.enter = nn.Linear(base.hidden, width)
        self.within = nn.ModuleList(Block(width) for _ in range(2))
        self.among = nn.ModuleList(Block(width) for _ in range(2))
        self.out = zeroed(nn.Linear(width, base.hidden))

    def kept(self, layers: int) -> list[float]:
        return [float(self.share)] * layers

    def measure(self, contexts: Sequence[VisionContext]) -> None:
        super().measure(contexts)
        self.standard.measure(torch.cat([context.features for context in contexts]))
        scores = [peaks(distances(x), NEAREST) for context in contexts for x in self._images(context)]
        self.threshold.fill_(threshold_for(scores, self.keep))
        left = sum(len(top_above(score, float(self.threshold))) for score in scores)
        self.share.fill_(left / sum(map(len, scores)))

    def vision(self, context: VisionContext) -> Selection | None:
        keep, values, mix, before = list[Tensor](), list[Tensor](), list[Tensor](), 0
        for standard in self._images(context):
            tokens = context.features[before : before + len(standard)].float()
            distance = distances(standard)
            centres = self._centres(distance)
            average = means(centres[owners(distance, centres)])
            made = average @ tokens + self.scale * self.out(self._made(standard, average))
            keep.append(before + centres)
            values.append(made[centres])
            mix.append(average[centres])
            before += len(standard)
        return Selection(torch.cat(keep), torch.cat(values), mix=torch.block_diag(*mix))

    def _images(self, context: VisionContext) -> list[Tensor]:
        """[tokens, D] standardised tokens of each image."""
        grids = required(context.grids, self.family, WHOLE)
        tokens = self.standard(context.features) + places(grids, context.features.shape[1], context.features.device)
        return list(tokens.split(context.images))

    def _centres(self, distance: Tensor) -> Tensor:
        """Ascending."""
        found = top_above(peaks(distance, NEAREST), float(self.threshold))
        if self.centres == "peaks":
            return found
        drawn = np.random.default_rng([len(distance), *found.tolist()]).permutation(len(distance))[: len(found)]
        return torch.from_numpy(np.sort(drawn)).to(found.device)

    def _made(self, standard: Tensor, average: Tensor) -> Tensor:
        """[N, w] of the standardised tokens [N, D] of an image; rows of tokens that are no centre are nothing."""
        made, member = self.enter(standard), average > 0
        together = member[member.int().argmax(0)]
        for block in self.within:
            made = block(made, together)
        made, clusters = average @ made, member.any(1) | torch.eye(len(made), dtype=torch.bool, device=made.device)
        for block in self.among:
            made = block(made, clusters)
        result: Tensor = made
        return result


def means(centre: Tensor) -> Tensor:
    """[N, N] of the centre that each token belongs to: the row of a centre is the mean of its cluster, others are 0. Example:
    centres 0, 0, 2 give [.5, .5, 0], [0, 0, 0] and [0, 0, 1]."""
    member = (centre == torch.arange(len(centre), device=centre.device)[:, None]).float()
    return member / member.sum(1, keepdim=True).clamp(min=1)
