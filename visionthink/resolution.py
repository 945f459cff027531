"""How many visual tokens an image costs, and what it looks like at a level of the ladder.

Knows nothing about models or messages. The low view is a fraction of the *effective* full view, which is what the model's image
processor would keep of the image, so a clamped or tiny image is never charged twice for the same pixels.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from visionthink.errors import ImageError, OptionError

MAX_ASPECT_RATIO = 200
"""The image processors of Qwen refuse anything longer than this."""


def check_size(width: int, height: int) -> None:
    """Refuse what no model can be shown.

    Raises:
        ImageError: an empty image, or sides that differ by more than a factor of 200.
    """
    if min(width, height) < 1:
        raise ImageError(f"an image of {width}x{height} px has no pixels")
    if max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
        raise ImageError(f"an image of {width}x{height} px has an aspect ratio above {MAX_ASPECT_RATIO}")


@dataclass(frozen=True)
class PixelBudget:
    """The part of a Qwen image processor's configuration that decides sizes.

    A visual token covers a square of `factor` px (patch size times merge size). Sizes are rounded to multiples of `factor` and
    scaled so that the area stays within [`min_pixels`, `max_pixels`].
    """

    factor: int = 28
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) in px that the processor makes of an image: whole tokens, within the budget.

        Raises:
            ImageError: the sides differ by more than a factor of 200.
        """
        check_size(width, height)
        f = self.factor
        # round() to even and the order of the operations are those of the processors: counts must agree exactly
        w, h = round(width / f) * f, round(height / f) * f
        if w * h > self.max_pixels:
            shrink = math.sqrt((height * width) / self.max_pixels)
            w, h = max(f, math.floor(width / shrink / f) * f), max(f, math.floor(height / shrink / f) * f)
        elif w * h < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            w, h = math.ceil(width * grow / f) * f, math.ceil(height * grow / f) * f
        return w, h

    def visual_tokens(self, width: int, height: int) -> int:
        """Visual tokens of an image of this size, after the processor's rounding and clamping."""
        w, h = self.fit(width, height)
        return (w // self.factor) * (h // self.factor)

    def at_least(self, visual_tokens: int) -> PixelBudget:
        """The same, with views of at least so many visual tokens."""
        return dataclasses.replace(self, min_pixels=max(self.min_pixels, min(visual_tokens * self.factor**2, self.max_pixels)))

    def capped(self, visual_tokens: int) -> PixelBudget:
        """The same, with views of at most so many visual tokens."""
        most = min(self.max_pixels, visual_tokens * self.factor**2)
        return dataclasses.replace(self, min_pixels=min(self.min_pixels, most), max_pixels=most)


QWEN2_5_VL = PixelBudget(factor=28, min_pixels=56 * 56, max_pixels=28 * 28 * 16384)
"""The budget of the released configurations: 3,136 to 12,845,056 px."""
QWEN3_VL = PixelBudget(factor=32, min_pixels=256 * 256, max_pixels=4096 * 4096)
"""The budget of the released configurations: 65,536 to 16,777,216 px."""


class SizeRule(Protocol):
    """What a ladder needs to know of a model or provider: `PixelBudget`, or a rule of `providers`."""

    @property
    def factor(self) -> int: ...
    def fit(self, width: int, height: int) -> tuple[int, int]: ...
    def visual_tokens(self, width: int, height: int) -> int: ...


Arithmetic = Literal["effective", "released_train", "released_eval", "released_adaptvision"]
ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)


@dataclass(frozen=True)
class ResolutionLadder:
    """The levels of resolution an episode may climb, as shares of the full view's pixels.

    `(0.25, 1)` is VisionThink, `(1,)` full resolution, `(0.25,)` plain down-sampling. `arithmetic` says how the low view
    is computed:
    `effective` from what the processor keeps of the full image (default); `released_eval` and `released_train` as the authors'
    code does (half of width and height by integer division; the latter after clamping the image to [512^2, 2048^2] px and with
    twice the low view as the high one); `released_adaptvision` as AdaptVision's evaluation does (arXiv 2512.03794: half of width
    and height, and each view brought to whole tokens within 2048^2 px by itself).
    """

    levels: tuple[float, ...] = (0.25, 1.0)
    arithmetic: Arithmetic = "effective"

    def __post_init__(self) -> None:
        try:
            if isinstance(self.levels, str):
                raise TypeError
            levels = tuple(float(level) for level in self.levels)
        except (TypeError, ValueError):
            raise OptionError(f"ladder {self.levels!r}: levels are shares of the pixels, in (0, 1]") from None
        if not levels or any(not 0 < level <= 1 for level in levels):
            raise OptionError(f"ladder {self}: levels are shares of the pixels, in (0, 1]")
        if any(a >= b for a, b in itertools.pairwise(levels)):
            raise OptionError(f"ladder {self}: levels must increase")
        if self.arithmetic not in ARITHMETICS:
            raise OptionError(f"ladder arithmetic {self.arithmetic!r}: choose one of {', '.join(ARITHMETICS)}")
        if self.arithmetic != "effective" and any(level not in (0.25, 1.0) for level in levels):
            raise OptionError(f"ladder {self}: {self.arithmetic} knows the levels 0.25 and 1 only")
        object.__setattr__(self, "levels", levels)

    def __str__(self) -> str:
        return ",".join(f"{level:g}" for level in self.levels)

    @classmethod
    def parse(cls, text: str) -> ResolutionLadder:
        """From "0.25,1"; fractions such as "1/4,1" are read too."""
        try:
            levels = tuple(float(a) / float(b or 1) for a, _, b in (part.partition("/") for part in text.split(",")))
        except (ValueError, ZeroDivisionError):
            raise OptionError(f"--ladder {text!r}: expected shares of the pixels such as 0.25,1") from None
        return cls(levels)

    def size(self, level: float, width: int, height: int, budget: SizeRule) -> tuple[int, int]:
        """(width, height) in px of a level: at 1 the image's own, below it whole tokens."""
        if self.arithmetic == "released_adaptvision":
            f = budget.factor
            kept = PixelBudget(f, 4 * f**2, 2048**2)
            return whole_tokens(*kept.fit(*((width, height) if level == 1 else _halved(width, height))), f)
        if self.arithmetic == "released_eval":
            return (width, height) if level == 1 else _halved(width, height)
        if self.arithmetic == "released_train":
            low_width, low_height = _released_train_low(width, height)
            return (2 * low_width, 2 * low_height) if level == 1 else (low_width, low_height)
        if level == 1:
            return width, height
        scale = math.sqrt(level)
        full_width, full_height = budget.fit(width, height)
        return whole_tokens(full_width * scale, full_height * scale, budget.factor)


def whole_tokens(width: float, height: float, factor: int) -> tuple[int, int]:
    """(width, height) in px rounded to visual tokens, at least one, so that a processor has nothing left to resample."""
    w, h = (max(factor, round(side / factor) * factor) for side in (width, height))
    # rounding can push a long image over the limit
    most_w, most_h = (MAX_ASPECT_RATIO * side // factor * factor for side in (h, w))
    return min(w, most_w), min(h, most_h)


def _released_train_low(width: int, height: int, low: int = 512**2, high: int = 2048**2) -> tuple[int, int]:
    for limit, outside in ((high, width * height > high), (low, width * height < low)):
        if outside:
            scale = math.sqrt(limit / (width * height))
            width, height = int(width * scale), int(height * scale)
    return _halved(width, height)


def _halved(width: int, height: int) -> tuple[int, int]:
    w, h = max(1, width // 2), max(1, height // 2)
    return min(w, MAX_ASPECT_RATIO * h), min(h, MAX_ASPECT_RATIO * w)


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from "2048x1024".

    Raises:
        OptionError: not two positive integers.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(re.fullmatch(r"0*[1-9]\d{0,8}", p, re.ASCII) for p in parts):
        raise OptionError(f"--size {text!r}: expected WIDTHxHEIGHT in pixels, such as 2048x1024")
    return int(parts[0]), int(parts[1])
