"""What an evaluation found, in sentences: the summary that the report begins with and the terminal ends with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from visionthink.evals.bootstrap import ENOUGH, Interval
from visionthink.evals.policy_spec import PolicySpec
from visionthink.types import StopReason

Summary = Mapping[str, Any]
"""A summary with what its report adds, as `Run.to_dict` gives it."""

_BASELINES = {
    "full": "always-full",
    "mix": "the random mix",
    "mix_best_rates": "the mix with the best rates",
}
"""What a run is compared with in `comparison`, in the words of the page."""


def in_words(summaries: Sequence[Summary]) -> list[str]:
    """A paragraph for each run of one suite that is no baseline; for each run, where all are."""
    judged = [s for s in summaries if not PolicySpec.parse(s["policy"]).is_baseline]
    return [_paragraph(s) for s in judged or summaries]


def problems(summary: Summary) -> list[str]:
    """What does not count in a run, and why."""
    name, n, unscored, failed = _name(summary), summary["n"], summary["unscored"], summary.get("failed", 0)
    silent = summary["stop_reasons"].get(StopReason.POLICY_ERROR, 0)
    said = []
    if failed:
        said.append(f"{name}: {_counted(failed, 'example')} could not be used; failed.jsonl in its folder says why.")
    if unscored:
        parts = [(silent, "got no reply from the model"), (unscored - silent, "could not be judged")]
        named = " and ".join(f"{count} {why}" for count, why in parts if count)
        left = f"{n - unscored} count{'s' * (n - unscored == 1)}" if n > unscored else "none counts, so that there is no accuracy"
        reasons = "; ".join(f"{count} unscored: {' '.join(r.split())}" for r, count in summary["unscored_reasons"].items() if r)
        why = f" Reasons: {reasons}; transcripts.jsonl in its folder has them all." if reasons else ""
        said.append(f"{name}: of {_counted(n, 'question')}, {named}; {left}.{why}")
    if summary.get("without_score"):
        said.append(
            f"{name}: {_counted(summary['without_score'], 'answer')} came without log-probabilities, so that the gate could not "
            "tell how sure they are and showed more; ask for gate:vote@T instead."
        )
    return said


def share_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) for a share of n.

    Example: (0.2065, 1.0) for one of one, and (0.5655, 1.0) for five of five.
    """
    z = 1.959964
    middle, width = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + side * width) / (1 + z * z / n) for side in (-1, 1))
    return max(0.0, low), min(1.0, high)


def _paragraph(summary: Summary) -> str:
    found = summary.get("comparison") or {}
    sentences = _compared(summary, found) if found.get("n") else _alone(summary)
    if (fit := summary.get("fit")) is not None:
        sentences.append(
            f"Its fit measured {_percent(fit['trained'])} for the method, {_percent(fit['control'])} for the control and "
            f"{_percent(fit['untrained'])} for the untrained method, on {_counted(fit['tested'], 'question')} of the fit's own "
            f"({fit['questions']}) and not on this suite."
        )
    return " ".join(sentences)


def _alone(summary: Summary) -> list[str]:
    """A run that cannot be compared with always-low and always-full of its model, or a baseline."""
    name, n = _name(summary), summary["n"] - summary["unscored"]
    if summary["accuracy"] is None:
        return [f"{name} has no accuracy, as none of its answers could be judged."]
    low, high = share_interval(summary["accuracy"], n)
    sentences = [
        f"{name} answers {_percent(summary['accuracy'])} of {_counted(n, 'question')} correctly "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %) and reads {_percent(summary['retain_layers'])} of the visual "
        "tokens of the full views."
    ]
    if summary.get("comparison"):
        sentences.append("It cannot be compared with low and full, as no question was judged in all three runs.")
    elif not PolicySpec.parse(summary["policy"]).is_baseline:
        sentences.append("Whether that is worth its cost cannot be told without runs of the same model under low and full.")
    return sentences


def _compared(summary: Summary, found: Summary) -> list[str]:
    """A run beside always-low and always-full of its model, over the questions that were judged in all three."""
    name, judged = _name(summary), summary["n"] - summary["unscored"]
    beside = [(_BASELINES[key], found[key], found[f"against_{key}"]) for key in _BASELINES if found.get(key) is not None]
    if gates := summary.get("gates"):
        best = max(gates.values(), key=lambda gate: gate["accuracy"])
        beside.append(("the training-free gate", best["accuracy"], best["against"]))
    fewer = f" (of {judged}, those that were judged under low and full too)" if found["n"] < judged else ""
    mixes = [f"{what} {_percent(value)}" for what, value, _ in beside[1:]]
    return [
        f"{name} answers {_percent(found['accuracy'])} of {_counted(found['n'], 'question')}{fewer} correctly and reads "
        f"{_percent(found['retain_layers'])} of the visual tokens of the full views.",
        f"Always-full answers {_percent(found['full'])} correctly and always-low {_percent(found['low'])}.",
        f"With as many visual tokens as this run, these accuracies are expected: {_listed(mixes)}.",
        *_differences([(what, Interval(**against)) for what, _, against in beside]),
    ]


def _differences(beside: Sequence[tuple[str, Interval]]) -> list[str]:
    """What a run is above, what it is below, and what cannot be decided. Only the first difference has its units."""
    few = f": fewer than {ENOUGH} questions were compared, too few for an interval" if beside[0][1].n < ENOUGH else ""
    groups: dict[str, list[tuple[str, Interval]]] = {
        "The run is above": [],
        "The run is below": [],
        "It is undecided whether the run is above or below": [],
    }
    above, below, undecided = groups.values()
    for what, found in beside:
        kind = undecided if not found.sure else above if found.mean > 0 else below
        kind.append((what, found))
    said, units = [], (" points", "95 % interval ")
    for begin, members in groups.items():
        parts = []
        for what, found in members:
            interval = "" if few else f", {units[1]}{100 * found.low:+.1f} to {100 * found.high:+.1f}"
            parts.append(f"{what} ({100 * found.mean:+.1f}{units[0]}{interval})")
            units = ("", "")
        if parts:
            said.append(f"{begin} {_listed(parts)}{few}.")
    return said


def _name(summary: Summary) -> str:
    return f"{summary['model']} under {summary['policy']}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _listed(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
