"""Questions whose need for resolution is known by construction ("in miniature").

Knows nothing about models. Six families mirror the paper's benchmark split; each mixes *easy* draws (a quarter of the
pixels suffices) with *hard* ones (it does not), in shares that follow the request ratios of Fig. 5 (arXiv 2507.13348).

A hard draw is **certified** when its evidence is carried above the Nyquist frequency of the quarter view: by a grating
of period 3 px, or by *fine ink*, a screen that alternates pixel by pixel around the colour of the paper. The generator
renders the counterfactual twin (same scene, another answer) and asserts that the two are alike in the quarter view
and different in the full one. So the need is a fact about the pixels, not a guess about a reader.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from visionthink.errors import DataError
from visionthink.types import Box, Evidence, Example, whole

CANVAS = 112
"""Side of every image in px: a multiple of 56, so that 1 and 1/4 of the pixels are both whole 28 px tokens."""

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "green": (40, 150, 60),
    "blue": (50, 80, 215),
    "yellow": (235, 205, 50),
    "purple": (140, 50, 160),
    "orange": (240, 130, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
ORIENTATIONS = ("vertical", "horizontal")
PLACES = ("top left", "top right", "bottom left", "bottom right")
SPLITS = ("train", "validation", "test")

_SLOT_CENTRES = ((28, 28), (84, 28), (28, 84), (84, 84))
_FINE_PERIOD, _COARSE_PERIOD = 2, 16
_FINE_AMPLITUDE = 80.0
_MAX_LOW_RMS, _MIN_FULL_RMS = 2.0, 8.0
_ROWS, _COLUMNS = np.mgrid[:CANVAS, :CANVAS].astype(np.float32)
_SCREEN = 1 - 2 * ((_ROWS + _COLUMNS) % 2)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One thing on the paper.

    `kind` is a shape name, "scan" (a real handwritten digit), "print" (a typeset digit), "stripes" or "bar";
    `value` is what a reader would read off it; `fine` marks are printed in fine ink and vanish in the quarter view.
    """

    kind: str
    value: str
    x: int
    y: int
    size: int
    fine: bool = False
    colour: str = ""
    scan: int = 0
    """Index into the handwritten digits, for kind "scan"."""
    tilt: int = 0
    """Degrees by which a scan is turned, counter-clockwise; only in training."""

    @property
    def caption(self) -> str:
        """Two words."""
        if self.kind in SHAPES:
            return f"{self.colour or 'fine'} {self.kind}"
        if self.kind == "scan":
            return f"{'fine' if self.fine else 'scan'} {self.value}"
        if self.kind == "print":
            return f"{'faint' if self.fine else 'print'} {self.value}"
        return f"{self.kind} {self.value}"

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in px of the full canvas."""
        if self.kind == "bar":
            return (self.x - 14, self.y - self.size, self.x + 14, self.y)
        half = self.size // 2 + 2
        left, top, right, bottom = self.x - half, self.y - half, self.x + half, self.y + half
        return (max(0, left), max(0, top), min(CANVAS, right), min(CANVAS, bottom))


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


# ------------------------------------------------------------------------------------------------ drawing


@functools.cache
def handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 real handwritten digits bundled with scikit-learn: images uint8 [1797, 8, 8], labels int [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def scan_pool(split: str) -> np.ndarray:
    """Indices of the handwritten digits of a split, int [n]. No scan is shared: every fifth is test, next to it
    validation."""
    fold = np.arange(1797) % 5
    return np.flatnonzero({"test": fold == 0, "validation": fold == 1, "train": fold >= 2}[split])


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _coverage(mark: Mark) -> np.ndarray:
    """How much ink covers each pixel, float [CANVAS, CANVAS] in 0..1."""
    x, y, half = mark.x, mark.y, mark.size / 2
    layer = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(layer)
    if mark.kind == "scan":
        glyph = Image.fromarray(handwritten_digits()[0][mark.scan]).resize((mark.size, mark.size), Image.Resampling.BICUBIC)
        if mark.tilt:
            glyph = glyph.rotate(mark.tilt, Image.Resampling.BICUBIC)
        layer.paste(glyph, (x - mark.size // 2, y - mark.size // 2))
    elif mark.kind == "print":
        pen.text((x, y), mark.value, fill=255, font=_font(mark.size), anchor="mm", stroke_width=1)
    elif mark.kind == "circle":
        pen.ellipse([x - half, y - half, x + half, y + half], fill=255)
    elif mark.kind == "square":
        pen.rectangle([x - half, y - half, x + half, y + half], fill=255)
    elif mark.kind == "triangle":
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=255)
    elif mark.kind == "cross":
        arm = mark.size / 6
        pen.rectangle([x - half, y - arm, x + half, y + arm], fill=255)
        pen.rectangle([x - arm, y - half, x + arm, y + half], fill=255)
    elif mark.kind == "bar":
        pen.rectangle(mark.box, fill=255)
    if mark.fine and mark.kind != "scan":  # a sharp edge would leak the screen into the quarter view; scans are soft already
        layer = layer.filter(ImageFilter.GaussianBlur(0.7 if mark.kind == "print" else 1.3))
    return np.asarray(layer, np.float32) / 255


def _grating(mark: Mark, width: int, height: int, centre_y: int, period: float, amplitude: float) -> np.ndarray:
    """A windowed cosine grating, float [CANVAS, CANVAS]; the soft edge (a Hann window cut off at half its height) keeps its band
    narrow."""
    window = np.zeros((CANVAS, CANVAS), np.float32)
    top, left = centre_y - height // 2, mark.x - width // 2
    rise, run = (np.minimum(1, 2 * np.hanning(side)) for side in (height, width))
    tile = np.outer(rise, run).astype(np.float32)
    rows, cols = slice(max(0, top), min(CANVAS, top + height)), slice(max(0, left), min(CANVAS, left + width))
    window[rows, cols] = tile[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
    along = (_COLUMNS if mark.value == "vertical" else _ROWS)[rows, cols]
    window[rows, cols] *= amplitude * np.cos(2 * np.pi * along / period + 0.4)
    return window


def render(marks: Sequence[Mark], paper: tuple[int, int, int], noise_seed: int) -> Image.Image:
    """Draw marks on paper with a little sensor noise (sigma 2 levels). RGB, CANVAS x CANVAS."""
    canvas = np.empty((CANVAS, CANVAS, 3), np.float32)
    canvas[:] = paper
    for mark in marks:
        if mark.kind == "stripes":
            period = _FINE_PERIOD if mark.fine else _COARSE_PERIOD
            canvas += _grating(mark, mark.size, mark.size, mark.y, period, 75)[..., None]
            continue
        cover = _coverage(mark)[..., None]
        if mark.fine:
            canvas += _FINE_AMPLITUDE * cover * _SCREEN[..., None]
            continue
        ink = np.array(COLOURS.get(mark.colour, (35, 35, 40)), np.float32)
        canvas += cover * (ink - canvas)
        if mark.kind == "bar":
            canvas += _grating(mark, 28, mark.size, mark.y - mark.size // 2, _FINE_PERIOD, 60)[..., None]
    canvas += 2 * np.random.default_rng(noise_seed).standard_normal((CANVAS, CANVAS, 1), np.float32)
    return Image.fromarray(np.clip(np.round(canvas), 0, 255).astype(np.uint8))


# ------------------------------------------------------------------------------------------------ families


def _pick(rng: np.random.Generator, options: Sequence[str], besides: str | None = None) -> str:
    left = [o for o in options if o != besides]
    return left[int(rng.integers(len(left)))]


def _at(rng: np.random.Generator, slot: int, jitter: int = 6) -> tuple[int, int]:
    dx, dy = rng.integers(-jitter, jitter + 1, 2)
    return _SLOT_CENTRES[slot][0] + int(dx), _SLOT_CENTRES[slot][1] + int(dy)


def _shape(rng: np.random.Generator, kind: str, slot: int, *, fine: bool, colour: str = "") -> Mark:
    x, y = _at(rng, slot)
    size = int(rng.integers(22, 31))
    return Mark(
        kind=kind, value=kind, x=x, y=y, size=size, fine=fine, colour="" if fine else colour or _pick(rng, tuple(COLOURS))
    )


def _scan(rng: np.random.Generator, slot: int, pool: np.ndarray, *, fine: bool, size: tuple[int, int] = (30, 43)) -> Mark:
    x, y = _at(rng, slot)
    scan = int(rng.choice(pool))
    return Mark(
        kind="scan", value=str(handwritten_digits()[1][scan]), x=x, y=y, size=int(rng.integers(*size)), fine=fine, scan=scan
    )


def _print(rng: np.random.Generator, slot: int, *, fine: bool) -> Mark:
    x, y = _at(rng, slot)
    return Mark(kind="print", value=str(rng.integers(10)), x=x, y=y, size=int(rng.integers(28, 39)), fine=fine)


def draw_paper(rng: np.random.Generator) -> tuple[int, int, int]:
    """A light, slightly tinted grey, RGB."""
    red, green, blue = (int(v) for v in rng.integers(145, 171) + rng.integers(-6, 7, 3))
    return red, green, blue


def _swap(marks: Sequence[Mark], old: Mark, *new: Mark) -> tuple[Mark, ...]:
    return (*(m for m in marks if m is not old), *new)


def _scene(marks: tuple[Mark, ...], question: str, answer: str, evidence: Mark, hard: bool, twin: tuple[Mark, ...] = ()) -> Scene:
    """A drawing whose answer depends on one mark; certified where it is hard."""
    return Scene(marks=marks, question=question, answer=answer, evidence=evidence, hard=hard, certified=hard, twin=twin)


def _draw_grating(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    x, y = _at(rng, int(rng.integers(4)), 2)
    value = _pick(rng, ORIENTATIONS)
    mark = Mark(kind="stripes", value=value, x=x, y=y, size=52, fine=hard)
    twin = (replace(mark, value=_pick(rng, ORIENTATIONS, value)),)
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
    twin = _swap((dark, faint), faint, replace(faint, value=_pick(rng, tuple("0123456789"), faint.value)))
    return _scene((dark, faint), f"What is the {'faint' if hard else 'dark'} number?", asked.value, asked, hard, twin)


def _draw_chart(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    colours = [list(COLOURS)[i] for i in rng.permutation(len(COLOURS))[:3]]
    heights = [int(h) + int(rng.integers(-4, 5)) for h in rng.permutation([40, 62, 84])]
    bars = tuple(
        Mark(kind="bar", value=_pick(rng, ORIENTATIONS), x=24 + 32 * i, y=104, size=height, colour=colour)
        for i, (colour, height) in enumerate(zip(colours, heights, strict=True))
    )
    if not hard:
        tallest = max(bars, key=lambda b: b.size)
        return _scene(bars, "Which bar is tallest?", tallest.colour, tallest, False)
    which = int(rng.integers(3))
    bar = bars[which]
    twin = _swap(bars, bar, replace(bar, value=_pick(rng, ORIENTATIONS, bar.value)))
    question = f"How is the {('left', 'middle', 'right')[which]} bar hatched?"
    return _scene(bars, question, bar.value, bar, True, twin)


def _draw_presence(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    slots = [int(i) for i in rng.permutation(4)]
    asked, others = slots[0], slots[1 : int(rng.integers(2, 5))]
    shape = _shape(rng, _pick(rng, SHAPES), asked, fine=hard)
    rest = tuple(_shape(rng, _pick(rng, SHAPES), slot, fine=hard) for slot in others)
    there, empty = (shape, *rest), rest
    present = bool(rng.integers(2))
    marks, twin = (there, empty) if present else (empty, there)
    question = f"Is there a shape at the {PLACES[asked]}?"
    return _scene(marks, question, "yes" if present else "no", shape, hard, twin)


def _draw_scene(rng: np.random.Generator, hard: bool, pool: np.ndarray) -> Scene:
    slots = [int(s) for s in rng.permutation(4)]
    topic = _pick(rng, ("count", "kind", "place") if hard else ("count", "kind", "place", "colour"))
    n = 1 if topic == "place" else int(rng.integers(1, 5))
    marks = tuple(_shape(rng, _pick(rng, SHAPES), slot, fine=hard) for slot in slots[:n])
    first, place = marks[0], PLACES[slots[0]]
    if topic == "count":
        more = (*marks, _shape(rng, _pick(rng, SHAPES), slots[1], fine=hard)) if n == 1 else ()
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
    kind = _pick(rng, SHAPES, first.kind)
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
            marks.append(_shape(rng, _pick(rng, SHAPES), slot, fine=fine))
        elif kind < 0.6:
            marks.append(_scan(rng, slot, pool, fine=fine))
        elif kind < 0.88:
            marks.append(_print(rng, slot, fine=fine))
        else:
            value, (x, y) = _pick(rng, ORIENTATIONS), _at(rng, slot, 2)
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
    left, top, right, bottom = scene.evidence.box
    images = [render(marks, scene.paper, scene.noise_seed) for marks in (scene.marks, scene.twin)]
    lows = [i.resize((CANVAS // 2, CANVAS // 2), Image.Resampling.LANCZOS) for i in images]

    def rms(pair: list[Image.Image], scale: int) -> float:
        box = (left // scale, top // scale, -(-right // scale), -(-bottom // scale))
        a, b = (np.asarray(i.crop(box), np.float64) for i in pair)
        return float(np.sqrt(np.mean((a - b) ** 2)))

    return rms(lows, 2), rms(images, 1)


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
        if low >= _MAX_LOW_RMS or full <= _MIN_FULL_RMS:
            raise DataError(f"{family}: not certified, rms {low:.2f} in the quarter view and {full:.1f} in the full one")
    return scene


def draw(family: str, index: int, *, split: str = "test", seed: int = 0, hard: bool | None = None) -> Example:
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
    return Example(
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
    drawn: Counter[Cell] = Counter()
    items = []
    for family, hard in itertools.islice(itertools.cycle(cells), n):
        index = drawn[family, hard] if hard is None else 2 * drawn[family, hard] + hard
        drawn[family, hard] += 1
        items.append(draw(family, index, split=split, seed=seed, hard=hard))
    return items
