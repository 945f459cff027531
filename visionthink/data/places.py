"""Questions of which it is known where to look, and at which resolution ("in miniature").

Knows nothing about models. An answer is a function of what the *evidence* shows: boxes, each at a level of pixel density (1/16, 1/4
or 1). For each box there is a **counterfactual twin**: the same drawing with something else inside the box, and therefore another
answer. The generator renders both and discards a draw where they are alike at the level of the evidence; hard draws, and stripes,
also where they differ at a level below. So both the place and the need are facts about the pixels.

| family | what is asked | where is told by | needs |
|---|---|---|---|
| `framed` | the digit in the frame of a colour | a cue: the frame, which every level shows | one box |
| `named` | the shape at a place | the question | one box |
| `pair` | whether two framed digits are the same | cues | two boxes |
| `pointer` | the digit in the frame that an arrow points to; the arrow is in the frame of a colour | a cue, then the arrow | two boxes, one after the other |
| `all` | how many shapes there are | nothing: they may be everywhere | the whole image |
| `period` | which way stripes of 2, 5 or 16 px run | nothing | one box at level 1, 1/4 or 1/16 |
| `hidden` | the only digit | nothing | one box |

Images have 112 or 224 px a side, in slots of 56 px: 4 or 16 of them. One of AwaRes' crops (arXiv 2603.16932), a quadrant, shows one
or four slots.
"""  # noqa: E501

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

import numpy as np
from PIL import Image

from visionthink.data.drawing import (
    COLOURS,
    DIRECTIONS,
    MAX_LOW_RMS,
    MIN_FULL_RMS,
    ORIENTATIONS,
    PLACES,
    SHAPES,
    SPLITS,
    Mark,
    draw_paper,
    handwritten_digits,
    pick,
    render,
    rms,
    scan_pool,
)
from visionthink.data.synth import Cell, in_turn
from visionthink.errors import DataError
from visionthink.types import Box, Evidence, Example, whole

SIDES = (112, 224)
SLOT = 56
"""Side of a slot in px; a frame fills it, so that one visual token of the quarter view shows one frame."""
LEVELS = (1 / 16, 1 / 4, 1.0)
FRAME = 54
_TRIES = 5
"""Two digits that look alike are drawn once in some thousand times."""

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
    """In the order in which the boxes can be known, where that matters."""
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


# ------------------------------------------------------------------------------------------------ what is drawn


@dataclass(frozen=True)
class _Canvas:
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


def _with(marks: Sequence[Mark], old: Mark, new: Mark) -> tuple[Mark, ...]:
    return tuple(new if mark is old else mark for mark in marks)


def _level(hard: bool) -> float:
    return 1.0 if hard else 0.25


def _framed_digits(canvas: _Canvas, asked: int, hard: bool) -> tuple[list[int], list[str], list[Mark]]:
    """Slots, colours and digits of two to six frames, the first `asked` of which are what the question is about; the others are
    printed either way."""
    most = min(6, canvas.columns**2)
    count = int(canvas.rng.integers(2, most + 1))
    slots = canvas.slots[:count]
    colours = [list(COLOURS)[i] for i in canvas.rng.permutation(len(COLOURS))[:count]]
    digits = [canvas.digit(slot, fine=hard if i < asked else canvas.coin()) for i, slot in enumerate(slots)]
    return slots, colours, digits


def _frames(canvas: _Canvas, slots: Sequence[int], colours: Sequence[str]) -> list[Mark]:
    return [canvas.frame(slot, colour) for slot, colour in zip(slots, colours, strict=True)]


def _framed(canvas: _Canvas, hard: bool) -> Scene:
    slots, colours, digits = _framed_digits(canvas, 1, hard)
    marks = (*_frames(canvas, slots, colours), *digits)
    digit, box, level = digits[0], canvas.box(slots[0]), _level(hard)
    other = canvas.other_digit(digit)
    return Scene(
        marks=marks,
        question=f"Which digit is in the {colours[0]} frame?",
        answer=digit.value,
        evidence=((box, level),),
        twins=(Twin(marks=_with(marks, digit, other), answer=other.value, box=box, level=level),),
        where="cue",
    )


def _named(canvas: _Canvas, hard: bool) -> Scene:
    slots = canvas.slots[: int(canvas.rng.integers(1, canvas.columns**2 + 1))]
    marks = tuple(canvas.shape(slot, fine=hard if i == 0 else canvas.coin()) for i, slot in enumerate(slots))
    shape, box, level = marks[0], canvas.box(slots[0]), _level(hard)
    kind = pick(canvas.rng, SHAPES, shape.kind)
    other = replace(shape, kind=kind, value=kind)
    row, column = divmod(slots[0], canvas.columns)
    place = f"at the {PLACES[slots[0]]}" if canvas.columns == 2 else f"in row {row + 1}, column {column + 1}"
    return Scene(
        marks=marks,
        question=f"What shape is {place}?",
        answer=shape.value,
        evidence=((box, level),),
        twins=(Twin(marks=_with(marks, shape, other), answer=kind, box=box, level=level),),
        where="question",
    )


def _pair(canvas: _Canvas, hard: bool) -> Scene:
    slots, colours, digits = _framed_digits(canvas, 2, hard)
    same = canvas.coin()
    digits[1] = canvas.other_digit(digits[1], int(digits[0].value)) if same else digits[1]
    if not same and digits[1].value == digits[0].value:
        digits[1] = canvas.other_digit(digits[1])
    marks, level = (*_frames(canvas, slots, colours), *digits), _level(hard)
    twins = []
    for i in range(2):
        other = canvas.other_digit(digits[i], None if same else int(digits[1 - i].value))
        marked = _with(marks, digits[i], other)
        twins.append(Twin(marks=marked, answer="no" if same else "yes", box=canvas.box(slots[i]), level=level))
    return Scene(
        marks=marks,
        question=f"Are the digits in the {colours[0]} and the {colours[1]} frame the same?",
        answer="yes" if same else "no",
        evidence=tuple((canvas.box(slot), level) for slot in slots[:2]),
        twins=tuple(twins),
        where="cue",
    )


def _pointer(canvas: _Canvas, hard: bool) -> Scene:
    columns, level = canvas.columns, _level(hard)
    cue, *others = canvas.slots

    def direction(slot: int) -> str | None:
        (row, column), (to_row, to_column) = divmod(cue, columns), divmod(slot, columns)
        return next((name for name, step in DIRECTIONS.items() if step == (to_column - column, to_row - row)), None)

    target, instead = [slot for slot in others if direction(slot)][:2]
    rest = [slot for slot in others if slot not in (target, instead)]
    slots = [cue, target, instead, *rest[: int(canvas.rng.integers(0, min(3, len(rest)) + 1))]]
    colours = [list(COLOURS)[i] for i in canvas.rng.permutation(len(COLOURS))[: len(slots)]]
    x, y = canvas.centre(cue)
    arrow = Mark(kind="arrow", value=direction(target) or "", x=x, y=y, size=34, fine=hard)
    first = canvas.digit(target, fine=hard)
    second = canvas.digit(instead, fine=canvas.coin(), besides=int(first.value))
    marks = (
        *_frames(canvas, slots, colours),
        arrow,
        first,
        second,
        *(canvas.digit(slot, fine=canvas.coin()) for slot in slots[3:]),
    )
    turned, other = replace(arrow, value=direction(instead) or ""), canvas.other_digit(first)
    return Scene(
        marks=marks,
        question=f"Which digit is in the frame that the {colours[0]} frame points to?",
        answer=first.value,
        evidence=((canvas.box(cue), level), (canvas.box(target), level)),
        twins=(
            Twin(marks=_with(marks, arrow, turned), answer=second.value, box=canvas.box(cue), level=level),
            Twin(marks=_with(marks, first, other), answer=other.value, box=canvas.box(target), level=level),
        ),
        where="cue",
        sequential=True,
    )


def _all(canvas: _Canvas, hard: bool) -> Scene:
    slots, level = canvas.slots, _level(hard)
    most = min(6, len(slots))
    count = int(canvas.rng.integers(1, most + 1))
    more = count == 1 or (count < most and canvas.coin())
    drawn = tuple(canvas.shape(slot, fine=hard) for slot in slots[: count + more])
    marks, twin = (drawn[:-1], drawn) if more else (drawn, drawn[:-1])
    words = ("one", "two", "three", "four", "five", "six")
    return Scene(
        marks=marks,
        question="How many shapes are there?",
        answer=str(count),
        aliases=(words[count - 1],),
        evidence=((canvas.whole, level),),
        twins=(Twin(marks=twin, answer=str(len(twin)), box=canvas.box(slots[len(drawn) - 1]), level=level),),
        where="everywhere",
    )


def _period(canvas: _Canvas, hard: bool) -> Scene:
    # 8 px would lie on the Nyquist frequency of the 1/16 view, where the soft edge of the patch alone differs by 9 levels
    period, level = (2, 1.0) if hard else ((5, 1 / 4) if canvas.coin() else (16, 1 / 16))
    slot = canvas.slots[0]
    x, y = canvas.centre(slot, 2)
    value = pick(canvas.rng, ORIENTATIONS)
    mark = Mark(kind="stripes", value=value, x=x, y=y, size=52, fine=hard, period=period)
    other = replace(mark, value=pick(canvas.rng, ORIENTATIONS, value))
    return Scene(
        marks=(mark,),
        question="Which way do the stripes run?",
        answer=value,
        evidence=((canvas.box(slot), level),),
        twins=(Twin(marks=(other,), answer=other.value, box=canvas.box(slot), level=level),),
        where="hidden",
        certified=True,
    )


def _hidden(canvas: _Canvas, hard: bool) -> Scene:
    slot, level = canvas.slots[0], _level(hard)
    digit = canvas.digit(slot, fine=hard, jitter=6)
    other = canvas.other_digit(digit)
    return Scene(
        marks=(digit,),
        question="Which digit is written?",
        answer=digit.value,
        evidence=((canvas.box(slot), level),),
        twins=(Twin(marks=(other,), answer=other.value, box=canvas.box(slot), level=level),),
        where="hidden",
    )


FAMILIES: Mapping[str, Callable[[_Canvas, bool], Scene]] = {
    "framed": _framed,
    "named": _named,
    "pair": _pair,
    "pointer": _pointer,
    "all": _all,
    "period": _period,
    "hidden": _hidden,
}

# ------------------------------------------------------------------------------------------------ items


def certificate(scene: Scene, twin: Twin) -> tuple[float, float]:
    """How much a scene and its twin differ inside the twin's box, as root-mean-square differences in 8-bit levels: at the levels
    below that of the evidence (the largest), and at its level."""
    pair = scene.image(), scene.image(twin)
    scales = [(level, round(1 / math.sqrt(level))) for level in LEVELS]
    below = [rms(*pair, twin.box, scale) for level, scale in scales if level < twin.level]
    return max(below, default=0.0), rms(*pair, twin.box, dict(scales)[twin.level])


def compose(family: str, rng: np.random.Generator, *, hard: bool, split: str = "train", side: int = 112) -> Scene:
    """One scene of a family, of which it is not tested that it is what it says: that takes longer than drawing it.

    Raises:
        DataError: unknown family or side.
    """
    if family not in FAMILIES:
        raise DataError(f"unknown family {family!r}; choose from {', '.join(FAMILIES)}")
    if side not in SIDES:
        raise DataError(f"side {side}: choose one of {', '.join(map(str, SIDES))} px")
    paper, noise_seed = draw_paper(rng), int(rng.integers(2**31))
    canvas = _Canvas(side // SLOT, rng=rng, pool=scan_pool(split))
    drawn = FAMILIES[family](canvas, hard)
    return replace(drawn, paper=paper, noise_seed=noise_seed, side=side, certified=drawn.certified or hard)


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


def draw(family: str, index: int, *, hard: bool, split: str = "test", seed: int = 0, side: int = 112) -> Example:
    """Item `index` of a family in a split; the same arguments give the same bytes.

    Splits are disjoint by seed, and no handwritten digit is in two of them.

    Raises:
        DataError: unknown family, split or side.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    scene = _scene(family, index, hard, split, seed, side)
    return Example(
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
