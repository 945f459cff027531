"""Episodes of tests, with their pictures opened."""

from __future__ import annotations

from collections.abc import Sequence

from visionthink import Episode, Example, Menu, Protocol, ResolutionLadder
from visionthink.picture import open_pictures
from visionthink.resolution import QWEN2_5_VL, PixelBudget
from visionthink.transcript import Transcript, Turn, Usage
from visionthink.types import ActionKind, Box, Shown, StopReason


def ladder(*levels: float, **options) -> Menu:
    """A menu of whole images."""
    return Menu(ladder=ResolutionLadder(levels or (0.25, 1.0)), **options)


def begin(
    example: Example,
    levels: Sequence[float] = (0.25, 1.0),
    protocol: Protocol | None = None,
    *,
    budget: PixelBudget = QWEN2_5_VL,
    **options,
) -> Episode:
    """An episode over a ladder."""
    return Episode(example, open_pictures(example), ladder(*levels, **options), protocol, budget=budget)


def view(level: float, visual_tokens: int) -> Shown:
    """A view of a whole image, as wide as it has visual tokens and one token high."""
    return Shown(box=Box(0, 0, 1, 1), level=level, width=28 * visual_tokens, height=28, visual_tokens=visual_tokens)


def turn(level: float, visual_tokens: int, *, action: ActionKind = "answer", text: str = "", **usage) -> Turn:
    """A turn that shows one view, or none where it costs no visual tokens."""
    bill = {"text_tokens": 10, "output_tokens": 1, "seconds": 0.0} | usage
    views = (view(level, visual_tokens),) if visual_tokens else ()
    return Turn(prompt="", text=text, action=action, usage=Usage(visual_tokens=visual_tokens, **bill), views=views)


def record(name: str, *turns: Turn, full: int = 16, **fields) -> Transcript:
    """A transcript of turns, answered "a" as it should be."""
    usual = {"stop_reason": StopReason.ANSWERED, "answer": "a", "reference": "a"}
    known = {"example_id": name, "question": "q", "sizes": ((1, 1),), "visual_tokens_full": full, "turns": turns}
    return Transcript(**known, **(usual | fields))
