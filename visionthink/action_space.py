"""A menu over the images of one example: what is shown first, what is on offer, and what a call leads to.

The only place that turns what a model said into views. It is arithmetic on sizes: a picture is needed only to render what was
resolved.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from visionthink.errors import OptionError
from visionthink.geometry import from_box, to_box, usable
from visionthink.types import Asked, Box, Call, CallError, Frame, Look, Shown, Unit
from visionthink.view_sizes import ViewSizes

INSTEAD = "a crop that costs as much as the whole image: the whole image is shown"
SAME = 0.99
"""Densities count as equal from this ratio on."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Something that can be asked for now.

    Where any box can be asked for, there is one offer without looks, and `visual_tokens` is the least that a box costs.
    """

    name: str
    looks: tuple[Look, ...]
    visual_tokens: int
    level: float | None = None
    """The level that is asked for, where it is one of whole images; an image that lacks it is shown its next higher one."""

    @property
    def any_box(self) -> bool:
        return not self.looks

    @property
    def views(self) -> int:
        """How many views it leads to."""
        return 1 if self.any_box else sum(len(look.boxes) for look in self.looks)


class Resolved(NamedTuple):
    """What a request leads to, and what was made of it where that is not what was said."""

    looks: tuple[Look, ...]
    note: str | None = None


class ActionSpace(ViewSizes):
    """A menu over images of known sizes: what is on offer, and what a request leads to."""

    def offers(self, shown: Sequence[Shown] = (), *, turns: int = 0) -> tuple[Offer, ...]:
        """What can be asked for in the next turn: affordable, and not dominated.

        An offer is dominated where another one shows at least as much of the same images, at no less density, for no more tokens.

        Args:
            shown: views so far; none: those of the opening.
            turns: how many the model has taken.
        """
        shown = shown or self.shown(self.opening)
        if not self.turn_left(turns):
            return ()
        named = (*self._level_offers(shown), *self._by_id(shown), *self._edited(shown))
        found = {offer.looks: offer for offer in named}.values()
        kept = [offer for offer in found if not any(_dominates(other, offer) for other in found if other is not offer)]
        kept += self._any_box()
        return tuple(offer for offer in kept if self._affordable(offer.visual_tokens, offer.views, shown))

    @property
    def largest_request(self) -> tuple[Shown, ...]:
        """The views of most visual tokens that one request can lead to: all regions that have an id, or the full view of every
        image. Where any box can be asked for, this holds for requests of one box."""
        by_id = self._by_id(self.shown(self.opening))
        regions = {look: None for offer in by_id for look in offer.looks if look.boxes != (self.image_boxes[look.image],)}
        full = [Look((box,), 1.0, i) for i, box in enumerate(self.image_boxes)]
        return self.shown(max(list(regions), full, key=self.tokens))

    def is_limited(self, shown: Sequence[Shown], *, turns: int) -> bool:
        """Whether more would be on offer without the menu's stated limits."""
        return bool(ActionSpace(self.menu.unlimited(), self.sizes, self.budget, self.fixed).offers(shown, turns=turns))

    def turn_left(self, turns: int) -> bool:
        """Whether another turn may follow the one that is taken now."""
        return turns + 1 < self.menu.turns_for(max(map(len, self.levels)))

    def _affordable(self, tokens: int, views: int, shown: Sequence[Shown]) -> bool:
        menu = self.menu
        if menu.max_views is not None and len(shown) + views > menu.max_views:
            return False
        spent = sum(view.visual_tokens for view in shown)
        return menu.allowance is None or spent + tokens <= menu.allowance * self.full_tokens

    def _level_offers(self, shown: Sequence[Shown]) -> list[Offer]:
        """Every higher level that an image has, of all images that have it or a higher one."""
        above = [self._above(i, shown) for i in range(len(self.sizes))]
        offers = []
        for level in sorted({level for levels in above for level in levels}):
            looks = tuple(
                Look((self.image_boxes[i],), min(higher), i)
                for i, levels in enumerate(above)
                if (higher := [own for own in levels if own >= level])
            )
            offers.append(Offer(name=f"{level:g}", looks=looks, visual_tokens=self.tokens(looks), level=level))
        return offers

    def _above(self, image: int, shown: Sequence[Shown]) -> list[float]:
        """Levels of a whole image above those that were shown."""
        seen = max((v.level for v in shown if v.image == image and v.box == self.image_boxes[image] and not v.edit), default=0.0)
        whole_image = self.image_boxes[image]
        return [level for level in self.levels[image] if self.view_size(image, whole_image, level).level > seen]

    def _by_id(self, shown: Sequence[Shown]) -> list[Offer]:
        offers = []
        for i, size in enumerate(self.sizes):
            for name, box in self.menu.regions.boxes(*size).items() if self.fixed[i] is None else ():
                found = self._look(box, i, shown)
                if isinstance(found, Resolved):
                    offers.append(self._offer(name, i, found.looks))
        return offers

    def _edited(self, shown: Sequence[Shown]) -> list[Offer]:
        """Every edit of every image that was not shown yet."""
        known = {(view.image, view.edit) for view in shown}
        offers = []
        for i, box in enumerate(self.image_boxes):
            for edit in self.menu.edits:
                looks = (Look((box,), self.menu.crop_level, i, edit=edit.name),)
                if (i, edit.name) not in known and self.fixed[i] is None:
                    offers.append(self._offer(edit.name, i, looks))
        return offers

    def _offer(self, name: str, image: int, looks: tuple[Look, ...]) -> Offer:
        """Named after its image too, where there are several."""
        named = name if len(self.sizes) == 1 else f"{image}:{name}"
        return Offer(name=named, looks=looks, visual_tokens=self.tokens(looks))

    def _any_box(self) -> list[Offer]:
        """That any box can be asked for, where one can cost less than the whole image."""
        if self.menu.regions.kind != "free":
            return []
        least = max(self.menu.least_tokens, -(-self._pixels.min_pixels // self.budget.factor**2))
        wholes = [
            self.view_size(i, box, self.menu.crop_level).visual_tokens
            for i, box in enumerate(self.image_boxes)
            if self.fixed[i] is None
        ]
        return [Offer(name="box", looks=(), visual_tokens=least)] if least < max(wholes, default=0) else []

    # ------------------------------------------------------------------------------------------------ requests

    def resolve(self, calls: Sequence[Call], shown: Sequence[Shown], *, turns: int = 0) -> Resolved | CallError:
        """What the calls of one turn lead to, or why they cannot be followed. Never an exception.

        Crops are cut from the original and brought to whole tokens at the density of the menu; one that would cost as much as the
        whole image becomes the whole image.
        """
        shown = shown or self.shown(self.opening)
        offers = self.offers(shown, turns=turns)
        if not offers:
            return CallError.NOT_ON_OFFER
        looks, notes = list[Look](), list[str]()
        for call in calls:
            found = self._resolve(call, offers, shown)
            if isinstance(found, CallError):
                return found
            looks += found.looks
            notes += [found.note] if found.note else []
        if any(self.fixed[look.image] is not None for look in looks):
            return CallError.NOT_ON_OFFER
        merged = _merged(looks)
        if not self._affordable(self.tokens(merged), len(self.shown(merged)), shown):
            return CallError.NOT_ON_OFFER
        return Resolved(merged, notes[0] if notes else None)

    def _resolve(self, call: Call, offers: Sequence[Offer], shown: Sequence[Shown]) -> Resolved | CallError:
        if call.box is not None:
            return self._free(call, shown)
        if call.regions:
            return self._named(call, shown)
        if call.edit:
            return self._edit_of(call, shown)
        levels = [offer for offer in offers if offer.level is not None]
        if call.level is not None:
            levels = [offer for offer in levels if math.isclose(offer.level or 0.0, call.level, rel_tol=1e-3)]
        return Resolved(levels[0].looks) if levels else CallError.NOT_ON_OFFER

    def _is_level(self, look: Look) -> bool:
        return not look.edit and look.boxes == (self.image_boxes[look.image],) and look.level in self.levels[look.image]

    def _named(self, call: Call, shown: Sequence[Shown]) -> Resolved | CallError:
        image = call.source or 0
        if not 0 <= image < len(self.sizes):
            return CallError.UNKNOWN_VIEW
        by_id = self.menu.regions.boxes(*self.sizes[image])
        if any(name not in by_id for name in call.regions):
            return CallError.UNKNOWN_REGION
        found = [self._look(by_id[name], image, shown) for name in (["all"] if "all" in call.regions else call.regions)]
        if errors := [f for f in found if isinstance(f, CallError)]:
            return errors[0]
        resolved = [f for f in found if isinstance(f, Resolved)]
        looks = tuple(look for r in resolved for look in r.looks)
        return Resolved(looks, next((r.note for r in resolved if r.note), None))

    def _edit_of(self, call: Call, shown: Sequence[Shown]) -> Resolved | CallError:
        image = call.source or 0
        if not 0 <= image < len(self.sizes):
            return CallError.UNKNOWN_VIEW
        if all(edit.name != call.edit for edit in self.menu.edits):
            return CallError.UNKNOWN_EDIT
        if any((view.image, view.edit) == (image, call.edit) for view in shown):
            return CallError.NOT_ON_OFFER
        return Resolved((Look((self.image_boxes[image],), self.menu.crop_level, image, edit=call.edit),))

    def _free(self, call: Call, shown: Sequence[Shown]) -> Resolved | CallError:
        if self.menu.regions.kind != "free" or call.box is None:
            return CallError.NOT_ON_OFFER
        index = call.source or 0
        if not 0 <= index < (len(shown) if call.frame == "named" else len(self.sizes)):
            return CallError.UNKNOWN_VIEW
        view = shown[index] if call.frame == "named" else next(v for v in shown if v.image == index)
        if view.edit:  # its coordinates are no longer those of the image
            return CallError.UNKNOWN_VIEW
        frame = view.box if call.frame == "named" else self.image_boxes[view.image]
        box = to_box(call.box, frame, self._units(call.unit, call.frame, view, frame))
        if box is None:
            return CallError.EMPTY_BOX
        fitting = usable(box, self.budget.factor, *self.sizes[view.image])
        return fitting if isinstance(fitting, CallError) else self._look(fitting, view.image, shown)

    def _units(self, unit: Unit, frame: Frame, view: Shown, box: Box) -> tuple[Fraction, Fraction]:
        """Px of the original per unit of coordinates that were read off a view and refer to a box, along x and y."""
        width, height = self.sizes[view.image]
        if unit == "cell":
            across, down = (side // self.budget.factor for side in self._grid(view.image))
        elif unit == "px" and frame == "original":
            across, down = width, height
        elif unit == "px" and self.menu.ladder.arithmetic == "released_adaptvision":
            # coordinates of the low view, doubled, are taken for those of a full view that was sized by itself
            full = self.menu.ladder.size(1.0, width, height, self.budget)
            return Fraction(2 * width, full[0]), Fraction(2 * height, full[1])
        else:
            # px are those of the view as the processor keeps it, which is what the model sees
            seen = self.budget.fit(view.width, view.height)
            across, down = {"px": seen, "permille": (1000, 1000), "fraction": (1, 1)}[unit]
        return Fraction(box.width, across), Fraction(box.height, down)

    def _look(self, box: Box, image: int, shown: Sequence[Shown]) -> Resolved | CallError:
        """A look at a box; at the whole image where that costs no more and shows no less, unless it was shown already."""
        level, note = self.menu.crop_level, None
        full = self.view_size(image, self.image_boxes[image], level)
        if box != self.image_boxes[image]:
            crop = self.view_size(image, box, level)
            if crop.visual_tokens >= full.visual_tokens and full.level >= SAME * crop.level:
                box, note = self.image_boxes[image], INSTEAD
        known = (v for v in shown if v.image == image and v.box == box and not v.edit)
        if box == self.image_boxes[image] and any(v.level >= SAME * full.level for v in known):
            return CallError.NOT_ON_OFFER
        return Resolved((Look((box,), level, image),), note)

    def call(self, look: Look, unit: Unit, frame: Frame, asks: frozenset[Asked]) -> Call:
        """How a dialect asks for a look, in the first turn: the call that `resolve` turns into it, or into a box around it.

        Args:
            asks: kinds of what the dialect can ask for.

        Raises:
            OptionError: there is no such call.
        """
        regions, image = self.menu.regions, look.image
        if look.edit and "edit" in asks:
            return Call(edit=look.edit, source=image or None)
        by_id = {box: name for name, box in regions.boxes(*self.sizes[image]).items()}
        if "region" in asks and by_id and all(box in by_id for box in look.boxes):
            return Call(regions=tuple(by_id[box] for box in look.boxes), source=image or None)
        if "level" in asks and self._is_level(look):
            return Call(level=look.level)
        if "box" not in asks or regions.kind != "free" or len(look.boxes) != 1 or look.edit:
            raise OptionError(f"menu: no call leads to {look}")
        view = self.shown(self.opening)[image]
        units = self._units(unit, frame, view, self.image_boxes[image])
        said = from_box(look.boxes[0], self.image_boxes[image], units, 4 if unit == "fraction" else 0)
        return Call(box=said, source=image, unit=unit, frame=frame)


def _dominates(one: Offer, other: Offer) -> bool:
    """Whether `one` shows at least as much at no less density for no more tokens."""
    return one.visual_tokens <= other.visual_tokens and all(_covers(one.looks, look) for look in other.looks)


def _covers(looks: Sequence[Look], wanted: Look) -> bool:
    alike = (look for look in looks if (look.image, look.edit) == (wanted.image, wanted.edit) and look.level >= wanted.level)
    boxes = [box for look in alike for box in look.boxes]
    return all(
        any(box.within(b) == box for b in boxes) or (len(boxes) > 1 and box.covered_by(boxes) >= 1) for box in wanted.boxes
    )


def _merged(looks: Sequence[Look]) -> tuple[Look, ...]:
    """Each box once, in the order of asking; neighbours of the same image and level are one look."""
    views = dict.fromkeys((look.level, look.image, look.edit, box) for look in looks for box in look.boxes)
    runs = itertools.groupby(views, key=lambda view: view[:3])
    return tuple(Look(tuple(box for *_, box in run), level, image, edit=edit) for (level, image, edit), run in runs)
