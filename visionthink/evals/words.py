"""What an evaluation found, in sentences: a summary that the report begins with and the terminal ends with, and each run."""

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
    return [_paragraph(s) for s in _judged(summaries) or summaries]


def overview(summaries: Sequence[Summary]) -> str:
    """All runs of one suite in one paragraph: which has the best trade-off, and how the others stand. Of one run, its paragraph.

    The best trade-off is that of the run which is furthest above its random mix, a baseline that costs as much as the run does.
    """
    judged = _judged(summaries)
    if len(told := judged or summaries) == 1:
        return _paragraph(told[0])
    compared = [s for s in judged if (s.get("comparison") or {}).get("n")]
    if not compared:
        return _range(judged or summaries, baselines=not judged)
    best = max(compared, key=lambda s: (_side(s) == "above", s["comparison"]["against_mix"]["mean"]))
    others = [s for s in compared if s is not best]
    missing = [s for s in judged if s not in compared]
    return " ".join([*_best(best, len(judged)), *_others(best, others), *_not_compared(missing)])


def all_problems(summaries: Sequence[Summary]) -> list[str]:
    """What does not count in runs, and why; what several runs have in common once, with their names."""
    found: dict[str, list[str]] = {}
    for s in summaries:
        for line in problems(s):
            found.setdefault(line.removeprefix(f"{_name(s)}: "), []).append(_name(s))
    every = f"Each of the {len(summaries)} runs"
    return [f"{every if 1 < len(who) == len(summaries) else _listed(who)}: {line}" for line, who in found.items()]


def problems(summary: Summary) -> list[str]:
    """What does not count in a run, and why."""
    name, n, unscored, failed = _name(summary), summary["n"], summary["unscored"], summary.get("failed", 0)
    silent = summary["stop_reasons"].get(StopReason.POLICY_ERROR, 0)
    said = []
    if failed:
        why = "; failed.jsonl in its folder says why"
        if reasons := [" ".join(reason.split()) for reason in summary.get("failed_reasons") or ()]:
            why = f". Reasons: {'; '.join(reasons)}; failed.jsonl in its folder has them all"
        said.append(f"{name}: {_counted(failed, 'example')} could not be used{why}.")
    if unscored:
        parts = [(silent, "got no reply from the model"), (unscored - silent, "could not be judged")]
        named = " and ".join(f"{count} {why}" for count, why in parts if count)
        left = f"{n - unscored} count{'s' * (n - unscored == 1)}" if n > unscored else "none counts, so that there is no accuracy"
        unsure = "; ".join(f"{count} unscored: {' '.join(r.split())}" for r, count in summary["unscored_reasons"].items() if r)
        why = f" Reasons: {unsure}; transcripts.jsonl in its folder has them all." if unsure else ""
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


def _judged(summaries: Sequence[Summary]) -> list[Summary]:
    """The runs that an evaluation is about, and that are not baselines."""
    return [s for s in summaries if not PolicySpec.parse(s["policy"]).is_baseline]


def _best(best: Summary, runs: int) -> list[str]:
    found, gates = best["comparison"], best.get("gates")
    gate = f", and the training-free gate {_percent(_best_gate(gates)['accuracy'])} at the same cost" if gates else ""
    place = (
        f"Of the {runs} runs that are not baselines, {_name(best)} is furthest above its random mix"
        if _side(best) == "above"
        else f"None of the {runs} runs that are not baselines is certainly above its random mix; {_name(best)} comes closest"
    )
    return [
        f"{place}: it answers {_percent(found['accuracy'])} of {_counted(found['n'], 'question')} correctly and reads "
        f"{_percent(found['retain_layers'])} of the visual tokens of the full views. A random choice between the low and the "
        f"full view is expected to answer {_percent(found['mix'])} correctly at the same cost.",
        f"Always-full answers {_percent(found['full'])} correctly{gate}.",
    ]


def _others(best: Summary, others: Sequence[Summary]) -> list[str]:
    """How the other runs stand to their random mixes."""
    if all(s["comparison"]["n"] < ENOUGH for s in (best, *others)):
        return [f"Fewer than {ENOUGH} questions were compared, too few to decide anything."]
    said = []
    for side, word in (("above", " as well"), ("below", "")):
        if group := [s for s in others if _side(s) == side]:
            verb, whose = ("is", "its") if len(group) == 1 else ("are", "their")
            said.append(f"{_who(group, 'other run')} {verb} {side} {whose} random mix{word}.")
    if group := [s for s in others if _side(s) == "undecided"]:
        whose = "its" if len(group) == 1 else "their"
        said.append(f"{_who(group, 'other run')} cannot be distinguished from {whose} random mix.")
    return said


def _not_compared(missing: Sequence[Summary]) -> list[str]:
    if not missing:
        return []
    return [f"{_who(missing, 'run')} cannot be compared with low and full of the same model."]


def _range(summaries: Sequence[Summary], *, baselines: bool) -> str:
    """Runs of which none can be compared with a random mix."""
    known = sorted((s for s in summaries if s["accuracy"] is not None), key=lambda s: s["accuracy"])
    if not known:
        return f"None of {len(summaries)} runs has an accuracy, as no answer could be judged."
    ends = [f"{_percent(s['accuracy'])} ({_name(s)}, with {_percent(s['retain_layers'])} of the visual tokens)" for s in known]
    why = (
        "All of them are baselines, with which runs under adaptive or another policy are compared."
        if baselines
        else "Which trade-off is best can only be judged with runs of the same models under low and full."
    )
    if len(known) == 1:
        return f"Only one of {len(summaries)} runs has an accuracy: {ends[0]}. {why}"
    return f"The accuracies of {len(known)} runs go from {ends[0]} to {ends[-1]}. {why}"


def _side(summary: Summary) -> str:
    """Whether a run is above its random mix, below it, or undecided."""
    against = Interval(**summary["comparison"]["against_mix"])
    return "undecided" if not against.sure else "above" if against.mean > 0 else "below"


def _who(group: Sequence[Summary], what: str) -> str:
    """The names of up to two runs, or the number of more."""
    return _listed([_name(s) for s in group]) if len(group) <= 2 else _counted(len(group), what)


def _best_gate(gates: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = max(gates.values(), key=lambda gate: gate["accuracy"])
    return found


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
        sentences.append("Whether this is worth its cost can only be judged with runs of the same model under low and full.")
    return sentences


def _compared(summary: Summary, found: Summary) -> list[str]:
    """A run beside always-low and always-full of its model, over the questions that were judged in all three."""
    name, judged = _name(summary), summary["n"] - summary["unscored"]
    beside = [(_BASELINES[key], found[key], found[f"against_{key}"]) for key in _BASELINES if found.get(key) is not None]
    if gates := summary.get("gates"):
        best = _best_gate(gates)
        beside.append(("the training-free gate", best["accuracy"], best["against"]))
    fewer = f" (of {judged}, those that were judged under low and full too)" if found["n"] < judged else ""
    all_judged = f"Of all {judged} that were judged in this run, it answers {_percent(summary['accuracy'])} correctly."
    mixes = [f"{what} {_percent(value)}" for what, value, _ in beside[1:]]
    return [
        f"{name} answers {_percent(found['accuracy'])} of {_counted(found['n'], 'question')}{fewer} correctly and reads "
        f"{_percent(found['retain_layers'])} of the visual tokens of the full views.",
        *([all_judged] if fewer else []),
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
