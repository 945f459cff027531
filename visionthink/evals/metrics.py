"""Scored transcripts, and the figures that everything counts in. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionthink.rewards.judge import VERDICT_FIELDS, Verdict
from visionthink.transcript import Transcript


@dataclass(frozen=True)
class Scored:
    """A transcript with what the judge said of it."""

    transcript: Transcript
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        return self.transcript.to_dict() | vars(self.verdict)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Scored:
        """Inverse of `to_dict`.

        Raises:
            ValueError: a field is missing, or is something else; the message names it.
        """
        verdict = Verdict.from_record(record)
        return cls(Transcript.from_dict({name: value for name, value in record.items() if name not in VERDICT_FIELDS}), verdict)


def accuracy(scored: Iterable[Scored]) -> float | None:
    """Share of correct answers among those that were scored; None when none was."""
    verdicts = [s.verdict.verdict for s in scored if s.verdict.verdict != "unscored"]
    return verdicts.count("correct") / len(verdicts) if verdicts else None


def request_ratio(scored: Sequence[Scored]) -> float:
    """Share of episodes that were shown a higher level."""
    return sum(s.transcript.requested for s in scored) / len(scored)


def retention(scored: Sequence[Scored], *, cumulative: bool) -> float:
    """Visual tokens of all episodes relative to the full views alone: of every view fed, or of the last one only.

    A ratio of sums, so that large images weigh what they cost.
    """
    fed = sum(s.transcript.visual_tokens if cumulative else s.transcript.visual_tokens_final for s in scored)
    return fed / sum(s.transcript.visual_tokens_full for s in scored)


def retained_tokens(transcript: Transcript) -> float:
    """Visual tokens of every view, averaged over the decoder's layers."""
    return transcript.retain_layers * transcript.visual_tokens_full


def retain_layers(scored: Sequence[Scored]) -> float:
    """The `retention` of every view, averaged over the decoder's layers. It is lower if a compression method removes tokens."""
    return sum(retained_tokens(s.transcript) for s in scored) / sum(s.transcript.visual_tokens_full for s in scored)
