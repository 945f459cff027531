"""The run-level numbers that lmms-eval's results get, under `throughput`."""

from __future__ import annotations

from collections.abc import Sequence

from visionthink.evals.batches import architecture_of
from visionthink.evals.cost import bill
from visionthink.evals.metrics import Scored, request_ratio, retention
from visionthink.model import Model
from visionthink.rewards.judge import Verdict
from visionthink.transcript import Transcript


def run_numbers(transcripts: Sequence[Transcript], failed: int, model: Model) -> dict[str, float]:
    """Over all episodes of all tasks; `failed` and `unanswered` are counts, tokens and FLOPs means per episode. What is not known
    is left out."""
    numbers: dict[str, float] = {"failed": failed, "unanswered": sum(not t.answered for t in transcripts)}
    if not transcripts:
        return numbers
    scored = [Scored(t, Verdict("unscored", "lmms-eval", "not scored yet")) for t in transcripts]
    numbers |= {
        "request_ratio": request_ratio(scored),
        "retain_final": retention(scored, cumulative=False),
        "retain_cumulative": retention(scored, cumulative=True),
    }
    costs = bill(transcripts, architecture_of(model))
    wanted = ("visual_tokens", "output_tokens", "flops", "flops_cached")
    return numbers | {name: costs[name] for name in wanted if costs[name] is not None}
