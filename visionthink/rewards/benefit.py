"""A bonus for looking, scaled by what looking brings (dS): accuracy with a look minus accuracy without one.

adatooler  AdaTooler-V (arXiv 2512.16918): weight x dS x exp(-2 ((n - 6) / 6)^2) for n followed requests; dS stands in the
           example's metadata as `benefit`. It grows with n up to 6, so it rewards many calls: for comparison only
value      weight x dS for a member that chose to look; dS is measured on the group's own forced members
none       no bonus
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from visionthink.errors import DataError, OptionError, choose_from
from visionthink.rewards.judge import Verdict
from visionthink.transcript import RolloutGroup, Transcript

BENEFITS = ("none", "adatooler", "value")
_CALLS = 6
"""Requests at which `adatooler` pays most: n_max of the paper."""


def forced(transcript: Transcript) -> bool:
    """Whether its first decision was made by someone else."""
    return bool(transcript.turns) and transcript.turns[0].by == "forced"


def requests(transcript: Transcript) -> int:
    """How many requests were followed."""
    return sum(bool(turn.looks) for turn in transcript.turns)


@dataclass(frozen=True)
class Benefit:
    """A named bonus. `weight` is what a look pays that turns every answer from wrong to right."""

    name: str = "none"
    _: KW_ONLY
    weight: float = 0.6

    def __post_init__(self) -> None:
        if self.name not in BENEFITS:
            raise OptionError(f"unknown benefit {self.name!r}; {choose_from(self.name, BENEFITS)}, with an amount as value:0.6")
        if not 0 <= self.weight < math.inf:
            raise OptionError(f"benefit {self.weight}: the amount must be a number of at least 0")

    @classmethod
    def parse(cls, text: str) -> Benefit:
        """From NAME or NAME:AMOUNT.

        Raises:
            OptionError: an unknown name, an amount that is no number of at least 0, or one of no bonus.
        """
        name, colon, amount = text.partition(":")
        if not colon:
            return cls(name)
        try:
            benefit = cls(name, weight=float(amount))
        except ValueError:
            raise OptionError(f"benefit {text!r}: the amount must be a number of at least 0, as {name}:0.6") from None
        if name == "none":
            raise OptionError(f"benefit {text!r}: nobody is paid, so there is no amount")
        return benefit

    def __call__(self, group: RolloutGroup, verdicts: Sequence[Verdict]) -> list[float]:
        """The bonus of each member of a group; 0 where dS cannot be told.

        Raises:
            DataError: `adatooler`, and the example does not say its dS.
        """
        if self.name == "adatooler":
            return [self.calls(requests(t), _stored(t)) for t in group]
        if self.name == "value":
            gain = gained(group, verdicts) or 0.0
            return [self.weight * gain if t.requested and not forced(t) else 0.0 for t in group]
        return [0.0] * len(group)

    def calls(self, n: int, gain: float) -> float:
        """The bonus of n requests by `adatooler`, where looking changes the accuracy by `gain`."""
        return self.weight * gain * math.exp(-2 * ((n - _CALLS) / _CALLS) ** 2)


def gained(group: RolloutGroup, verdicts: Sequence[Verdict]) -> float | None:
    """Accuracy of the members that were made to look minus that of the members that were made to answer; None without either."""
    branches: dict[bool, list[bool]] = {True: [], False: []}
    for transcript, verdict in zip(group, verdicts, strict=True):
        if forced(transcript) and verdict.verdict != "unscored":
            branches[transcript.requested].append(verdict.verdict == "correct")
    looked, direct = branches[True], branches[False]
    return sum(looked) / len(looked) - sum(direct) / len(direct) if looked and direct else None


def _stored(transcript: Transcript) -> float:
    value = transcript.metadata.get("benefit")
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise DataError(
            f"example {transcript.example_id}: benefit adatooler needs metadata with benefit, a number from -1 to 1 "
            "(accuracy with a look minus without)"
        )
    return float(value)
