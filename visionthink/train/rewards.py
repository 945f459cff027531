"""The rubric as TRL's reward callables: accuracy, format and penalty, scored once per batch of whole groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from visionthink.rewards.rubric import RewardBreakdown, Rubric
from visionthink.train.environment import ResolutionEnvironment

RewardFunction = Callable[..., list[float | None]]


class GroupRewards:
    """Three callables over one scoring. TRL calls them in order and hands each the same environments.

    A member that could not be scored gets None from all three: TRL then leaves it out of the group's statistics.
    """

    def __init__(self, rubric: Rubric, group_size: int):
        self.rubric, self.group_size = rubric, group_size
        self.latest: list[RewardBreakdown] = []

    def functions(self) -> list[RewardFunction]:
        """In this order: the first scores, the others read."""
        return [self.accuracy, self.format, self.penalty]

    def accuracy(
        self, environments: Sequence[ResolutionEnvironment], log_metric: Callable[[str, float], None], **_: Any
    ) -> list[float | None]:
        transcripts = [environment.transcript for environment in environments]
        self.latest = self.rubric.score_groups(transcripts, self.group_size)
        log_metric("request_ratio", sum(t.requested for t in transcripts) / len(transcripts))
        log_metric("retain_cumulative", sum(t.retain_cumulative for t in transcripts) / len(transcripts))
        log_metric("unscored", sum(b.total is None for b in self.latest) / len(self.latest))
        for need in ("easy", "hard"):
            asked = [t.requested for t in transcripts if t.need == need]
            if asked:
                log_metric(f"request_ratio/{need}", sum(asked) / len(asked))
        return [b.accuracy for b in self.latest]

    def format(self, **_: Any) -> list[float | None]:
        return [None if b.total is None else b.format for b in self.latest]

    def penalty(self, **_: Any) -> list[float | None]:
        return [None if b.total is None else -b.penalty for b in self.latest]
