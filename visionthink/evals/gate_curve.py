"""What a gate on a score comes to on a suite, at any threshold, from the runs of its two lanes: no model is asked again.

The answer from the low view is kept where its score is at most the threshold, and the rest is shown more. Harm is relative to
always-full: the full view is right and the gate is wrong. What it wins back, where always-full is wrong, is told and never set
against harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from visionthink.errors import DataError
from visionthink.evals.comparison import same_question
from visionthink.evals.metrics import Scored, retained_tokens


@dataclass(frozen=True, kw_only=True)
class GatePoint:
    """A gate at one threshold. Rates are shares of all examples; accuracy is over those that were judged."""

    threshold: float
    n: int
    escalated: float
    accuracy: float
    cost: float
    """Visual tokens of every view, relative to always-full."""
    harm: float
    won_back: float


@dataclass(frozen=True, kw_only=True, eq=False)
class GateLanes:
    """What both lanes of a gate said, by example: arrays [n].

    `kept` and `escalated` are the answers from the low view and with more; `full` is always-full. Where a gate begins again with
    the full view, `escalated` is `full`.
    """

    ids: tuple[str, ...]
    families: tuple[str | None, ...]
    scores: np.ndarray
    """Higher is less sure; infinity where there was no answer to be sure of."""
    kept_right: np.ndarray
    escalated_right: np.ndarray
    full_right: np.ndarray
    kept_harm: np.ndarray
    """Whether keeping the answer would harm. What could not be judged counts as harm, unless always-full is known to be wrong."""
    escalated_harm: np.ndarray
    judged: np.ndarray
    """Whether all three were judged."""
    kept_cost: np.ndarray
    """Visual tokens, as all costs."""
    escalated_cost: np.ndarray
    full_cost: np.ndarray

    @classmethod
    def of(cls, low: Sequence[Scored], full: Sequence[Scored], score: str, more: Sequence[Scored] | None = None) -> GateLanes:
        """Both lanes, from runs over the same examples.

        Args:
            low: always-low, whose last turns have the score; or answers by force.
            full: always-full.
            score: a name out of `certainty.SCORES`.
            more: what was said by force after both views in one context; by default the gate begins again, and pays for both.

        Raises:
            DataError: the runs have no example in common, or no answer has that score.
        """
        runs = [{s.transcript.example_id: s for s in run} for run in (low, full, more or full)]
        ids = tuple(i for i in runs[0] if all(same_question(runs[0][i], run.get(i)) for run in runs[1:]))
        if not ids:
            raise DataError(f"a gate on {score}: the runs have no example in common")
        kept, whole, second = ([run[i] for i in ids] for run in runs)
        scores = np.array([_score(s, score) for s in kept])
        if not np.isfinite(scores).any():
            raise DataError(f"a gate on {score}: no answer has this score; evaluate again, with a policy that gives logprobs")
        kept_cost = np.array([retained_tokens(s.transcript) for s in kept])
        more_cost = np.array([retained_tokens(s.transcript) for s in second])
        same = np.array([s.transcript.visual_tokens >= s.transcript.visual_tokens_full for s in kept])  # there is no more to show
        right, wrong = ([_verdicts(s, kind) for s in (kept, second, whole)] for kind in ("correct", "wrong"))
        escalated_right = np.where(same, right[0], right[1])
        kept_harm = ~wrong[2] & ~right[0]
        escalated_harm = ~wrong[2] & ~escalated_right if more is not None else np.where(same, kept_harm, False)
        return cls(
            ids=ids,
            families=tuple(s.transcript.family for s in kept),
            scores=scores,
            kept_right=right[0],
            escalated_right=escalated_right,
            full_right=right[2],
            kept_harm=kept_harm,
            escalated_harm=escalated_harm,
            judged=np.logical_and.reduce([r | w for r, w in zip(right, wrong, strict=True)]),
            kept_cost=kept_cost,
            escalated_cost=np.where(same, kept_cost, more_cost + (0 if more is not None else kept_cost)),
            full_cost=np.array([s.transcript.visual_tokens_full for s in kept], dtype=float),
        )

    def take(self, index: Sequence[int] | np.ndarray) -> GateLanes:
        """The lanes of some examples, chosen by their places or by an array of bool."""
        places = np.arange(len(self.ids))[index]
        arrays = {name: value[places] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return GateLanes(ids=tuple(self.ids[i] for i in places), families=tuple(self.families[i] for i in places), **arrays)

    def harm(self, threshold: float) -> np.ndarray:
        """[n] of bool."""
        return np.where(self.scores <= threshold, self.kept_harm, self.escalated_harm)

    def at(self, threshold: float) -> GatePoint:
        """The gate at a threshold; at minus infinity everything is escalated."""
        kept = self.scores <= threshold
        ours = np.where(kept, self.kept_right, self.escalated_right)
        return GatePoint(
            threshold=threshold,
            n=len(self.ids),
            escalated=float((~kept).mean()),
            accuracy=float(ours[self.judged].mean()) if self.judged.any() else float("nan"),
            cost=float(np.where(kept, self.kept_cost, self.escalated_cost).sum() / self.full_cost.sum()),
            harm=float(self.harm(threshold).mean()),
            won_back=float((ours & ~self.full_right & self.judged).mean()),
        )

    def curve(self) -> list[GatePoint]:
        """The gate at every score that occurs, from "everything is escalated" to "nothing is"."""
        return [self.at(float(t)) for t in (-np.inf, *np.unique(self.scores[np.isfinite(self.scores)]))]

    def expected(self, cost: float) -> np.ndarray:
        """[n]: how likely each example is answered right where the least sure ones are escalated until `cost` is spent. It is a
        share only where the last one, or several with one score, can be afforded in part. No answer is looked at for that.

        Args:
            cost: as in `GatePoint`; below and above what is possible, that of always-low and of escalating everything.
        """
        share = np.zeros(len(self.ids))
        left = cost * self.full_cost.sum() - self.kept_cost.sum()
        for score in np.unique(self.scores)[::-1]:
            tied = self.scores == score
            price = (self.escalated_cost - self.kept_cost)[tied].sum()
            share[tied] = 1.0 if price <= left else max(0.0, left / price)
            left -= price
            if left <= 0:
                break
        return (1 - share) * self.kept_right + share * self.escalated_right

    def at_cost(self, cost: float) -> float:
        """Accuracy, over what was judged, of the gate that spends `cost`."""
        return float(self.expected(cost)[self.judged].mean())

    def correct_at_cost(self, cost: float) -> Mapping[str, float]:
        """`expected` by id, of what was judged: to be compared with another policy, example by example."""
        expected = self.expected(cost)
        return {self.ids[i]: float(expected[i]) for i in np.flatnonzero(self.judged)}


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive example has the higher score, a tie counting one half; None unless there are both kinds."""
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return None
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def _score(scored: Scored, name: str) -> float:
    turns = scored.transcript.turns
    value = turns[-1].scores.get(name, np.inf) if turns and scored.transcript.answered else np.inf
    return np.inf if np.isnan(value) else value


def _verdicts(scored: Sequence[Scored], kind: str) -> np.ndarray:
    return np.array([s.verdict.verdict == kind for s in scored], dtype=bool)
