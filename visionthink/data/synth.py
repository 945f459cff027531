"""Questions whose need for resolution is known by construction ("in miniature").

Knows nothing about models. Six families mirror the paper's benchmark split; each mixes *easy* draws (a quarter of the
pixels suffices) with *hard* ones (it does not), in shares that follow the request ratios of Fig. 5 (arXiv 2507.13348).

A hard draw is **certified** when its evidence is carried above the Nyquist frequency of the quarter view: by a grating
of period 3 px, or by *fine ink*, a screen that alternates pixel by pixel around the colour of the paper. The generator
renders the counterfactual twin (same scene, another answer) and asserts that the two are alike in the quarter view
and different in the full one. So the need is a fact about the pixels, not a guess about a reader.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from visionthink.data.drawing import (
    CANVAS,
    COLOURS,
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
from visionthink.errors import DataError
from visionthink.types import Box, Evidence, Example, whole

_SLOT_CENTRES = ((28, 28), (84, 28), (28, 84), (84, 84))


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawing with a question; `twin` is the same drawing with another answer (the counterfactual)."""

    marks: tuple[Mark, ...]
    question: str
    answer: str
    evidence: Mark | None
    hard: bool
    certified: bool = False
    twin: tuple[Mark, ...] = ()
    aliases: tuple[str, ...] = ()
    paper: tuple[int, int, int] = (160, 160, 160)
    noise_seed: int = 0
    everywhere: bool = False
    """Whether the answer depends on the whole drawing, and not on the evidence alone."""

    @property
    def needed(self) -> Evidence:
        """What must be seen, at which level, to know the answer."""
        if self.evidence is None:
            return ()
        return ((whole(CANVAS, CANVAS) if self.everywhere else Box(*self.evidence.box), 1.0 if self.hard else 0.25),)


Draw = Callable[[np.random.Generator, bool, np.ndarray], Scene]
"""(generator, hard, pool of handwritten digits) -> scene."""


@dataclass(frozen=True)
class Family:
    """A kind of question. `mirrors` names the benchmark whose share of requests it takes as its share of hard questions
    (Fig. 5 and Table 8)."""

    draw: Draw = field(repr=False)
    hard_share: float
    mirrors: str


# ------------------------------------------------------------------------------------------------ families


def _at(rng: np.random.Generator, slot: int, jitter: int = 6) -> tuple[int, int]:
    dx, dy = rng.integers(-jitter, jitter + 1, 2)
    return _SLOT_CENTRES[slot][0] + int(dx), _SLOT_CENTRES[slot][1] + int(dy)


def draw_shape(rng: np.random.Generator, kind: str, slot: int, *, fine: bool, colour: str = "") -> Mark:
    """A shape somewhere about the centre of one of the four places."""
    x, y = _at(rng, slot)
    size = int(rng.integers(22, 31))
    return Mark(kind=kind, value=kind, x=x, y=y, size=size, fine=fine, colour="" if fine else colour or pick(rng, tuple(COLOURS)))


def _scan(rng: np.random.Generator, slot: int, pool: np.ndarray, *, fine: bool, size: tuple[int, int] = (30, 43)) -> Mark:
    x, y = _at(rng, slot)
    scan = int(rng.choice(pool))
    return Mark(
        kind="scan", value=str(handwritten_digits()[1][scan]), x=x, y=y, size=int(rng.integers(*size)), fine=fine, scan=scan
    )


def _print(rng: np.random.Generator, slot: int, *, fine: bool) -> Mark:
    x, y = _at(rng, slot)
    return Mark(kind="print", value=str(rng.integers(10)), x=x, y=y, size=int(rng.integers(28, 39)), fine=fine)


def _swap(marks: Sequence[Mark], old: Mark, *new: Mark) -> tuple[Mark, ...]:
    return (*(m for m in marks if m is not old), *new)


def _scene(marks: tuple[Mark, ...], question: str, answer: str, evidence: Mark, hard: bool, twin: tuple[Mark, ...] = ()) -> Scene:
    """A drawing whose answer depends on one mark; certified where it is hard."""
    return Scene(marks=marks, question=question, answer=answer, evidence=evidence, hard=hard, certified=hard, twin=twin)


def _draw_grating(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    x, y = _at(rng, int(rng.integers(4)), 2)
    value = pick(rng, ORIENTATIONS)
    mark = Mark(kind="stripes", value=value, x=x, y=y, size=52, fine=hard)
    twin = (replace(mark, value=pick(rng, ORIENTATIONS, value)),)
    return _scene((mark,), "Which way do the stripes run?", value, mark, hard, twin)


def _draw_digits(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    mark = _scan(rng, int(rng.integers(4)), pool, fine=hard)
    labels = handwritten_digits()[1]
    other = int(rng.choice(pool[labels[pool] != int(mark.value)]))
    twin = (replace(mark, scan=other, value=str(labels[other])),)
    return _scene((mark,), "Which digit is written?", mark.value, mark, hard, twin)


def _draw_print(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    first, second = (int(s) for s in rng.permutation(4)[:2])
    dark, faint = _print(rng, first, fine=False), _print(rng, second, fine=True)
    asked = faint if hard else dark
    twin = _swap((dark, faint), faint, replace(faint, value=pick(rng, tuple("0123456789"), faint.value)))
    return _scene((dark, faint), f"What is the {'faint' if hard else 'dark'} number?", asked.value, asked, hard, twin)


def _draw_chart(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:3]]
    heights = [int(h) + int(rng.integers(-4, 5)) for h in rng.permutation([40, 62, 84])]
    bars = tuple(
        Mark(kind="bar", value=pick(rng, ORIENTATIONS), x=24 + 32 * i, y=104, size=height, colour=colour)
        for i, (colour, height) in enumerate(zip(colours, heights, strict=True))
    )
    if not hard:
        tallest = max(bars, key=lambda b: b.size)
        return _scene(bars, "Which bar is tallest?", tallest.colour, tallest, False)
    which = int(rng.integers(3))
    bar = bars[which]
    twin = _swap(bars, bar, replace(bar, value=pick(rng, ORIENTATIONS, bar.value)))
    question = f"How is the {('left', 'middle', 'right')[which]} bar hatched?"
    return _scene(bars, question, bar.value, bar, True, twin)


def _draw_presence(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    slots = [int(i) for i in rng.permutation(4)]
    asked, others = slots[0], slots[1 : int(rng.integers(2, 5))]
    shape = draw_shape(rng, pick(rng, SHAPES), asked, fine=hard)
    rest = tuple(draw_shape(rng, pick(rng, SHAPES), slot, fine=hard) for slot in others)
    there, empty = (shape, *rest), rest
    present = bool(rng.integers(2))
    marks, twin = (there, empty) if present else (empty, there)
    question = f"Is there a shape at the {PLACES[asked]}?"
    return _scene(marks, question, "yes" if present else "no", shape, hard, twin)


def _draw_scene(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    slots = [int(s) for s in rng.permutation(4)]
    topic = pick(rng, ("count", "kind", "place") if hard else ("count", "kind", "place", "colour"))
    n = 1 if topic == "place" else int(rng.integers(1, 5))
    marks = tuple(draw_shape(rng, pick(rng, SHAPES), slot, fine=hard) for slot in slots[:n])
    first, place = marks[0], PLACES[slots[0]]
    if topic == "count":
        more = (*marks, draw_shape(rng, pick(rng, SHAPES), slots[1], fine=hard)) if n == 1 else ()
        word = ("one", "two", "three", "four")[n - 1]
        return Scene(
            marks=marks,
            question="How many shapes are there?",
            answer=str(n),
            evidence=(more or marks)[-1],
            hard=hard,
            certified=hard,
            twin=more or marks[:-1],
            aliases=(word,),
            everywhere=True,
        )
    if topic == "place":
        x, y = _at(rng, slots[1])
        return Scene(
            marks=marks,
            question="Where is the shape?",
            answer=place,
            evidence=first,
            hard=hard,
            certified=hard,
            twin=(replace(first, x=x, y=y),),
            everywhere=True,
        )
    if topic == "colour":
        return _scene(marks, f"What colour is the shape at the {place}?", first.colour, first, False)
    kind = pick(rng, SHAPES, first.kind)
    twin = _swap(marks, first, replace(first, kind=kind, value=kind))
    return _scene(marks, f"What shape is at the {place}?", first.kind, first, hard, twin)


def draw_poster(rng: np.random.Generator) -> list[Mark | None]:
    """Four slots in reading order, each with a random mark or nothing; for dense captions. Digits are of the training split."""
    pool = scan_pool("train")
    marks: list[Mark | None] = []
    for slot in range(4):
        kind, fine = rng.random(), bool(rng.random() < 0.35)
        if kind < 0.1:
            marks.append(None)
        elif kind < 0.35:
            marks.append(draw_shape(rng, pick(rng, SHAPES), slot, fine=fine))
        elif kind < 0.6:
            marks.append(_scan(rng, slot, pool, fine=fine))
        elif kind < 0.88:
            marks.append(_print(rng, slot, fine=fine))
        else:
            value, (x, y) = pick(rng, ORIENTATIONS), _at(rng, slot, 2)
            marks.append(Mark(kind="stripes", value=value, x=x, y=y, size=52, fine=fine))
    return marks


FAMILIES: Mapping[str, Family] = {
    "chart": Family(_draw_chart, 0.79, "ChartQA"),
    "digits": Family(_draw_digits, 0.62, "OCRBench"),
    "grating": Family(_draw_grating, 0.30, "RealWorldQA"),
    "scene": Family(_draw_scene, 0.31, "MME"),
    "presence": Family(_draw_presence, 0.10, "POPE"),
    "print": Family(_draw_print, 0.07, "DocVQA"),
}


# ------------------------------------------------------------------------------------------------ items


def certificate(scene: Scene) -> tuple[float, float]:
    """Root-mean-square difference between a scene and its twin inside the evidence box, in 8-bit levels:
    (quarter view, full view). Noise is the same in both, so what remains is the evidence."""
    if scene.evidence is None or not scene.twin:
        raise DataError(f"the scene {scene.question!r} has no counterfactual twin")
    image, twin = (render(marks, scene.paper, scene.noise_seed) for marks in (scene.marks, scene.twin))
    return rms(image, twin, scene.evidence.box, 2), rms(image, twin, scene.evidence.box)


def draw_scene(family: str, rng: np.random.Generator, *, hard: bool | None = None, split: str = "train") -> Scene:
    """One scene of a family; `hard` is drawn from the family's share when None. Certified scenes are asserted."""
    if family not in FAMILIES:
        raise DataError(f"unknown family {family!r}; choose from {', '.join(FAMILIES)}")
    spec = FAMILIES[family]
    paper = draw_paper(rng)
    noise_seed = int(rng.integers(2**31))
    is_hard = bool(rng.random() < spec.hard_share) if hard is None else hard
    scene = replace(spec.draw(rng, is_hard, scan_pool(split)), paper=paper, noise_seed=noise_seed)
    if scene.certified:
        low, full = certificate(scene)
        if low >= MAX_LOW_RMS or full <= MIN_FULL_RMS:
            raise DataError(f"{family}: not certified, rms {low:.2f} in the quarter view and {full:.1f} in the full one")
    return scene


@dataclass(frozen=True)
class Drawn(Example):
    """An example whose one image was drawn here, and is open."""

    image: Image.Image = field(repr=False)


def draw(family: str, index: int, *, split: str = "test", seed: int = 0, hard: bool | None = None) -> Drawn:
    """Item `index` of a family in a split; the same arguments give the same bytes.

    Splits are disjoint by seed, and no handwritten digit is in two of them.

    Raises:
        DataError: unknown family or split.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
    if family not in FAMILIES:
        raise DataError(f"unknown family {family!r}; choose from {', '.join(FAMILIES)}")
    spawn = (SPLITS.index(split), seed, list(FAMILIES).index(family), index)
    scene = draw_scene(family, np.random.default_rng(spawn), hard=hard, split=split)
    return Drawn(
        id=f"synth-{split}-{seed}-{family}-{index}",
        question=scene.question,
        image=render(scene.marks, scene.paper, scene.noise_seed),
        answer=scene.answer,
        aliases=scene.aliases,
        need="hard" if scene.hard else "easy",
        family=family,
        evidence=scene.needed,
        metadata={
            "seed": spawn,
            "certified": scene.certified,
            "mirrors": FAMILIES[family].mirrors,
            "evidence_box": scene.evidence.box if scene.evidence else None,
        },
    )


Cell = tuple[str, bool | None]
"""A family, and whether its question is hard; None leaves that to the family's share."""

OWN_SHARES: tuple[Cell, ...] = tuple((family, None) for family in FAMILIES)
BALANCED: tuple[Cell, ...] = tuple((family, hard) for family in FAMILIES for hard in (False, True))


def suite(n: int, *, split: str = "test", seed: int = 0, cells: Sequence[Cell] = OWN_SHARES) -> list[Example]:
    """`n` items, the cells in turn; a cell may stand there twice."""
    return [draw(family, index, split=split, seed=seed, hard=hard) for family, hard, index in in_turn(n, cells)]


def in_turn(n: int, cells: Sequence[Cell]) -> Iterator[tuple[str, bool | None, int]]:
    """The cells of `n` items, one after the other, with an index that no other item of its family has."""
    drawn: Counter[Cell] = Counter()
    for family, hard in itertools.islice(itertools.cycle(cells), n):
        yield family, hard, drawn[family, hard] if hard is None else 2 * drawn[family, hard] + hard
        drawn[family, hard] += 1
