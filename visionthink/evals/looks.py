"""Where a run looked, and whether it saw what the answers depend on. Of runs in which parts of images were shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from visionthink.evals.metrics import Scored, accuracy
from visionthink.geometry import ten_crops
from visionthink.transcript import Transcript, covers
from visionthink.types import Box, Shown

PLACES = {
    "0": "top left",
    "1": "top right",
    "2": "bottom left",
    "3": "bottom right",
    "4": "centre",
    "5": "top half",
    "6": "bottom half",
    "7": "left half",
    "8": "right half",
    "all": "whole image",
}
"""The ten crops of AwaRes (arXiv 2603.16932) in words."""
LEAST_SIDES = (0, 100)
"""Smallest sides of the ten crops, in px, that menus have."""


def place(box: Box, width: int, height: int) -> str:
    """What a box of an image of this size is called: one of the ten crops, or the sixteenth that its centre lies in."""
    for least in LEAST_SIDES:
        for name, crop in ten_crops(width, height, least).items():
            if crop == box:
                return PLACES[name]
    row, column = (2 * (box.top + box.bottom) // height, 2 * (box.left + box.right) // width)
    return f"around row {row + 1}, column {column + 1} of 4"


def looks(scored: Sequence[Scored]) -> dict[str, Any] | None:
    """Where was looked, how much of the images was seen, and how often the evidence was; None where only whole images were shown.

    A look is a view behind the first turn. `right_looks` is the share of looks that alone show a piece of the evidence at the
    level it needs, `covered` the share of episodes whose views together show all of it; both among the episodes that looked and
    whose evidence is known, as many as `known` says.
    """
    if all(t.is_whole(view) for s in scored for t in (s.transcript,) for view in t.views):
        return None
    shown = [(s.transcript, view) for s in scored for view in _looks(s.transcript)]
    names = Counter(place(view.box, *t.sizes[view.image]) for t, view in shown)
    families = sorted({s.transcript.family for s in scored if s.transcript.family is not None})
    return {
        "looks_per_episode": len(shown) / len(scored),
        "density_area": sum(s.transcript.density_area for s in scored) / len(scored),
        "places": dict(names.most_common()),
        **_evidence(scored),
        "by_family": {name: _evidence([s for s in scored if s.transcript.family == name]) for name in families},
    }


def _looks(transcript: Transcript) -> list[Shown]:
    return [view for turn in transcript.turns[1:] for view in turn.views]


def _evidence(scored: Sequence[Scored]) -> dict[str, Any]:
    looked = [s for s in scored if s.transcript.requested]
    known = [s for s in looked if s.transcript.evidence]
    covered, not_covered = ([s for s in known if s.transcript.covers(s.transcript.evidence) is truth] for truth in (True, False))
    right = [_shows_a_piece(s.transcript, view) for s in known for view in _looks(s.transcript)]
    return {
        "n": len(scored),
        "looked": len(looked) / len(scored),
        "known": len(known),
        "right_looks": sum(right) / len(right) if right else None,
        "covered": len(covered) / len(known) if known else None,
        "accuracy_covered": accuracy(covered),
        "accuracy_not_covered": accuracy(not_covered),
    }


def _shows_a_piece(transcript: Transcript, view: Shown) -> bool:
    return any(covers([view], (piece,)) for piece in transcript.evidence)
