"""What every metric of a benchmark shares: which answers count, their average, and the average by family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from visionthink.evals.metrics import Scored
from visionthink.transcript import Transcript
from visionthink.types import StopReason

Figures: TypeAlias = "dict[str, float | int | None]"
"""Numbers by name. `n` answers were counted, `unscored` were not; `NAME/FAMILY` is NAME over one family alone. None where there
is nothing to divide by."""

Metric: TypeAlias = Callable[[Sequence[Scored]], Figures]


def answered(scored: Sequence[Scored]) -> tuple[list[Transcript], int]:
    """The transcripts that count, and how many do not: those whose policy failed or refused, and those without a reference.

    An episode that ended otherwise without an answer counts: it is wrong.
    """
    kept = [s.transcript for s in scored if not _unscored(s.transcript)]
    return kept, len(scored) - len(kept)


def _unscored(transcript: Transcript) -> bool:
    return transcript.reference is None or transcript.stop_reason in (StopReason.POLICY_ERROR, StopReason.REFUSED)


def references(transcript: Transcript) -> tuple[str, ...]:
    """The reference answer and its aliases."""
    return (transcript.reference or "", *transcript.aliases)


def ratio(part: float, whole: float) -> float | None:
    """None where the whole is 0."""
    return part / whole if whole else None


def by_family(transcripts: Sequence[Transcript]) -> dict[str, list[Transcript]]:
    """Transcripts of each family, names in order; those without a family are in none."""
    names = sorted({t.family for t in transcripts if t.family is not None})
    return {name: [t for t in transcripts if t.family == name] for name in names}


def average(scored: Sequence[Scored], score: Callable[[str, Transcript], float], name: str = "accuracy") -> Figures:
    """Mean score of the answers that count, over all and by family.

    Args:
        score: of an answer to a transcript's question, in [0, 1]. It is not asked where there is no answer, which is worth 0.
        name: of the mean.
    """
    kept, unscored = answered(scored)
    scores = {id(t): 0.0 if t.answer is None else float(score(t.answer, t)) for t in kept}

    def mean(members: Sequence[Transcript]) -> float | None:
        return ratio(sum(scores[id(t)] for t in members), len(members))

    figures: Figures = {name: mean(kept), "n": len(kept), "unscored": unscored}
    return figures | {f"{name}/{family}": mean(members) for family, members in by_family(kept).items()}
