"""What forced members of a group are made to do, and in which words.

direct    answer from the first view
request   ask for the next level
whole     look at all of the first image
evidence  make the one request that shows most of what the answer depends on, of those the cheapest; the whole image where
          that is not known
a region  look at the region of this id
"""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.action_space import ActionSpace
from visionthink.episode import Episode
from visionthink.errors import OptionError
from visionthink.geometry import grown
from visionthink.menu import Menu
from visionthink.protocol import Protocol
from visionthink.types import Box, Call, CallError, Evidence, Look


def parse_actions(text: str, menu: Menu) -> tuple[str, ...]:
    """ "direct,evidence,whole" to its parts.

    Raises:
        OptionError: there is no such action on this menu, or only one.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    regions = tuple(menu.regions.boxes(1000, 1000))
    wholly = menu.regions.kind == "free" or "all" in regions
    known = ["direct", *(["request"] if not menu.beyond_levels else [])]
    known += [*(["whole"] if wholly else []), *(["evidence"] if menu.has_regions else []), *regions]
    for name in names:
        if name not in known:
            raise OptionError(f"forced_actions {name!r}: what can be asked for here is {', '.join(known)}")
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise OptionError(f"forced_actions {text!r}: name at least two different ones, as direct,{known[1]}")
    return names


def words(action: str, episode: Episode) -> str:
    """The request by which an episode takes an action other than `direct`."""
    protocol, space = episode.protocol, episode.space
    if action == "request":
        return protocol.request()
    if action == "whole":
        return _asked(Look((space.image_boxes[0],), space.menu.crop_level), space, protocol)
    if action != "evidence":
        return protocol.request(Call(regions=(action,)))
    evidence = episode.example.evidence or ((space.image_boxes[0], 1.0),)
    return max(_candidates(evidence, space, protocol), key=lambda found: (_shown(found, evidence), -space.tokens(found[1])))[0]


def _asked(look: Look, space: ActionSpace, protocol: Protocol) -> str:
    return protocol.request(space.call(look, *protocol.coordinates, protocol.asks))


Candidate = tuple[str, tuple[Look, ...]]
"""The words of a request, and what it leads to."""


def _candidates(evidence: Evidence, space: ActionSpace, protocol: Protocol) -> list[Candidate]:
    """Requests for each region, for all that the evidence touches, and for the smallest box around it."""
    boxes = space.menu.regions.boxes(*space.sizes[0])
    calls = [Call(regions=(name,)) for name in boxes]
    if boxes and protocol.lists_regions:
        touched = tuple(name for name, box in boxes.items() if any(box.within(e).area for e, _ in evidence) and name != "all")
        calls.append(Call(regions=touched))
    if space.menu.regions.kind == "free":
        left, top, right, bottom = zip(*(box for box, _ in evidence), strict=True)
        around = Box(min(left), min(top), max(right), max(bottom))
        looks = [Look((grown(around, space.budget.factor, *space.sizes[0]),), space.menu.crop_level)]
        calls += [space.call(look, *protocol.coordinates, protocol.asks) for look in looks]
    shown = space.shown(space.opening)
    resolved = [(call, space.resolve([call], shown)) for call in calls]
    return [(protocol.request(call), found.looks) for call, found in resolved if not isinstance(found, CallError)]


def _shown(candidate: Candidate, evidence: Evidence) -> float:
    """Share of the evidence, box by box, that a request shows."""
    looked: Sequence[Box] = [box for look in candidate[1] if look.image == 0 for box in look.boxes]
    return round(sum(box.covered_by(looked) for box, _ in evidence) / len(evidence), 2)
