"""FastV (arXiv 2403.06764): from one decoder layer on, only the visual tokens that the last position looks at.

    s_j = mean_h A[h, last, j]        attention of layer K - 1, j over the visual tokens of the sample
    keep the round(keep N) highest s_j at the entry of layer K

N counts the visual tokens of all images of a sample together, so a picture that the question does not need may lose all of its
tokens. The paper's K is 2; the default here is 3 (the last layer of decoders that have no more), as in the authors' cached
version and as Qwen3-VL requires, whose first three layers add features to every visual token. The authors' code was not used:
this follows the paper and notes on the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from visionthink.compress.picking import count, everything, steps, top
from visionthink.compress.selection import LayerContext, Rows, Selection, TrainingFree
from visionthink.errors import OptionError

LAYER = 3


@dataclass(frozen=True, kw_only=True)
class FastV(TrainingFree):
    """`layer` is the first decoder layer (0-based) that sees fewer tokens; None: 3."""

    family: ClassVar[str] = "fastv"
    layer: int | None = None
    keep: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None and (not isinstance(self.layer, int) or self.layer < 1):
            raise OptionError(f"fastv layer {self.layer}: a whole number of at least 1, since the layer before it is the judge")

    def entry(self, layers: int) -> int:
        """The layer at whose entry tokens leave."""
        if self.layer is None:
            return max(1, min(LAYER, layers - 1))
        if self.layer >= layers:
            raise OptionError(f"fastv layer {self.layer}: this model's last layer is {layers - 1}")
        return self.layer

    def at(self, layers: int) -> Mapping[int, Rows]:
        return {self.entry(layers): "last"}

    def select(self, context: LayerContext) -> Selection | None:
        tokens = int(context.visual.sum())
        if not tokens:
            return None
        k = count(self.keep, tokens)
        if k == tokens:
            return everything(tokens, context.hidden.device)
        return Selection(top(context.attention[:, -1, context.visual].float().mean(0), k))

    def kept(self, layers: int) -> list[float]:
        return steps(layers, (self.entry(layers),), (1.0, float(self.keep)))
