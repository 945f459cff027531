"""Drawings of which it is known where to look, at which resolution, and what would be seen instead.

Images have 112 or 224 px a side, in slots of 56 px: 4 or 16 of them. One of AwaRes' crops (arXiv 2603.16932), a quadrant, shows
one or four slots.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

import numpy as np
from PIL import Image

from visionthink.data.drawing import COLOURS, SHAPES, Mark, handwritten_digits, pick, render
from visionthink.types import Box, Evidence, whole

SIDES = (112, 224)
SLOT = 56
"""Side of a slot in px; a frame fills it, so that one visual token of the quarter view shows one frame."""
FRAME = 54

Where = Literal["cue", "question", "everywhere", "hidden"]
"""What tells the place: something that the quarter view shows, or the question; `everywhere`: all of the image is needed;
`hidden`: nothing tells it, so that all of the image must be seen although one place would do."""


@dataclass(frozen=True, kw_only=True)
class Twin:
    """The same drawing with something else inside one box, and another answer."""

    marks: tuple[Mark, ...]
    answer: str
    box: Box
    """All that differs."""
    level: float
    """The lowest level that shows the difference."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawing with a question."""

    marks: tuple[Mark, ...]
    question: str
    answer: str
    evidence: Evidence
    """The evidence in the order in which its boxes can be known, where that matters."""
    twins: tuple[Twin, ...]
    where: Where
    aliases: tuple[str, ...] = ()
    sequential: bool = False
    """Whether a box of the evidence tells where the next one is."""
    certified: bool = False
    """Whether no level below that of the evidence shows it."""
    paper: tuple[int, int, int] = (160, 160, 160)
    noise_seed: int = 0
    side: int = 112

    @property
    def hard(self) -> bool:
        """Whether the quarter view does not suffice."""
        return any(level > 0.25 for _, level in self.evidence)

    def image(self, twin: Twin | None = None) -> Image.Image:
        """The drawing, or a twin of it, with the same noise."""
        return render(twin.marks if twin else self.marks, self.paper, self.noise_seed, self.side)


@dataclass(frozen=True)
class Canvas:
    """Slots in reading order, and what is drawn into them."""

    columns: int
    _: KW_ONLY
    rng: np.random.Generator = field(repr=False)
    pool: np.ndarray = field(repr=False)

    @property
    def slots(self) -> list[int]:
        """All slots, in random order."""
        return [int(slot) for slot in self.rng.permutation(self.columns**2)]

    def box(self, slot: int) -> Box:
        row, column = divmod(slot, self.columns)
        return Box(SLOT * column, SLOT * row, SLOT * (column + 1), SLOT * (row + 1))

    @property
    def whole(self) -> Box:
        return whole(SLOT * self.columns, SLOT * self.columns)

    def centre(self, slot: int, jitter: int = 0) -> tuple[int, int]:
        dx, dy = self.rng.integers(-jitter, jitter + 1, 2) if jitter else (0, 0)
        left, top, _, _ = self.box(slot)
        return left + SLOT // 2 + int(dx), top + SLOT // 2 + int(dy)

    def frame(self, slot: int, colour: str) -> Mark:
        x, y = self.centre(slot)
        return Mark(kind="frame", value=colour, x=x, y=y, size=FRAME, colour=colour)

    def digit(self, slot: int, *, fine: bool, label: int | None = None, besides: int | None = None, jitter: int = 1) -> Mark:
        """A handwritten digit, of a label or of any but one."""
        labels = handwritten_digits()[1][self.pool]
        wanted = labels == label if label is not None else labels != besides
        scan = int(self.rng.choice(self.pool[wanted]))
        value, (x, y) = str(handwritten_digits()[1][scan]), self.centre(slot, jitter)
        return Mark(kind="scan", value=value, x=x, y=y, size=int(self.rng.integers(32, 42)), fine=fine, scan=scan)

    def other_digit(self, mark: Mark, label: int | None = None) -> Mark:
        """Another digit in the same place and size."""
        drawn = self.digit(0, fine=mark.fine, label=label, besides=int(mark.value))
        return replace(mark, value=drawn.value, scan=drawn.scan)

    def shape(self, slot: int, *, fine: bool) -> Mark:
        kind, (x, y) = pick(self.rng, SHAPES), self.centre(slot, 6)
        colour = "" if fine else pick(self.rng, tuple(COLOURS))
        return Mark(kind=kind, value=kind, x=x, y=y, size=int(self.rng.integers(22, 31)), fine=fine, colour=colour)

    def coin(self) -> bool:
        return bool(self.rng.integers(2))
