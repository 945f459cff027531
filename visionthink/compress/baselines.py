"""Baselines that look at nothing, and that every table must carry: tokens by chance, tokens evenly spread, means of neighbours.

Of each image's N tokens k = round(keep N) are left, before the decoder.

    Random   the first k of a permutation drawn from (seed, N): the same image size, the same tokens, on every machine
    Uniform  token floor((i + 1/2) N / k) for i < k
    Pool     the means of cells of neighbouring tokens, see `compress.cells`

That random selection is a strong baseline, and at times stronger than methods: arXiv 2510.07143, 2511.02650.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from visionthink.compress.cells import WHOLE, Cells, shape_of
from visionthink.compress.picking import count, per_image
from visionthink.compress.selection import Selection, TrainingFree, VisionContext, required
from visionthink.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Random(TrainingFree):
    family: ClassVar[str] = "drop-random"
    keep: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.seed, int) or self.seed < 0:
            raise OptionError(f"drop-random seed {self.seed}: a whole number of at least 0")

    def vision(self, context: VisionContext) -> Selection | None:
        def choose(image: slice) -> Selection:
            tokens = image.stop - image.start
            drawn = np.random.default_rng([self.seed, tokens]).permutation(tokens)[: count(self.keep, tokens)]
            return Selection(torch.from_numpy(np.sort(drawn)))

        return per_image(context, choose)


@dataclass(frozen=True, kw_only=True)
class Uniform(TrainingFree):
    family: ClassVar[str] = "drop-uniform"
    keep: float = 0.5

    def vision(self, context: VisionContext) -> Selection | None:
        def choose(image: slice) -> Selection:
            tokens = image.stop - image.start
            k = count(self.keep, tokens)
            return Selection(torch.tensor([(2 * i + 1) * tokens // (2 * k) for i in range(k)]))

        return per_image(context, choose)


@dataclass(frozen=True, kw_only=True)
class Pool(TrainingFree):
    family: ClassVar[str] = "pool"
    keep: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        shape_of(self.family, self.keep)

    def vision(self, context: VisionContext) -> Selection | None:
        cells = Cells.of(required(context.grids, self.family, WHOLE), shape_of(self.family, self.keep), context.features.device)
        return Selection(cells.keep, cells.mean(context.features.float()), mix=cells.average)
