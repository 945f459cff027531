"""What the members of a group are judged by, one number a channel; credit is computed from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visionthink.rewards.judge import Verdict
from visionthink.transcript import Transcript, covers
from visionthink.types import Evidence, Look, whole


@dataclass(frozen=True, kw_only=True)
class Channels:
    """What one member is judged by. None is unscored, which is not zero: such a member is left out wherever the channel
    counts."""

    verdict: Verdict
    accuracy: float | None
    """0 or 1."""
    format: float
    """0 or 0.5."""
    penalty: float = 0.0
    """What was paid for the action, at least 0."""
    bonus: float = 0.0
    """What looking brought, by the benefit of the rubric."""
    cost: float | None = None
    """What the episode cost, in the unit of the rubric's meter."""
    full: float = 1.0
    """What the episode would have cost with the full view shown at once, in the same unit."""
    crop: float | None = None
    """1 where the views after the first turn cover the evidence, else 0; None where the evidence is not known."""
    area: float = 0.0
    """Share of the images that was looked at after the first turn."""

    @property
    def outcome(self) -> float | None:
        """What is good about the member, whatever it cost: accuracy, format and bonus."""
        return None if self.accuracy is None else self.accuracy + self.format + self.bonus

    @property
    def total(self) -> float | None:
        """The reward of Sec. 3.4 of arXiv 2507.13348, and the bonus."""
        return None if self.accuracy is None else self.accuracy + self.format - self.penalty + self.bonus

    @property
    def share(self) -> float | None:
        """`cost` relative to `full`."""
        return None if self.cost is None else self.cost / self.full


def looked_area(transcript: Transcript) -> float:
    """Share of all images' area that the views after the first turn show, at any density; what several show counts once."""
    boxes = [whole(*size) for size in transcript.sizes]
    later = [view for turn in transcript.turns[1:] for view in turn.views]
    seen = sum(box.area * box.covered_by([v.box for v in later if v.image == i]) for i, box in enumerate(boxes))
    return seen / sum(box.area for box in boxes) if boxes else 0.0


def covered(transcript: Transcript, evidence: Evidence) -> float | None:
    """Whether the views after the first turn show what the answer depends on; None where that is not known."""
    if not evidence:
        return None
    later = [view for turn in transcript.turns[1:] for view in turn.views]
    return float(covers(later, evidence))


def rungs(group: Sequence[Transcript]) -> list[int]:
    """How high each member of a group climbed, 0 for the first views alone. Rungs that nobody stopped at are not counted: they
    change no share of the correct members."""
    highest = [max(t.levels_seen, default=0.0) if t.requested else None for t in group]
    levels = sorted({level for level in highest if level is not None})
    return [0 if level is None else 1 + levels.index(level) for level in highest]


def asked_first(transcript: Transcript) -> tuple[Look, ...]:
    """What the first request led to; empty for a direct answer."""
    return transcript.turns[0].looks if transcript.turns else ()
