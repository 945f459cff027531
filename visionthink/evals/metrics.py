"""Transcripts and verdicts to numbers. Pure arithmetic; every figure can be recomputed from `transcripts.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionthink.evals.cost import bill
from visionthink.evals.flops import Architecture
from visionthink.rewards.judge import VERDICT_FIELDS, Verdict
from visionthink.transcript import Transcript
from visionthink.types import StopReason


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


def _retain_layers(scored: Sequence[Scored]) -> float:
    """As `retention` of every view, averaged over the decoder's layers: less where a compressing policy takes tokens out."""
    left = sum(retained_tokens(s.transcript) for s in scored)
    return left / sum(s.transcript.visual_tokens_full for s in scored)


def summarise(
    scored: Sequence[Scored], *, suite: str, model: str, policy: str, architecture: Architecture | None = None
) -> dict[str, Any]:
    """The result of an evaluation, as `visionthink eval --json` prints it."""
    return {
        "suite": suite,
        "model": model,
        "policy": policy,
        "n": len(scored),
        "accuracy": accuracy(scored),
        "unscored": sum(s.verdict.verdict == "unscored" for s in scored),
        "unscored_reasons": _unscored_reasons(scored),
        "request_ratio": request_ratio(scored),
        "retain_final": retention(scored, cumulative=False),
        "retain_cumulative": retention(scored, cumulative=True),
        "retain_layers": _retain_layers(scored),
        **bill([s.transcript for s in scored], architecture),
        "by_need": _split(scored, lambda s: s.transcript.need),
        "by_family": _split(scored, lambda s: s.transcript.family),
        "stop_reasons": dict(sorted(Counter(s.transcript.stop_reason.value for s in scored).items())),
        "architecture": architecture and architecture.to_dict(),
    }


def nothing_answered(summary: Mapping[str, Any]) -> bool:
    """Whether the model said nothing in any episode: it could not be called, or declined."""
    return set(summary["stop_reasons"]) <= {StopReason.POLICY_ERROR, StopReason.REFUSED}


def _unscored_reasons(scored: Sequence[Scored]) -> dict[str, int]:
    """The five most frequent: why the model could not be called, or what the judge said."""
    unscored = [s for s in scored if s.verdict.verdict == "unscored"]
    return dict(Counter(_failure(s.transcript) or s.verdict.reason for s in unscored).most_common(5))


def _failure(transcript: Transcript) -> str | None:
    return transcript.turns[-1].note if transcript.stop_reason == StopReason.POLICY_ERROR and transcript.turns else None


def _split(scored: Sequence[Scored], key: Callable[[Scored], str | None]) -> dict[str, Any]:
    groups: dict[str, list[Scored]] = {}
    for s in scored:
        if (name := key(s)) is not None:
            groups.setdefault(name, []).append(s)
    return {
        name: {
            "n": len(members),
            "accuracy": accuracy(members),
            "request_ratio": request_ratio(members),
            "retain_cumulative": retention(members, cumulative=True),
        }
        for name, members in sorted(groups.items())
    }
