"""R = R_accuracy + R_format - P_control for a whole group (Sec. 3.4 of arXiv 2507.13348).

Unscored is not zero: a member whose answer could not be judged is left out of the group's counts and gets no reward at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from visionthink.protocol import Protocol
from visionthink.rewards.format import format_reward
from visionthink.rewards.judge import Judge, Verdict, judge_transcripts
from visionthink.rewards.penalty import Penalty
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.transcript import RolloutGroup


@dataclass(frozen=True, kw_only=True)
class RewardBreakdown:
    """Accuracy in {0, 1}, format in {0, 0.5}, the penalty paid (>= 0), and their sum; None where unscored."""

    accuracy: float | None
    format: float
    penalty: float
    total: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Rubric:
    """How transcripts are rewarded. A general-VQA rubric is one with the penalty `none`."""

    protocol: Protocol = field(default_factory=Protocol)
    judge: Judge = field(default_factory=RulesJudge)
    penalty: Penalty = field(default_factory=Penalty)

    def score_group(self, transcripts: RolloutGroup, excluded: Sequence[str | None] | None = None) -> list[RewardBreakdown]:
        """Rewards of the members of one group, in order. They must all be of the same example.

        `excluded` says for each member why it is left out, or None; such a member is not judged.
        """
        return self.score_groups([transcripts], [excluded])[0]

    def score_groups(
        self, groups: Sequence[RolloutGroup], excluded: Sequence[Sequence[str | None] | None] | None = None
    ) -> list[list[RewardBreakdown]]:
        """As `score_group`, of many groups whose answers are judged together."""
        reasons = [e or [None] * len(g) for g, e in zip(groups, excluded or [None] * len(groups), strict=True)]
        kept = [t for g, why in zip(groups, reasons, strict=True) for t, w in zip(g, why, strict=True) if not w]
        judged = iter(judge_transcripts(self.judge, kept))
        return [
            self._score(g, [Verdict("unscored", "filter", w) if w else next(judged) for w in why])
            for g, why in zip(groups, reasons, strict=True)
        ]

    def _score(self, transcripts: RolloutGroup, verdicts: Sequence[Verdict]) -> list[RewardBreakdown]:
        scored = [i for i, v in enumerate(verdicts) if v.verdict != "unscored"]
        paid = self.penalty([transcripts[i].requested for i in scored], [verdicts[i].verdict == "correct" for i in scored])
        penalties = dict(zip(scored, paid, strict=True))
        return [
            self._breakdown(v, format_reward(t, self.protocol), penalties.get(i))
            for i, (t, v) in enumerate(zip(transcripts, verdicts, strict=True))
        ]

    @staticmethod
    def _breakdown(verdict: Verdict, form: float, penalty: float | None) -> RewardBreakdown:
        if penalty is None:
            return RewardBreakdown(accuracy=None, format=form, penalty=0.0, total=None, verdict=verdict)
        accuracy = float(verdict.verdict == "correct")
        return RewardBreakdown(accuracy=accuracy, format=form, penalty=penalty, total=accuracy + form - penalty, verdict=verdict)
