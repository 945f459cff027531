"""VisionDrop (arXiv 2506.22283): visual tokens judged by visual tokens, in four stages from the tower to the late decoder.

    stage 0     before the decoder: VisionZip within each image
    stages 1-3  at the entry of layers T/4, T/2, 3T/4:  s_j = mean_h mean_{i visual} A[h, i, j]  of the layer before, causal;
                dominant tokens by s, contextual ones merged as in VisionZip, by keys averaged over heads

The authors leave 48, 35, 26 and 19 tokens for an average of 32 over 32 layers, of which 6, 5, 4 and 3 are contextual. Here every
stage leaves the share p_i = min(1, c b_i) of the visual tokens with b = 48, 35, 26, 19 and c solved so that the average over the
layers is `keep`. Of a stage's tokens 6/48, 5/35, 4/26 and 3/19 are contextual. Stages 1-3 count over all images of a sample
together.

The authors' code recomputes queries and keys of the layer it enters, on states that layer has not attended with yet; here the
attention is that of the layer before, as it was computed. It moves contextual tokens behind the dominant ones and renumbers; here
they stay where their targets stood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from visionthink.compress.picking import average, count, per_image, solved, steps
from visionthink.compress.selection import (
    LayerContext,
    Needs,
    Rows,
    Selection,
    TrainingFree,
    VisionContext,
    check_choice,
    required,
)
from visionthink.compress.visionzip import Merge, zipped
from visionthink.errors import OptionError

LEFT = (48, 35, 26, 19)
CONTEXTUAL = (6, 5, 4, 3)


@dataclass(frozen=True, kw_only=True)
class VisionDrop(TrainingFree):
    """`keep` is the average over the decoder layers."""

    family: ClassVar[str] = "visiondrop"
    needs: ClassVar[Needs] = Needs(attention=True)
    keep: float = 0.5
    merge: Merge = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.family, "merge", self.merge, Merge)

    def shares(self, layers: int) -> list[float]:
        """Return the share of the visual tokens that each of the four stages keeps."""

        def scaled(c: float) -> list[float]:
            return [min(1.0, c * left / LEFT[0]) for left in LEFT]

        return scaled(solved(lambda c: average(_by_layer(layers, scaled(c))), self.keep, LEFT[0] / LEFT[-1]))

    def at(self, layers: int) -> Mapping[int, Rows]:
        return dict.fromkeys(stages(layers), "visual")

    def vision(self, context: VisionContext) -> Selection | None:
        received = required(context.received, self.family, "the attention of the vision tower")
        keys = required(context.keys, self.family, "the keys of the vision tower")

        def choose(image: slice) -> Selection:
            k = count(self.shares(context.layers)[0], image.stop - image.start)
            return zipped(context.features[image], received[image], keys[image], k, CONTEXTUAL[0] / LEFT[0], self.merge)

        return per_image(context, choose)

    def select(self, context: LayerContext) -> Selection | None:
        tokens = int(context.visual.sum())
        if not tokens:
            return None
        stage = stages(context.layers)[context.layer]
        k = min(tokens, count(self.shares(context.layers)[stage], context.total))
        received = context.attention[..., context.visual].float().mean((0, 1))
        keys = required(context.keys, self.family, "the keys of the layer before")[context.visual]
        share = CONTEXTUAL[stage] / LEFT[stage]
        return zipped(context.hidden[context.visual], received, keys, k, share, self.merge)

    def kept(self, layers: int) -> list[float]:
        return _by_layer(layers, self.shares(layers))


def _by_layer(layers: int, shares: Sequence[float]) -> list[float]:
    entries = stages(layers)
    return steps(layers, tuple(entries), [shares[stage] for stage in (0, *entries.values())])


def stages(layers: int) -> dict[int, int]:
    """Stages 1 to 3 by the layer at whose entry they stand; where two fall together in a shallow decoder, the later one."""
    if layers < 2:
        raise OptionError(f"visiondrop: a decoder of {layers} layer has no layer to read before the one it acts at")
    return {max(1, round(layers * stage / 4)): stage for stage in (1, 2, 3)}
