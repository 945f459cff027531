"""A run compared with the baselines: always-low, always-full, a random mix of both, and an oracle.

Runs are compared example by example, over the examples that were scored in all runs a figure needs; `n` says how many these are.
Need is measured: the low view is answered wrong and the full view right. Where an example's need is known by construction, that
is reported as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from visionthink.evals.bootstrap import Interval, bootstrap
from visionthink.evals.metrics import Scored, retain_layers, retained_tokens
from visionthink.evals.mixes import Family, Rates, best_rates, one_rate, own_rates

MIXES: dict[str, Rates] = {"mix": one_rate, "mix_by_family": own_rates, "mix_best_rates": best_rates}
"""What a coin may know: nothing, how much the run spends in each family, or the best rate for each."""


@dataclass(frozen=True)
class Lines:
    """Always-low and always-full of one model on one suite, by example."""

    low: Mapping[str, Scored]
    full: Mapping[str, Scored]

    @classmethod
    def of(cls, low: Sequence[Scored], full: Sequence[Scored]) -> Lines:
        return cls(by_id(low), by_id(full))

    def need(self, example_id: str) -> bool:
        """Measured: the low view is not enough and the full one is."""
        return not right(self.low[example_id]) and right(self.full[example_id])


def by_id(scored: Sequence[Scored]) -> dict[str, Scored]:
    """Those that have a verdict."""
    return {s.transcript.example_id: s for s in scored if s.verdict.verdict != "unscored"}


def right(scored: Scored) -> bool:
    return scored.verdict.verdict == "correct"


def same_question(a: Scored, b: Scored | None) -> bool:
    """Whether both are of the same question: ids may be row numbers of two tables."""
    if b is None:
        return False
    return (a.transcript.question, a.transcript.reference) == (b.transcript.question, b.transcript.reference)


def compare(run: Sequence[Scored], lines: Lines) -> dict[str, Any]:
    """Differences with 95 % intervals, router quality, groups A and B of VTC-Bench (arXiv 2510.07143), damage and repairs."""
    own = by_id(run)
    common = [i for i in own if same_question(own[i], lines.low.get(i)) and same_question(own[i], lines.full.get(i))]
    if not common:
        return {"n": 0}
    families = any(own[i].transcript.family for i in common)  # without any there is one way to mix
    mixed = {name: mix(own, lines, common, rates) for name, rates in MIXES.items() if families or rates is one_rate}
    a = [i for i in common if not right(lines.low[i])]
    b = [i for i in common if right(lines.low[i])]
    return {
        "n": len(common),
        "retain_layers": retain_layers([own[i] for i in common]),
        "accuracy": sum(right(own[i]) for i in common) / len(common),
        "low": sum(right(lines.low[i]) for i in common) / len(common),
        "full": sum(right(lines.full[i]) for i in common) / len(common),
        "against_low": _interval([right(own[i]) - right(lines.low[i]) for i in common]),
        "against_full": _interval([right(own[i]) - right(lines.full[i]) for i in common]),
        **dict.fromkeys(figure for name in MIXES for figure in (name, f"against_{name}")),
        **{name: sum(expected.values()) / len(common) for name, expected in mixed.items()},
        **{f"against_{n}": _interval([right(own[i]) - expected[i] for i in common]) for n, expected in mixed.items()},
        "oracle": oracle(lines, common),
        "router": router({i: own[i].transcript.requested for i in common}, {i: lines.need(i) for i in common}),
        "router_known": _router_known(own),
        "group_a": _group(own, a),
        "group_b": _group(own, b),
        "damage": sum(right(lines.full[i]) and not right(own[i]) for i in common) / len(common),
        "repair": sum(right(own[i]) and not right(lines.low[i]) for i in common) / len(common),
        "lucky": sum(right(own[i]) and not own[i].transcript.requested and not right(lines.low[i]) for i in common) / len(common),
    }


def beside_adaptive(control: Sequence[Scored], adaptive: Sequence[Scored]) -> dict[str, Any]:
    """A control beside the run that was shown what it asked for, over the examples in which that run looked."""
    own, shown = by_id(control), {i: s for i, s in by_id(adaptive).items() if s.transcript.requested}
    common = [i for i in shown if same_question(shown[i], own.get(i))]
    return {
        "n": len(common),
        "accuracy": _share([right(own[i]) for i in common]),
        "adaptive": _share([right(shown[i]) for i in common]),
        "difference": _interval([right(own[i]) - right(shown[i]) for i in common]),
    }


def beside_trained(run: Sequence[Scored], low: Sequence[Scored] | None, full: Sequence[Scored] | None) -> dict[str, Any]:
    """A run beside models that were trained, with the same reward, to answer from the low or the full view alone: what is left is
    what looking gains. Figures whose line is missing are None."""
    own, lines = by_id(run), {"low": by_id(low or ()), "full": by_id(full or ())}
    here = {name: line for name, line in lines.items() if line}
    common = [i for i in own if all(same_question(own[i], line.get(i)) for line in here.values())]
    found: dict[str, Any] = {"n": len(common), "low": None, "full": None, "against_low": None, "against_full": None}
    for name, line in here.items():
        found |= {name: _share([right(line[i]) for i in common])}
        found |= {f"against_{name}": _interval([right(own[i]) - right(line[i]) for i in common])}
    both = mix(own, Lines(**lines), common, best_rates) if len(here) == 2 and common else {}
    mixed = {"mix_best_rates": sum(both.values()) / len(both) if both else None}
    return found | mixed | {"against_mix_best_rates": _interval([right(own[i]) - both[i] for i in both])}


def mix(own: Mapping[str, Scored], lines: Lines, ids: Sequence[str], rates: Rates) -> dict[str, float]:
    """Expected correctness of each example under a coin between low and full that spends what the run spent, in visual tokens
    (averaged over the layers, where some were taken out). `rates` says what the coin may know of a family."""
    groups: dict[str | None, list[str]] = {}
    for i in ids:
        groups.setdefault(own[i].transcript.family, []).append(i)
    families = [
        Family(
            right_low=sum(right(lines.low[i]) for i in members),
            right_full=sum(right(lines.full[i]) for i in members),
            cost_low=sum(lines.low[i].transcript.visual_tokens for i in members),
            cost_full=sum(lines.full[i].transcript.visual_tokens for i in members),
            spent=sum(retained_tokens(own[i].transcript) for i in members),
        )
        for members in groups.values()
    ]
    return {
        i: (1 - rate) * right(lines.low[i]) + rate * right(lines.full[i])
        for members, rate in zip(groups.values(), rates(families), strict=True)
        for i in members
    }


def oracle(lines: Lines, ids: Sequence[str]) -> dict[str, float]:
    """A router that asks exactly where the measured need is; it sees the low view first. `retain_cumulative` is its cost relative
    to the full views."""
    spent = [
        lines.low[i].transcript.visual_tokens + (lines.full[i].transcript.visual_tokens if lines.need(i) else 0) for i in ids
    ]
    full = sum(lines.full[i].transcript.visual_tokens_full for i in ids)
    return {
        "accuracy": sum(right(lines.low[i]) or right(lines.full[i]) for i in ids) / len(ids),
        "request_ratio": sum(lines.need(i) for i in ids) / len(ids),
        "retain_cumulative": sum(spent) / full if full else 0.0,
    }


def router(asked: Mapping[str, bool], needed: Mapping[str, bool]) -> dict[str, float | None]:
    """Requests as a classifier of need. `gain` is recall minus the share of requests where there is no need: 1 for a perfect
    router, 0 for a coin."""
    hits = sum(asked[i] and needed[i] for i in asked)
    requests, needs = sum(asked.values()), sum(needed.values())
    others = len(asked) - needs
    recall = hits / needs if needs else None
    false = (requests - hits) / others if others else None
    return {
        "precision": hits / requests if requests else None,
        "recall": recall,
        "false_requests": false,
        "gain": recall - false if recall is not None and false is not None else None,
    }


def _router_known(own: Mapping[str, Scored]) -> dict[str, float | None] | None:
    known = {i: s for i, s in own.items() if s.transcript.need is not None}
    if not known:
        return None
    asked = {i: s.transcript.requested for i, s in known.items()}
    return router(asked, {i: s.transcript.need == "hard" for i, s in known.items()})


def branches(run: Sequence[Scored], direct: Sequence[Scored], request: Sequence[Scored]) -> dict[str, Any]:
    """Both first decisions by force, where the run asked and where it did not. A model that asks because it cannot answer is
    wrong by force where it asks, and right elsewhere; one that cannot answer because it always asks is wrong everywhere."""
    own, forced = by_id(run), {"direct": by_id(direct), "request": by_id(request)}
    common = [i for i in own if all(same_question(own[i], by.get(i)) for by in forced.values())]
    parts = {
        "asked": [i for i in common if own[i].transcript.requested],
        "answered_directly": [i for i in common if not own[i].transcript.requested],
    }
    return {
        name: {
            "n": len(ids),
            **{f"accuracy_{action}": _share([right(by[i]) for i in ids]) for action, by in forced.items()},
        }
        for name, ids in parts.items()
    }


def _group(own: Mapping[str, Scored], ids: Sequence[str]) -> dict[str, Any]:
    return {
        "n": len(ids),
        "accuracy": _share([right(own[i]) for i in ids]),
        "request_ratio": _share([own[i].transcript.requested for i in ids]),
    }


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _interval(values: Sequence[float]) -> dict[str, Any] | None:
    interval: Interval | None = bootstrap(values)
    return asdict(interval) if interval else None
