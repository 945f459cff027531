"""Views of images under a menu before they are rendered: their sizes, their visual tokens, and what is shown first."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from visionthink.errors import OptionError
from visionthink.menu import Edit, Menu
from visionthink.picture import Picture
from visionthink.resolution import PixelBudget, SizeRule, whole_tokens
from visionthink.types import Box, ImageView, Look, Shown, whole


class ViewSize(NamedTuple):
    """Size in px and cost of a view that is not rendered yet."""

    width: int
    height: int
    visual_tokens: int
    level: float
    """The level that was asked for; less if `most_tokens` shrinks the view."""


class ViewSizes:
    """Views of images of known sizes under a menu.

    Args:
        sizes: (width, height) in px of each image, upright.
        budget: of the model's image processor; a provider's size rule will do where there are no regions.
        fixed: for each image the level that it is shown at for good, so that no more of it is on offer, or None; none at all
            where the menu holds for every image.
    """

    def __init__(self, menu: Menu, sizes: Sequence[tuple[int, int]], budget: SizeRule, fixed: Sequence[float | None] = ()):
        self.menu, self.sizes, self.budget = menu, tuple(sizes), budget
        self.fixed = tuple(fixed) or (None,) * len(self.sizes)
        self.image_boxes = tuple(whole(*size) for size in sizes)

    @functools.cached_property
    def full_tokens(self) -> int:
        """Visual tokens of the full views of all images, as the processor keeps them."""
        return sum(self.budget.visual_tokens(*self.menu.ladder.size(1.0, *size, self.budget)) for size in self.sizes)

    @functools.cached_property
    def levels(self) -> tuple[tuple[float, ...], ...]:
        """For each image, the levels that save visual tokens against the next higher one. Where there are regions, the full view
        is compared too, even if it is not on the ladder."""
        return tuple(self._levels(image) for image in range(len(self.sizes)))

    def _levels(self, image: int) -> tuple[float, ...]:
        if (level := self.fixed[image]) is not None:
            return (level,)
        levels, box = self.menu.ladder.levels, self.image_boxes[image]
        kept = [1.0 if self.menu.beyond_levels else levels[-1]]
        for level in reversed(levels):
            if self.view_size(image, box, level).visual_tokens < self.view_size(image, box, kept[0]).visual_tokens:
                kept.insert(0, level)
        return tuple(level for level in kept if level in levels) or tuple(kept)

    @functools.cached_property
    def opening(self) -> tuple[Look, ...]:
        """What the first turn shows: every image at its lowest level."""
        return tuple(
            Look((box,), levels[0], i) for i, (box, levels) in enumerate(zip(self.image_boxes, self.levels, strict=True))
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the menu."""
        levels = self.menu.ladder.levels
        return tuple(
            f"ladder collapsed to {','.join(f'{level:g}' for level in kept)}: a lower level would save no tokens"
            for kept, fixed in zip(self.levels, self.fixed, strict=True)
            if kept != levels and fixed is None
        )

    def view_size(self, image: int, box: Box, level: float) -> ViewSize:
        """The view of a box at a level: its size after one resample, and visual tokens as the processor counts them."""
        menu, budget, size = self.menu, self.budget, self.sizes[image]
        if box == self.image_boxes[image]:
            w, h = menu.ladder.size(level, *size, budget)
            tokens = budget.visual_tokens(w, h)
            if not menu.most_tokens or tokens <= menu.most_tokens:
                return ViewSize(w, h, tokens, level)
            kept = self._pixels.capped(menu.most_tokens)
        else:
            across, down = self._grid(image)
            w, h = whole_tokens(
                box.width * across / size[0] * math.sqrt(level), box.height * down / size[1] * math.sqrt(level), budget.factor
            )
            tokens = budget.visual_tokens(w, h)
            kept = self._pixels.capped(menu.most_tokens) if menu.most_tokens else self._pixels
            kept = kept.at_least(menu.least_tokens)
        w, h = _fitted(w, h, box, kept)
        shown = budget.visual_tokens(w, h)
        return ViewSize(w, h, shown, level * min(1.0, shown / tokens))

    @property
    def _pixels(self) -> PixelBudget:
        if not isinstance(self.budget, PixelBudget):
            raise OptionError("menu: regions and limits of tokens need a model that reads whole tokens, such as Qwen2.5-VL")
        return self.budget

    def _grid(self, image: int) -> tuple[int, int]:
        """(width, height) in px that crops are scaled by: of the whole image as the processor keeps it."""
        width, height = self.menu.ladder.size(1.0, *self.sizes[image], self.budget)
        return self.budget.fit(width, height)

    def tokens(self, looks: Sequence[Look]) -> int:
        """Visual tokens of all views of some looks."""
        return sum(view.visual_tokens for view in self.shown(looks))

    def shown(self, looks: Sequence[Look]) -> tuple[Shown, ...]:
        """What the views of some looks are recorded as."""
        records = []
        for look in looks:
            for box in look.boxes:
                w, h, tokens, level = self.view_size(look.image, box, look.level)
                if look.edit and self._edit(look.edit).turns_sides:
                    w, h = h, w
                records.append(
                    Shown(box=box, level=level, width=w, height=h, visual_tokens=tokens, image=look.image, edit=look.edit)
                )
        return tuple(records)

    def render(self, looks: Sequence[Look], pictures: Sequence[Picture]) -> tuple[ImageView, ...]:
        """The views of some looks, in their order."""
        return tuple(
            pictures[s.image].view(
                s.box,
                s.width,
                s.height,
                level=s.level,
                visual_tokens=s.visual_tokens,
                edit=self._edit(s.edit) if s.edit else None,
            )
            for s in self.shown(looks)
        )

    def _edit(self, name: str) -> Edit:
        return next(edit for edit in self.menu.edits if edit.name == name)


def _fitted(width: int, height: int, box: Box, budget: PixelBudget) -> tuple[int, int]:
    """The size of a view within a budget. Where it has to be another one, it has the shape of the box as nearly as whole tokens
    can have it, and a processor changes nothing about it."""
    f = budget.factor
    if width * height < budget.min_pixels:
        scale = math.sqrt(budget.min_pixels / box.area)
        width, height = (math.ceil(side * scale / f) * f for side in (box.width, box.height))
    if width * height > budget.max_pixels:
        scale = math.sqrt(budget.max_pixels / box.area)
        width, height = (max(f, math.floor(side * scale / f) * f) for side in (box.width, box.height))
        # a strip of one token can still be too long
        width = max(f, min(width, budget.max_pixels // height // f * f))
        height = max(f, min(height, budget.max_pixels // width // f * f))
    return whole_tokens(width, height, f)
