"""Episodes of tests, with their pictures opened."""

from __future__ import annotations

from collections.abc import Sequence

from visionthink import Episode, Example, Menu, Protocol, ResolutionLadder
from visionthink.evals.metrics import Scored
from visionthink.picture import open_pictures
from visionthink.resolution import QWEN2_5_VL, PixelBudget
from visionthink.rewards.judge import Verdict
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


def scored(name: str, correct: bool | None, *tokens: int, full: int = 100, family: str = "f", need: str | None = None) -> Scored:
    """An episode that was shown views of these sizes; the levels are theirs relative to the full one."""
    last = len(tokens) - 1
    turns = [
        turn(n / full, n, action="answer" if i == last else "request", text="said", output_tokens=5, seconds=0.1)
        for i, n in enumerate(tokens)
    ]
    verdict = "unscored" if correct is None else "correct" if correct else "wrong"
    transcript = record(name, *turns, full=full, family=family, need=need)
    return Scored(transcript, Verdict(verdict, "test", ""))


#         a: needs the full view   b: low suffices   c: hopeless   d: the full view damages
LOW = [scored("a", False, 25), scored("b", True, 25), scored("c", False, 25), scored("d", True, 25)]
FULL = [scored("a", True, 100), scored("b", True, 100), scored("c", False, 100), scored("d", False, 100)]
