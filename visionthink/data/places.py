"""Questions of which it is known where to look, and at which resolution ("in miniature").

Knows nothing about models. An answer is a function of what the *evidence* shows: boxes, each at a level of pixel density (1/16,
1/4 or 1). For each box there is a **counterfactual twin**: the same drawing with something else inside the box, and therefore
another answer. The generator renders both and discards a draw where they are alike at the level of the evidence; hard draws, and
stripes, also where they differ at a level below. So both the place and the need are facts about the pixels.

`place_families` draws them, and says what each family asks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from visionthink.data.drawing import MAX_LOW_RMS, MIN_FULL_RMS, SPLITS, rms
from visionthink.data.place_families import FAMILIES, compose
from visionthink.data.place_scenes import SIDES, Scene, Twin
from visionthink.data.synth import Cell, Drawn, in_turn
from visionthink.errors import DataError
from visionthink.types import Example

LEVELS = (1 / 16, 1 / 4, 1.0)
_TRIES = 5
"""Two digits that look alike are drawn once in some thousand times."""


def certificate(scene: Scene, twin: Twin) -> tuple[float, float]:
    """How much a scene and its twin differ inside the twin's box, as root-mean-square differences in 8-bit levels: at the levels
    below that of the evidence (the largest), and at its level."""
    pair = scene.image(), scene.image(twin)
    scales = [(level, round(1 / math.sqrt(level))) for level in LEVELS]
    below = [rms(*pair, twin.box, scale) for level, scale in scales if level < twin.level]
    return max(below, default=0.0), rms(*pair, twin.box, dict(scales)[twin.level])


def draw_scene(family: str, rng: np.random.Generator, *, hard: bool, split: str = "train", side: int = 112) -> Scene:
    """One scene of a family that is what it says: what breaks a limit of the certificate is drawn again.

    Raises:
        DataError: unknown family or side; or no scene keeps the limits.
    """
    for _ in range(_TRIES):
        scene = compose(family, rng, hard=hard, split=split, side=side)
        if not (broken := _broken(scene)):
            return scene
    raise DataError(f"{family}: not certified, {broken}")


def _broken(scene: Scene) -> str:
    """How a scene and one of its twins break a limit; empty where none does."""
    for twin in scene.twins:
        below, at = certificate(scene, twin)
        if at <= MIN_FULL_RMS or (scene.certified and below >= MAX_LOW_RMS):
            return f"rms {below:.2f} below level {twin.level:g} and {at:.1f} there"
    return ""


def draw(family: str, index: int, *, hard: bool, split: str = "test", seed: int = 0, side: int = 112) -> Drawn:
    """Item `index` of a family in a split; the same arguments give the same bytes.

    Splits are disjoint by seed, and no handwritten digit is in two of them.

    Raises:
        DataError: unknown family, split or side.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    scene = _scene(family, index, hard, split, seed, side)
    return Drawn(
        id=f"places-{side}-{split}-{seed}-{family}-{index}",
        question=scene.question,
        image=scene.image(),
        answer=scene.answer,
        aliases=scene.aliases,
        need="hard" if scene.hard else "easy",
        family=family,
        evidence=scene.evidence,
        metadata={
            "drawn": {"family": family, "index": index, "hard": hard, "split": split, "seed": seed, "side": side},
            "certified": scene.certified,
            "where": scene.where,
            "sequential": scene.sequential,
        },
    )


def _scene(family: str, index: int, hard: bool, split: str, seed: int, side: int) -> Scene:
    if family not in FAMILIES:
        raise DataError(f"unknown family {family!r}; choose from {', '.join(FAMILIES)}")
    spawn = (SPLITS.index(split), seed, list(FAMILIES).index(family), side, index)
    return draw_scene(family, np.random.default_rng(spawn), hard=hard, split=split, side=side)


def twins(example: Example) -> tuple[Example, ...]:
    """The counterfactual twins of an item: what its image would be with other evidence, and the answer that would be right then.

    Raises:
        DataError: the example was not drawn here.
    """
    drawn = example.metadata.get("drawn")
    if not drawn:
        raise DataError(f"example {example.id}: has no counterfactual twin")
    scene = _scene(**drawn)
    return tuple(
        replace(example, id=f"{example.id}-twin-{i}", image=scene.image(twin), answer=twin.answer, aliases=())
        for i, twin in enumerate(scene.twins)
    )


def _cells(easy: Mapping[str, int], hard: Mapping[str, int]) -> tuple[Cell, ...]:
    """So many easy and hard questions of each family, mixed evenly."""
    drawn = [
        ((i + 0.5) / count, family, is_hard)
        for counts, is_hard in ((easy, False), (hard, True))
        for family, count in counts.items()
        for i in range(count)
    ]
    return tuple((family, is_hard) for _, family, is_hard in sorted(drawn))


MIX: tuple[Cell, ...] = _cells(
    easy={"framed": 20, "named": 18, "pair": 8, "hidden": 7, "all": 5, "period": 5},
    hard={"framed": 18, "named": 15, "pair": 2, "hidden": 1, "all": 1},
)
"""63 of 100 questions can be answered from the quarter view, 33 need one crop, 2 need two crops and 2 the whole image. So a model
that can only ask for the whole image must read 62 % of the full view's visual tokens, both views counted, and one that can choose
crops 36 %. Without `pointer`, which needs three turns."""


def suite(n: int, *, split: str = "test", seed: int = 0, cells: Sequence[Cell] = MIX, side: int = 112) -> list[Example]:
    """`n` items, the cells in turn."""
    return [draw(family, index, split=split, seed=seed, hard=bool(hard), side=side) for family, hard, index in in_turn(n, cells)]


@functools.cache
def named_suites() -> Mapping[str, tuple[tuple[Cell, ...], int]]:
    """Cells and side by name: `places` is the mix, a family's name is as many easy as hard questions of it; `-224` behind either
    means images of 224 px."""
    cells = {"places": MIX} | {family: ((family, False), (family, True)) for family in FAMILIES}
    return {f"{name}{'' if side == 112 else f'-{side}'}": (found, side) for name, found in cells.items() for side in SIDES}
