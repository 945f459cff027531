"""An evaluation as one record. Every figure can be recomputed from `transcripts.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from visionthink.evals.cost import bill
from visionthink.evals.flops import Architecture
from visionthink.evals.looks import looks
from visionthink.evals.metrics import Scored, accuracy, request_ratio, retain_layers, retention
from visionthink.transcript import Transcript
from visionthink.types import StopReason


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
        "retain_layers": retain_layers(scored),
        "retain_per_example": sum(s.transcript.retain_cumulative for s in scored) / len(scored),
        **bill([s.transcript for s in scored], architecture),
        "looks": looks(scored),
        "by_need": _split(scored, lambda s: s.transcript.need),
        "by_family": _split(scored, lambda s: s.transcript.family),
        "stop_reasons": dict(sorted(Counter(s.transcript.stop_reason.value for s in scored).items())),
        "without_score": sum(map(_without_score, scored)),
        "architecture": architecture and architecture.to_dict(),
    }


def nothing_answered(summary: Mapping[str, Any]) -> bool:
    """Whether the model said nothing in any episode: it could not be called, or declined."""
    return set(summary["stop_reasons"]) <= {StopReason.POLICY_ERROR, StopReason.REFUSED}


def _without_score(scored: Scored) -> bool:
    """Whether a gate showed more because nothing is known of how sure an answer was."""
    return any(
        turn.by == "gate" and turn.action == "answer" and turn.looks and not turn.scores for turn in scored.transcript.turns
    )


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
