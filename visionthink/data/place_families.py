"""Families of drawings of which it is known where to look.

| family | what is asked | where is told by | needs |
|---|---|---|---|
| `framed` | the digit in the frame of a colour | a cue: the frame, which every level shows | one box |
| `named` | the shape at a place | the question | one box |
| `pair` | whether two framed digits are the same | cues | two boxes |
| `pointer` | the digit in the frame that an arrow points to; the arrow is in the frame of a colour | a cue, then the arrow | two boxes, one after the other |
| `all` | how many shapes there are | nothing: they may be everywhere | the whole image |
| `period` | which way stripes of 2, 5 or 16 px run | nothing | one box at level 1, 1/4 or 1/16 |
| `hidden` | the only digit | nothing | one box |
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from visionthink.data.drawing import COLOURS, DIRECTIONS, ORIENTATIONS, PLACES, SHAPES, Mark, draw_paper, pick, scan_pool
from visionthink.data.place_scenes import SIDES, SLOT, Canvas, Scene, Twin
from visionthink.errors import DataError


def _with(marks: Sequence[Mark], old: Mark, new: Mark) -> tuple[Mark, ...]:
    return tuple(new if mark is old else mark for mark in marks)


def _level(hard: bool) -> float:
    return 1.0 if hard else 0.25


def _framed_digits(canvas: Canvas, asked: int, hard: bool) -> tuple[list[int], list[str], list[Mark]]:
    """Slots, colours and digits of two to six frames, the first `asked` of which are what the question is about; the others are
    printed either way."""
    most = min(6, canvas.columns**2)
    count = int(canvas.rng.integers(2, most + 1))
    slots = canvas.slots[:count]
    colours = [list(COLOURS)[i] for i in canvas.rng.permutation(len(COLOURS))[:count]]
    digits = [canvas.digit(slot, fine=hard if i < asked else canvas.coin()) for i, slot in enumerate(slots)]
    return slots, colours, digits


def _frames(canvas: Canvas, slots: Sequence[int], colours: Sequence[str]) -> list[Mark]:
    return [canvas.frame(slot, colour) for slot, colour in zip(slots, colours, strict=True)]


def _framed(canvas: Canvas, hard: bool) -> Scene:
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


def _named(canvas: Canvas, hard: bool) -> Scene:
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


def _pair(canvas: Canvas, hard: bool) -> Scene:
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


def _pointer(canvas: Canvas, hard: bool) -> Scene:
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


def _all(canvas: Canvas, hard: bool) -> Scene:
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


def _period(canvas: Canvas, hard: bool) -> Scene:
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


def _hidden(canvas: Canvas, hard: bool) -> Scene:
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


FAMILIES: Mapping[str, Callable[[Canvas, bool], Scene]] = {
    "framed": _framed,
    "named": _named,
    "pair": _pair,
    "pointer": _pointer,
    "all": _all,
    "period": _period,
    "hidden": _hidden,
}


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
    canvas = Canvas(side // SLOT, rng=rng, pool=scan_pool(split))
    drawn = FAMILIES[family](canvas, hard)
    return replace(drawn, paper=paper, noise_seed=noise_seed, side=side, certified=drawn.certified or hard)
