"""Members of a group that take no part in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from visionthink.errors import OptionError
from visionthink.transcript import RolloutGroup
from visionthink.types import StopReason

Exclusion = Literal["duplicate", "empty", "truncated", "over_limit"]
EXCLUSIONS: tuple[Exclusion, ...] = ("duplicate", "empty", "truncated")
"""What `exclude` can name; members over a limit have a setting of their own."""


def parse_exclusions(text: str) -> tuple[Exclusion, ...]:
    """ "duplicate,empty" to its parts; "" is none.

    Raises:
        OptionError: an unknown name.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in EXCLUSIONS:
            raise OptionError(f"exclude {name!r}: choose from {', '.join(EXCLUSIONS)}")
    return names  # type: ignore[return-value]


def exclusions(group: RolloutGroup, names: Sequence[Exclusion]) -> list[str | None]:
    """Why each member takes no part in its group's statistics and gets no gradient, or None. A duplicate says, token for
    token, what an earlier member said."""
    seen: set[tuple[tuple[int, ...], ...]] = set()
    reasons: list[str | None] = []
    for transcript in group:
        said = tuple(turn.token_ids for turn in transcript.turns)
        reason: Exclusion | None = None
        if transcript.stop_reason is StopReason.EMPTY:
            reason = "empty"
        elif transcript.stop_reason is StopReason.LENGTH:
            reason = "truncated"
        elif transcript.stop_reason is StopReason.OVER_LIMIT and "over_limit" in names:
            reason = "over_limit"
        elif said in seen:
            reason = "duplicate"
        seen.add(said)
        reasons.append(reason if reason in names else None)
    return reasons
