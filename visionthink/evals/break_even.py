"""How rarely adaptive resolution must ask, to be cheaper than a method that shows every example one view.

With request rate x, adaptive resolution costs C_direct + x (C_request - C_direct) on average. That is a method's mean cost C_m at

    x = (C_m - C_direct) / (C_request - C_direct)

and less below it. Examples that are asked about may be larger than others, so the costs of two disjoint groups would compare
images, not decisions. Every episode is split at its request instead:

    C_direct  = mean over all episodes of what the rounds before the request cost (of an episode that did not ask: all its rounds)
    C_request = C_direct + mean over the episodes that asked of (the whole - the rounds before the request)

so that the line goes through what was measured. What is left of the groups: the round before a request ends in a call and not in
an answer, and what a request adds is known only for the examples that were asked about.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from visionthink.evals.cost import episode_cost
from visionthink.evals.flops import Architecture
from visionthink.evals.metrics import retained_tokens
from visionthink.transcript import Transcript
from visionthink.types import StopReason

FIGURES = ("flops", "seconds", "retained_tokens", "kv_bytes")
"""What is compared, in this order: operations, where every round is read again; wall time; visual tokens, averaged over the
decoder's layers; bytes of keys and values."""

Figures: TypeAlias = "dict[str, float | None]"
Cheaper: TypeAlias = Literal["never", "below", "always"]


@dataclass(frozen=True)
class Spent:
    """What an episode cost before it asked, and as a whole; None where it is not known."""

    requested: bool
    before: Figures
    whole: Figures


Ledger: TypeAlias = "dict[tuple[str, str, str | None], Spent]"
"""What was spent, by id, question and reference. Ids alone may be row numbers of two tables."""


def break_even(direct: float, request: float, other: float) -> float | None:
    """The rate of requests at which both cost the same; below 0 or above 1 where none does. None where requests cost nothing
    more (`request` <= `direct`): then the cost does not grow with the rate, and there is no rate to stay below."""
    return (other - direct) / (request - direct) if request > direct else None


def cheaper(rate: float) -> Cheaper:
    """At which rates of requests adaptive resolution is the cheaper one: `never` for a rate of 0 or less, `always` for 1 or more
    (at exactly 1, asking for everything costs the same), else `below` the rate."""
    return "never" if rate <= 0 else "always" if rate >= 1 else "below"


def ledger(transcripts: Iterable[Transcript], architecture: Architecture | None) -> Ledger:
    """What each episode spent. Those in which the model could not be called are left out."""
    entries: Ledger = {}
    for t in transcripts:
        if t.stop_reason == StopReason.POLICY_ERROR or not t.turns:
            continue
        whole = _figures(t, architecture)
        opening, *rest = t.turns
        first = (opening, *itertools.takewhile(lambda turn: not turn.views, rest))
        before = _figures(dataclasses.replace(t, turns=first), architecture) if t.requested else whole
        entries[t.example_id, t.question, t.reference] = Spent(t.requested, before, whole)
    return entries


def _figures(transcript: Transcript, architecture: Architecture | None) -> Figures:
    cost = episode_cost(transcript, architecture) if architecture else None
    return {
        "flops": None if cost is None else cost.flops,
        "seconds": transcript.seconds,
        "retained_tokens": retained_tokens(transcript),
        "kv_bytes": None if cost is None else cost.kv_bytes,
    }


def against(adaptive: Ledger, other: Mapping[tuple[str, str, str | None], Spent]) -> dict[str, Any]:
    """Break-even of an adaptive run with another, over the `n` examples of both, and the `request_ratio` on them.

    By figure: the costs `direct`, `request` and `other`; `rate`; at which rates adaptive is `cheaper`; whether it is at the
    measured one; and `why` there is no rate, where there is none.
    """
    common = [key for key in adaptive if key in other]
    if not common:
        return {"n": 0}
    ours = [adaptive[key] for key in common]
    return {
        "n": len(common),
        "request_ratio": sum(s.requested for s in ours) / len(common),
        **{name: _figure(name, ours, [other[key].whole[name] for key in common]) for name in FIGURES},
    }


def _figure(name: str, ours: Sequence[Spent], theirs: Sequence[float | None]) -> dict[str, Any]:
    entry: dict[str, Any] = dict.fromkeys(("direct", "request", "other", "rate", "cheaper", "cheaper_as_measured", "why"))
    known = [c for c in theirs if c is not None]
    pairs = [(b, w, s.requested) for s in ours if (b := s.before[name]) is not None and (w := s.whole[name]) is not None]
    if len(known) < len(theirs) or len(pairs) < len(ours):
        return entry | {"why": "not known for every example"}
    direct, other = sum(b for b, _, _ in pairs) / len(pairs), sum(known) / len(known)
    measured = sum(w for _, w, _ in pairs) / len(pairs)
    entry |= {"direct": direct, "other": other, "cheaper_as_measured": measured < other}
    added = [w - b for b, w, requested in pairs if requested]
    if not added:
        return entry | {"why": "no episode asked"}
    request = direct + sum(added) / len(added)
    rate = break_even(direct, request, other)
    if rate is None:
        return entry | {"request": request, "why": "asking cost nothing more"}
    return entry | {"request": request, "rate": rate, "cheaper": cheaper(rate)}
