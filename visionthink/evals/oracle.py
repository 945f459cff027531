"""What a perfect decision would ask for: the cheapest requests that show all that an answer depends on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from visionthink.action_space import ActionSpace
from visionthink.errors import OptionError
from visionthink.geometry import grown
from visionthink.protocol import Protocol
from visionthink.transcript import COVERED, FULL_DENSITY
from visionthink.types import Box, Call, Example, Look, Shown

MOST_LOOKS = 3
"""Views that are tried together."""


def script(example: Example, space: ActionSpace, protocol: Protocol) -> tuple[str | None, ...]:
    """What is said in each of the first turns: texts of requests, or None for an answer without one.

    Where only whole images are on offer, a hard example is shown the next level. Where regions are, the evidence decides: of all
    sets of up to three views that cover it, the one with the fewest visual tokens.

    Raises:
        OptionError: regions are on offer, and what a hard example depends on is not known.
    """
    if example.need == "easy" or not space.offers():
        return (None,)
    if not space.menu.has_regions:
        return (protocol.request(),)
    if not example.evidence:
        raise OptionError(f"--policy oracle: the evidence of example {example.id} is not known")
    if _suffices(example, space.shown(space.opening)):
        return (None,)
    chosen = min(_enough(example, space, protocol), key=lambda looks: (space.tokens(looks), len(looks)), default=None)
    if chosen is None:
        raise OptionError(f"--policy oracle: the menu cannot show what example {example.id} depends on")
    unit, frame = protocol.coordinates
    calls = [space.call(look, unit, frame) for look in chosen]
    if protocol.lists_regions and all(call.regions for call in calls):
        return (protocol.request(Call(regions=tuple(name for call in calls for name in call.regions))),)
    return tuple(protocol.request(call) for call in calls)


def _enough(example: Example, space: ActionSpace, protocol: Protocol) -> Iterator[tuple[Look, ...]]:
    """Sets of looks, one box each, that cover the evidence and can be asked for."""
    opening = space.shown(space.opening)
    candidates = [look for offer in space.offers() for look in offer.looks]
    if space.menu.regions.kind == "free":
        candidates += _boxes(example, space)
    several = protocol.lists_regions and space.menu.regions.kind != "free"
    most = MOST_LOOKS if several else min(MOST_LOOKS, space.menu.most_turns - 1)
    for n in range(1, most + 1):
        for looks in itertools.combinations(candidates, n):
            if _suffices(example, (*opening, *space.shown(looks))):
                yield looks


def _boxes(example: Example, space: ActionSpace) -> list[Look]:
    """The smallest boxes around each piece of evidence, and around all of it, as a dialect's coordinates round them."""
    boxes = [box for box, _ in example.evidence]
    left, top, right, bottom = zip(*boxes, strict=True)
    around = [*boxes, Box(min(left), min(top), max(right), max(bottom))]
    return [Look((grown(box, space.budget.factor, *space.sizes[0]),), space.menu.crop_level) for box in dict.fromkeys(around)]


def _suffices(example: Example, views: Sequence[Shown]) -> bool:
    def seen(level: float) -> list[Box]:
        return [view.box for view in views if view.image == 0 and view.level >= min(level, FULL_DENSITY)]

    return all(box.covered_by(seen(level)) >= COVERED for box, level in example.evidence)
