"""SeTok (arXiv 2406.05127): the visual tokens of an image are clustered, and each cluster becomes one token.

    n        [N, D] tokens, standardised per dimension, plus sinusoidal positions of rows and columns
    d_ij     = |n_i - n_j| / sqrt(D)
    centres  the tokens with rho delta above a threshold (density peaks, see `compress.clusters`), with k = 5 nearest neighbours;
             at least one token, and not every token
    A        [N, N] the row of a centre averages its cluster; every token belongs to the nearest centre
    z        = Among(A Within(P n)): Within is attention within a cluster, Among is attention among the clusters of an image
    y        = A x + s O z

Within and Among are two Transformer layers each, of width w = min(1024, D); P and O are linear; O is initialised to zero, so that
an untrained module gives the means of the clusters, bit for bit; s is the root mean square of the features. The token of a
cluster takes the position of its centre. A cluster lies within one image. The rows of tokens that are no centres are computed too
and then dropped, so that the number of operations depends on the sizes of the images alone, as the accounting of costs requires.
The control draws as many centres at random.

From the authors' code: density peaks above a threshold (there k = 64 and 0.5, for 729 tokens of another tower), two layers within
clusters, the mean, and two layers among clusters. Ours: k = 5; a threshold that is solved so that the mean share of tokens kept
on training images is `keep`; ties go to the lower index (the authors add random noise); one masked pass instead of a loop; A x
and the initialisation to zero. Not implemented: the reconstruction loss, and the contrastive loss on concepts, for which there
are no labels. The formulas were read in ChocoWu/SeTok (Apache-2.0), which does not run as released; no code was taken from it.
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
"""Nearest neighbours that determine the density of a token, the token itself included."""

Centres = Literal["peaks", "random"]


class SeTok(Learned):
    """The module's docstring has the formulas.

    Args:
        centres: `peaks`; or (`random`, the control) as many random tokens. The indices of the peaks are the seed, so that an
            image always gets the same ones.
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
        """Mean share of the tokens that was kept of the samples given to `measure`."""
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
        """Indices of the centres, ascending."""
        found = top_above(peaks(distance, NEAREST), float(self.threshold))
        if self.centres == "peaks":
            return found
        drawn = np.random.default_rng([len(distance), *found.tolist()]).permutation(len(distance))[: len(found)]
        return torch.from_numpy(np.sort(drawn)).to(found.device)

    def _made(self, standard: Tensor, average: Tensor) -> Tensor:
        """z [N, w] of the standardised tokens [N, D] of an image; only the rows of centres have a meaning."""
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
    """The matrix A [N, N], given the centre [N] that each token belongs to: the row of a centre averages its cluster, other rows
    are 0. Example: centres 0, 0, 2 give [.5, .5, 0], [0, 0, 0] and [0, 0, 1]."""
    member = (centre == torch.arange(len(centre), device=centre.device)[:, None]).float()
    return member / member.sum(1, keepdim=True).clamp(min=1)
