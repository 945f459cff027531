"""R = R_accuracy + R_format - P_control for a whole group (Sec. 3.4 of arXiv 2507.13348), a channel each.

Unscored is not zero: a member whose answer could not be judged is left out of the group's counts and gets no reward at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

from visionthink.errors import DataError
from visionthink.protocol import Protocol
from visionthink.rewards.benefit import Benefit
from visionthink.rewards.channels import Channels, covered, looked_area, rungs
from visionthink.rewards.costs import Meter, visual
from visionthink.rewards.format import format_reward
from visionthink.rewards.judge import Judge, Verdict, judge_transcripts
from visionthink.rewards.penalty import Penalty
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.transcript import RolloutGroup
from visionthink.types import Evidence


@dataclass(frozen=True)
class Rubric:
    """How transcripts are rewarded. A general-VQA rubric is one with the penalty `none`."""

    protocol: Protocol = field(default_factory=Protocol)
    judge: Judge = field(default_factory=RulesJudge)
    penalty: Penalty = field(default_factory=Penalty)
    _: KW_ONLY
    benefit: Benefit = field(default_factory=Benefit)
    meter: Meter = visual
    """What an episode costs."""

    def score_group(
        self, transcripts: RolloutGroup, excluded: Sequence[str | None] | None = None, evidence: Evidence = ()
    ) -> list[Channels]:
        """Channels of the members of one group, in order. They must all be of the same example.

        `excluded` says for each member why it is left out, or None; such a member is not judged. `evidence` is what the answer
        depends on, in the first image, where it is known.
        """
        return self.score_groups([transcripts], [excluded], [evidence])[0]

    def score_groups(
        self,
        groups: Sequence[RolloutGroup],
        excluded: Sequence[Sequence[str | None] | None] | None = None,
        evidence: Sequence[Evidence] | None = None,
    ) -> list[list[Channels]]:
        """The same as `score_group`, for many groups whose answers are judged together."""
        reasons = [e or [None] * len(g) for g, e in zip(groups, excluded or [None] * len(groups), strict=True)]
        kept = [t for g, why in zip(groups, reasons, strict=True) for t, w in zip(g, why, strict=True) if not w]
        judged = iter(judge_transcripts(self.judge, kept))
        return [
            self._score(group, [Verdict("unscored", "filter", w) if w else next(judged) for w in why], known)
            for group, why, known in zip(groups, reasons, evidence or [()] * len(groups), strict=True)
        ]

    def _score(self, group: RolloutGroup, verdicts: Sequence[Verdict], evidence: Evidence) -> list[Channels]:
        scored = [i for i, v in enumerate(verdicts) if v.verdict != "unscored"]
        climbed, areas = rungs(group), [looked_area(t) for t in group]
        try:
            paid = self.penalty(
                [climbed[i] for i in scored],
                [verdicts[i].verdict == "correct" for i in scored],
                areas=[areas[i] for i in scored],
                hard=None if group[0].need is None else group[0].need == "hard",
            )
        except DataError as error:
            raise DataError(f"example {group[0].example_id}: {error}") from None
        penalties = dict(zip(scored, paid, strict=True))
        bonuses = self.benefit(group, verdicts)
        members = []
        for i, (transcript, verdict) in enumerate(zip(group, verdicts, strict=True)):
            cost, full = self.meter(transcript) or (None, 1.0)
            members.append(
                Channels(
                    verdict=verdict,
                    accuracy=float(verdict.verdict == "correct") if i in penalties else None,
                    format=format_reward(transcript, self.protocol),
                    penalty=penalties.get(i, 0.0),
                    bonus=bonuses[i] if i in penalties else 0.0,
                    cost=cost,
                    full=full,
                    crop=covered(transcript, evidence),
                    area=areas[i],
                )
            )
        return members
