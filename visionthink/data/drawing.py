"""Marks on paper: what the generated questions are drawn with.

Knows nothing about questions. Things are printed in plain ink, which a view of a quarter of the pixels shows, or in *fine ink*, a
screen that alternates pixel by pixel around the colour of the paper: it lies above the Nyquist frequency of the quarter view, so
that nothing is left of it there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

CANVAS = 112
"""Side of an image in px: a multiple of 56, so that 1 and 1/4 of the pixels are both whole 28 px tokens."""

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
DIRECTIONS: Mapping[str, tuple[int, int]] = {
    "right": (1, 0),
    "down right": (1, 1),
    "down": (0, 1),
    "down left": (-1, 1),
    "left": (-1, 0),
    "up left": (-1, -1),
    "up": (0, -1),
    "up right": (1, -1),
}
"""Where an arrow points, in columns to the right and rows down."""
SPLITS = ("train", "validation", "test")
MAX_LOW_RMS, MIN_FULL_RMS = 2.0, 8.0
"""Limits of a certificate: two drawings are alike below the first, and different above the second (see `rms`)."""

_FINE_PERIOD, _COARSE_PERIOD = 2, 16
_FINE_AMPLITUDE = 80.0
_FRAME_WIDTH = 5


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One thing on the paper.

    `kind` is a shape name, "scan" (a real handwritten digit), "print" (a typeset digit), "stripes", "bar", "frame" or "arrow";
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
    period: int = 0
    """Period of stripes in px; 0 means 2 px for fine stripes and 16 px for others."""

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
        """Left, top, right, bottom in px of a canvas of the usual side."""
        if self.kind == "bar":
            return (self.x - 14, self.y - self.size, self.x + 14, self.y)
        half = self.size // 2 + 2
        left, top, right, bottom = self.x - half, self.y - half, self.x + half, self.y + half
        return (max(0, left), max(0, top), min(CANVAS, right), min(CANVAS, bottom))


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


def pick(rng: np.random.Generator, options: Sequence[str], besides: str | None = None) -> str:
    """One of the options, each as likely; never `besides`."""
    left = [o for o in options if o != besides]
    return left[int(rng.integers(len(left)))]


def draw_paper(rng: np.random.Generator) -> tuple[int, int, int]:
    """A light, slightly tinted grey, RGB."""
    red, green, blue = (int(v) for v in rng.integers(145, 171) + rng.integers(-6, 7, 3))
    return red, green, blue


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


@functools.cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column, and the screen of fine ink, at each pixel; float [side, side]."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    return rows, columns, 1 - 2 * ((rows + columns) % 2)


def _arrow(mark: Mark) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The shaft and the head of an arrow, as polygons."""
    across, down = DIRECTIONS[mark.value]
    length = math.hypot(across, down)
    ux, uy = across / length, down / length

    def at(along: float, beside: float) -> tuple[float, float]:
        return mark.x + mark.size * (along * ux - beside * uy), mark.y + mark.size * (along * uy + beside * ux)

    shaft = [at(-0.5, -0.1), at(0.05, -0.1), at(0.05, 0.1), at(-0.5, 0.1)]
    return shaft, [at(0.0, -0.36), at(0.5, 0.0), at(0.0, 0.36)]


def _coverage(mark: Mark, side: int) -> np.ndarray:
    """How much ink covers each pixel, float [side, side] in 0..1."""
    x, y, half = mark.x, mark.y, mark.size / 2
    layer = Image.new("L", (side, side))
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
    elif mark.kind == "frame":
        pen.rectangle([x - half, y - half, x + half - 1, y + half - 1], outline=255, width=_FRAME_WIDTH)
    elif mark.kind == "arrow":
        for polygon in _arrow(mark):
            pen.polygon(polygon, fill=255)
    if mark.fine and mark.kind != "scan":  # a sharp edge would leak the screen into the quarter view; scans are soft already
        layer = layer.filter(ImageFilter.GaussianBlur(0.7 if mark.kind == "print" else 1.3))
    return np.asarray(layer, np.float32) / 255


def _grating(mark: Mark, width: int, height: int, centre_y: int, period: float, amplitude: float, side: int) -> np.ndarray:
    """A windowed cosine grating, float [side, side]; the soft edge (a Hann window cut off at half its height) keeps its band
    narrow."""
    window = np.zeros((side, side), np.float32)
    top, left = centre_y - height // 2, mark.x - width // 2
    rise, run = (np.minimum(1, 2 * np.hanning(length)) for length in (height, width))
    tile = np.outer(rise, run).astype(np.float32)
    rows, cols = slice(max(0, top), min(side, top + height)), slice(max(0, left), min(side, left + width))
    window[rows, cols] = tile[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left]
    row, column, _ = _grid(side)
    along = (column if mark.value == "vertical" else row)[rows, cols]
    window[rows, cols] *= amplitude * np.cos(2 * np.pi * along / period + 0.4)
    return window


def render(marks: Sequence[Mark], paper: tuple[int, int, int], noise_seed: int, side: int = CANVAS) -> Image.Image:
    """Draw marks on paper with a little sensor noise (sigma 2 levels). RGB, `side` x `side`."""
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = paper
    for mark in marks:
        if mark.kind == "stripes":
            period = mark.period or (_FINE_PERIOD if mark.fine else _COARSE_PERIOD)
            canvas += _grating(mark, mark.size, mark.size, mark.y, period, 75, side)[..., None]
            continue
        cover = _coverage(mark, side)[..., None]
        if mark.fine:
            canvas += _FINE_AMPLITUDE * cover * _grid(side)[2][..., None]
            continue
        ink = np.array(COLOURS.get(mark.colour, (35, 35, 40)), np.float32)
        canvas += cover * (ink - canvas)
        if mark.kind == "bar":
            canvas += _grating(mark, 28, mark.size, mark.y - mark.size // 2, _FINE_PERIOD, 60, side)[..., None]
    canvas += 2 * np.random.default_rng(noise_seed).standard_normal((side, side, 1), np.float32)
    return Image.fromarray(np.clip(np.round(canvas), 0, 255).astype(np.uint8))


def rms(one: Image.Image, other: Image.Image, box: tuple[int, int, int, int], scale: int = 1) -> float:
    """Root-mean-square difference of two drawings inside a box, in 8-bit levels, where both are shown at 1/`scale` of their
    sides. Where their noise is the same, what remains is what was drawn.

    Args:
        box: left, top, right, bottom in px of the drawings.
    """
    left, top, right, bottom = box
    inside = (left // scale, top // scale, -(-right // scale), -(-bottom // scale))
    smaller = (one.width // scale, one.height // scale)
    shown = [i if scale == 1 else i.resize(smaller, Image.Resampling.LANCZOS) for i in (one, other)]
    a, b = (np.asarray(i.crop(inside), np.float64) for i in shown)
    return float(np.sqrt(np.mean((a - b) ** 2)))
