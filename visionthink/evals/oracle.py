"""What a perfect decision would ask for: the cheapest requests that show all that an answer depends on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

from visionthink.action_space import ActionSpace
from visionthink.errors import OptionError
from visionthink.geometry import grown
from visionthink.protocol import Protocol
from visionthink.transcript import covers
from visionthink.types import Box, Call, CallError, Evidence, Example, Look

MOST_LOOKS = 3
"""Views that are tried together."""


Knows = Literal["evidence", "knowable"]
"""What a perfect decision is told: the places of all evidence, or of that which a reader can know where to look for."""


def script(example: Example, space: ActionSpace, protocol: Protocol, knows: Knows = "evidence") -> tuple[str | None, ...]:
    """What is said in each of the first turns: texts of requests, or None for an answer without one.

    Where only levels of whole images are on offer, the model is shown the lowest that suffices, by the evidence or, where that is
    not known, by the need. Where regions are on offer, the evidence decides: of all sets of up to three views that cover it, the
    one with the fewest visual tokens. Where the menu cannot show all of it, asking would be in vain, and the example is answered
    from the first view.

    Where only what is `knowable` is used, evidence whose place nothing tells (`metadata["where"]` is "hidden") needs all of the
    image, and evidence of which each box tells the next (`metadata["sequential"]`) is looked for one box a turn; where the turns
    do not suffice for that, it needs all of the image, too.

    Raises:
        OptionError: neither levels nor regions are on offer; or regions are, and what a hard example depends on is not known.
    """
    opening = space.shown(space.opening)
    evidence = example.evidence or _of_need(example, space)
    if covers(opening, evidence) or not space.offers():
        return (None,)
    if not space.menu.has_regions:
        return _levels(evidence, space, protocol)
    if not example.evidence:
        raise OptionError(f"--policy oracle: the evidence of example {example.id} is not known")
    sequential, hidden = example.metadata.get("sequential"), example.metadata.get("where") == "hidden"
    if knows == "evidence" or not (sequential or hidden):
        calls = _cheapest(evidence, space, protocol)
    else:
        everything = ((space.image_boxes[0], max(level for _, level in evidence)),)
        in_turn = _one_by_one(evidence, space, protocol) if sequential else None
        calls = in_turn or _cheapest(everything, space, protocol)
    return tuple(map(protocol.request, calls)) if calls else (None,)


def _of_need(example: Example, space: ActionSpace) -> Evidence:
    """What the need says of the first image: a quarter of its pixels suffices, or all are needed."""
    return ((space.image_boxes[0], 0.25 if example.need == "easy" else 1.0),)


def _levels(evidence: Evidence, space: ActionSpace, protocol: Protocol) -> tuple[str | None, ...]:
    """Requests for the lowest level that suffices: by name, or level after level."""
    if "level" not in protocol.asks:
        raise OptionError(f"--policy oracle: the dialect {protocol.dialect} asks for no level, and no region is on offer")
    offers = [offer for offer in space.offers() if offer.level is not None]
    enough = [offer for offer in offers if covers(space.shown(offer.looks), evidence)]
    wanted = enough[0] if enough else offers[-1]
    if protocol.names_levels:
        return (protocol.request(Call(level=wanted.level)),)
    return tuple(protocol.request() for _ in range(offers.index(wanted) + 1))


def _cheapest(evidence: Evidence, space: ActionSpace, protocol: Protocol) -> list[Call]:
    """Calls that together show the evidence for the fewest visual tokens; none where the menu cannot."""
    enough = _enough(evidence, space, protocol)
    return _calls(min(enough, key=lambda looks: (space.tokens(looks), len(looks)), default=()), space, protocol)


def _one_by_one(evidence: Evidence, space: ActionSpace, protocol: Protocol) -> list[Call] | None:
    """For each box in turn the cheapest calls that show it, unless an earlier one did; None where the limits do not allow it."""
    shown, calls = space.shown(space.opening), list[Call]()
    for piece in evidence:
        if covers(shown, (piece,)):
            continue
        for call in _cheapest((piece,), space, protocol):
            resolved = space.resolve([call], shown, turns=len(calls))
            if isinstance(resolved, CallError):
                return None
            shown = (*shown, *space.shown(resolved.looks))
            calls.append(call)
    return calls if covers(shown, evidence) else None


def _enough(evidence: Evidence, space: ActionSpace, protocol: Protocol) -> Iterator[tuple[Look, ...]]:
    """Sets of looks, one box each, that cover the evidence and can be asked for within the limits of the menu."""
    opening = space.shown(space.opening)
    candidates = [look for offer in space.offers() for look in offer.looks]
    if space.menu.regions.kind == "free":
        candidates += _boxes(evidence, space)
    for n in range(1, MOST_LOOKS + 1):
        for looks in itertools.combinations(candidates, n):
            shown = space.shown(looks)
            if covers((*opening, *shown), evidence) and _can_ask(_calls(looks, space, protocol), space):
                yield looks


def _calls(looks: Sequence[Look], space: ActionSpace, protocol: Protocol) -> list[Call]:
    """One call for each turn: all regions in one, where the dialect can list them."""
    calls = [space.call(look, *protocol.coordinates, protocol.asks) for look in looks]
    if calls and protocol.lists_regions and all(call.regions for call in calls):
        return [Call(regions=tuple(name for call in calls for name in call.regions))]
    return calls


def _can_ask(calls: Sequence[Call], space: ActionSpace) -> bool:
    """Whether each call, in a turn of its own, can be followed after those before it."""
    shown = space.shown(space.opening)
    for turn, call in enumerate(calls):
        resolved = space.resolve([call], shown, turns=turn)
        if isinstance(resolved, CallError):
            return False
        shown = (*shown, *space.shown(resolved.looks))
    return True


def _boxes(evidence: Evidence, space: ActionSpace) -> list[Look]:
    """The smallest boxes around each piece of evidence, and around all of it, as a dialect's coordinates round them."""
    boxes = [box for box, _ in evidence]
    left, top, right, bottom = zip(*boxes, strict=True)
    around = [*boxes, Box(min(left), min(top), max(right), max(bottom))]
    return [Look((grown(box, space.budget.factor, *space.sizes[0]),), space.menu.crop_level) for box in dict.fromkeys(around)]
