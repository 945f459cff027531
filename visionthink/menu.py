"""What can be asked for, as values: levels of resolution, regions, and the limits on both.

VisionThink (arXiv 2507.13348) is the ladder (1/4, 1); AwaRes (2603.16932) offers ten fixed crops; AdaptVision (2512.03794),
DeepEyes (2505.14362), Mini-o3 (2509.07969) and Qwen3-VL's zoom any box. What a menu means for
images of given sizes is an `action_space.ActionSpace`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from visionthink.errors import OptionError, choose_from
from visionthink.geometry import cells, ten_crops
from visionthink.resolution import ResolutionLadder
from visionthink.types import Asked, Box


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Parts of an image that can be asked for: by id (`ten` crops, a `grid` of cells), `free` boxes, or none."""

    kind: Literal["none", "ten", "grid", "free"] = "none"
    least_side: int = 0
    """Smallest side of the ten crops, in px."""
    rows: int = 0
    columns: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("none", "ten", "grid", "free"):
            raise OptionError(f"regions {self.kind!r}: choose one of none, ten, grid, free")
        if self.kind == "grid" and min(self.rows, self.columns) < 1:
            raise OptionError("regions grid: rows and columns must be at least 1")
        if min(self.least_side, self.rows, self.columns) < 0:
            raise OptionError("regions: least_side, rows and columns must not be negative")

    def boxes(self, width: int, height: int) -> dict[str, Box]:
        """Boxes by id; empty where any box, or none, can be asked for."""
        if self.kind == "ten":
            return ten_crops(width, height, self.least_side)
        return cells(width, height, self.rows, self.columns) if self.kind == "grid" else {}


@dataclass(frozen=True)
class Edit:
    """An operation on the pixels of a whole image that can be asked for, such as a rotation or more contrast."""

    name: str
    apply: Callable[[Image.Image], Image.Image]
    turns_sides: bool = False
    """Whether width and height change places."""


FREE = Regions(kind="free")
_QUARTER, _FULL = ResolutionLadder((1 / 4,)), ResolutionLadder((1.0,))


@dataclass(frozen=True, kw_only=True)
class Menu:
    """The first view, what can be asked for after it, and how much of it."""

    ladder: ResolutionLadder = field(default_factory=ResolutionLadder)
    """Levels of whole images; the lowest one is shown first."""
    regions: Regions = field(default_factory=Regions)
    edits: tuple[Edit, ...] = ()
    """Operations on the pixels of a whole image."""
    crop_level: float = 1.0
    """Share of the full view's pixel density at which regions and edited images are shown."""
    least_tokens: int = 0
    """Smaller crops are enlarged to so many visual tokens."""
    most_tokens: int = 0
    """Larger views are shrunk to so many visual tokens; 0: the processor's own limit."""
    max_turns: int | None = None
    """None: as many as an image has levels, and one more where there are regions or edits."""
    max_views: int | None = None
    """The most views of an episode, those of the first turn included; None: no limit."""
    allowance: float | None = None
    """Visual tokens that an episode may spend in all, relative to the full views."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_level <= 1:
            raise OptionError(f"menu: crop_level {self.crop_level}: must be above 0 and at most 1")
        for name in ("max_turns", "max_views"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise OptionError(f"menu: {name} {value}: must be at least 1")
        if self.allowance is not None and not 0 < self.allowance < math.inf:
            raise OptionError(f"menu: allowance {self.allowance}: must be a number above 0")
        if min(self.least_tokens, self.most_tokens) < 0 or 0 < self.most_tokens < self.least_tokens:
            found = f"least_tokens {self.least_tokens}, most_tokens {self.most_tokens}"
            raise OptionError(f"menu: {found}: the least must not exceed the most, and neither may be negative")

    @property
    def asks(self) -> frozenset[Asked]:
        """Kinds of what may be on offer."""
        kinds: dict[Asked, bool] = {
            "level": len(self.ladder.levels) > 1,
            "region": self.regions.kind in ("ten", "grid"),
            "box": self.regions.kind == "free",
            "edit": bool(self.edits),
        }
        return frozenset(kind for kind, there in kinds.items() if there)

    @property
    def beyond_levels(self) -> bool:
        """Whether more than levels of whole images may be on offer."""
        return bool(self.asks - {"level"})

    @property
    def has_regions(self) -> bool:
        """Whether parts of an image may be on offer."""
        return self.regions.kind != "none"

    @property
    def most_turns(self) -> int:
        """The most turns that an episode may take."""
        return self.turns_for(len(self.ladder.levels))

    def turns_for(self, levels: int) -> int:
        """The most turns of an episode whose images have so many levels."""
        return self.max_turns or levels + self.beyond_levels

    def full(self) -> Menu:
        """Every image at the top level, and nothing to ask for."""
        return self.fixed_level(1.0 if self.beyond_levels else self.ladder.levels[-1])

    def low(self) -> Menu:
        """Every image at the bottom level, and nothing to ask for."""
        return self.fixed_level(self.ladder.levels[0])

    def fixed_level(self, level: float) -> Menu:
        """Every image at one level, and nothing to ask for."""
        ladder = dataclasses.replace(self.ladder, levels=(level,))
        return Menu(ladder=ladder, most_tokens=self.most_tokens)

    def with_levels(self, levels: Sequence[float] | str) -> Menu:
        """The same with other levels of whole images, which may be text such as "1/4,1"; their arithmetic stays."""
        if isinstance(levels, str):
            levels = ResolutionLadder.parse(levels).levels
        return dataclasses.replace(self, ladder=dataclasses.replace(self.ladder, levels=tuple(levels)))

    def unlimited(self) -> Menu:
        """The same without stated limits of turns, views and visual tokens."""
        turns = None if self.max_turns is None else sys.maxsize
        return dataclasses.replace(self, max_turns=turns, max_views=None, allowance=None)


NAMED: dict[str, tuple[Menu, str | None]] = {
    "visionthink": (Menu(), None),
    "visionthink-released-eval": (Menu(ladder=ResolutionLadder(arithmetic="released_eval")), None),
    "visionthink-released-train": (Menu(ladder=ResolutionLadder(arithmetic="released_train")), None),
    "ladder": (Menu(ladder=ResolutionLadder((1 / 16, 1 / 4, 1.0))), None),
    "levels": (Menu(ladder=ResolutionLadder((1 / 16, 1 / 4, 1.0))), "levels"),
    "awares": (Menu(ladder=_QUARTER, regions=Regions(kind="ten", least_side=100), max_turns=2), "awares"),
    "awares-released": (
        Menu(
            ladder=ResolutionLadder((1 / 4,), "released_eval"),
            regions=Regions(kind="ten", least_side=100),
            max_turns=2,
        ),
        "awares_released",
    ),
    "adaptvision": (Menu(ladder=_QUARTER, regions=FREE, least_tokens=4, max_turns=2), "adaptvision"),
    "adaptvision-released": (
        Menu(
            ladder=ResolutionLadder((1 / 4,), "released_adaptvision"),
            regions=FREE,
            least_tokens=4,
            max_turns=2,
        ),
        "adaptvision",
    ),
    "deepeyes": (Menu(ladder=_FULL, regions=FREE, max_turns=5, max_views=32), "deepeyes"),
    "deepeyes-v5": (Menu(ladder=_FULL, regions=FREE, max_turns=5, max_views=32), "deepeyes_v5"),
    # views of 40,000 to 2,000,000 px, in visual tokens of 28 px
    "minio3": (Menu(ladder=_FULL, regions=FREE, least_tokens=51, most_tokens=2551, max_turns=6, max_views=12), "minio3"),
    "qwen3": (Menu(ladder=_FULL, regions=FREE, least_tokens=256, max_turns=20), "qwen3"),
    "ten": (Menu(ladder=_QUARTER, regions=Regions(kind="ten"), max_turns=2), "compact_ids"),
    "grid": (Menu(ladder=_QUARTER, regions=Regions(kind="grid", rows=4, columns=4), max_turns=2), "compact_ids"),
    "cells": (Menu(ladder=_QUARTER, regions=FREE, max_turns=2), "compact_cells"),
}
"""Menus by name, each with the dialect that its released checkpoints speak; None: that of the model."""


def named_menu(name: str) -> tuple[Menu, str | None]:
    """A menu by its name, and the dialect that comes with it.

    Raises:
        OptionError: there is no menu of this name.
    """
    if name not in NAMED:
        raise OptionError(f"--menu {name!r}: {choose_from(name, NAMED)}")
    return NAMED[name]


def menu_for(dialect: str) -> Menu:
    """The menu that a dialect belongs to: of the named ones the first that comes with it, else VisionThink's."""
    return next((menu for menu, spoken in NAMED.values() if spoken == dialect), Menu())
