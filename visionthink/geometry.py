"""Coordinates as models say them, to boxes in px of the upright original, and back.

Decimals are taken as they were said (`fractions.Fraction`): 0.7 of 10 px is 7 px, where binary floating point would give 8.
"""

from __future__ import annotations

import math
from fractions import Fraction

from visionthink.resolution import MAX_ASPECT_RATIO
from visionthink.types import Box, CallError, whole

Coordinates = tuple[float, float, float, float]


def to_box(said: Coordinates, frame: Box, units: tuple[Fraction, Fraction]) -> Box | None:
    """The smallest box of whole px around coordinates that refer to `frame`, clamped to it; None where nothing is left.

    Args:
        units: px of the original per unit of the coordinates, along x and y.

    Example: px (418, 189, 440, 214) of a 728x476 view of a whole 1448x938 image are (831, 372, 876, 422).
    """
    x1, y1, x2, y2 = (Fraction(repr(value)) if isinstance(value, float) else Fraction(value) for value in said)
    if x2 <= x1 or y2 <= y1:
        return None
    (across, down), (left, top) = units, frame[:2]
    box = Box(
        math.floor(left + x1 * across),
        math.floor(top + y1 * down),
        math.ceil(left + x2 * across),
        math.ceil(top + y2 * down),
    ).within(frame)
    return box if box.width > 0 and box.height > 0 else None


def from_box(box: Box, frame: Box, units: tuple[Fraction, Fraction], digits: int = 0) -> Coordinates:
    """Coordinates of at most `digits` decimals around a box; `to_box` of them covers it."""
    (across, down), scale = units, 10**digits
    ends = (
        math.floor((box.left - frame.left) / across * scale),
        math.floor((box.top - frame.top) / down * scale),
        math.ceil((box.right - frame.left) / across * scale),
        math.ceil((box.bottom - frame.top) / down * scale),
    )
    x1, y1, x2, y2 = (end / scale if digits else end for end in ends)
    return x1, y1, x2, y2


def grown(box: Box, least: int, width: int, height: int) -> Box:
    """Sides of at least `least` px, about the centre, shifted at the borders of an image of this size.

    Example: (1440, 930, 1448, 938) of a 1448x938 image grows to (1420, 910, 1448, 938) for 28 px.
    """
    left, right = _grown(box.left, box.right, least, width)
    top, bottom = _grown(box.top, box.bottom, least, height)
    return Box(left, top, right, bottom)


def _grown(low: int, high: int, least: int, most: int) -> tuple[int, int]:
    length = min(max(high - low, least), most)
    start = min(max(0, low - (length - (high - low)) // 2), most - length)
    return start, start + length


def usable(box: Box, least: int, width: int, height: int) -> Box | CallError:
    """The box grown to `least` px; TOO_LONG where its sides then differ by more than any model reads."""
    box = grown(box, least, width, height)
    ratio = max(box.width, box.height) / min(box.width, box.height)
    return CallError.TOO_LONG if ratio > MAX_ASPECT_RATIO else box


def ten_crops(width: int, height: int, least: int) -> dict[str, Box]:
    """AwaRes' crops by id (arXiv 2603.16932): four quadrants, the centre, four halves, all. Sides of at least `least` px; all are
    the whole image where a side of it is shorter."""
    w, h = (max(1, least, side // 2) for side in (width, height))
    if w > width or h > height:
        w, h = width, height
    left, top = (width - w) // 2, (height - h) // 2
    return {
        "0": Box(0, 0, w, h),
        "1": Box(width - w, 0, width, h),
        "2": Box(0, height - h, w, height),
        "3": Box(width - w, height - h, width, height),
        "4": Box(left, top, left + w, top + h),
        "5": Box(0, 0, width, h),
        "6": Box(0, height - h, width, height),
        "7": Box(0, 0, w, height),
        "8": Box(width - w, 0, width, height),
        "all": whole(width, height),
    }


def cells(width: int, height: int, rows: int, columns: int) -> dict[str, Box]:
    """The cells of a grid by their number, row by row, and all of it."""
    xs, ys = ([side * i // n for i in range(n + 1)] for side, n in ((width, columns), (height, rows)))
    found = {
        str(row * columns + column): Box(xs[column], ys[row], xs[column + 1], ys[row + 1])
        for row in range(rows)
        for column in range(columns)
    }
    return {name: box for name, box in found.items() if box.area} | {"all": whole(width, height)}
