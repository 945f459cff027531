"""The members of a step as arrays, and what is computed within groups."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from visionthink.rewards.channels import Channels


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """What credit is given to, and for what."""

    channels: Channels
    turns: np.ndarray
    """For each id after the opening the turn in which it was sampled, from 0; -1 where nothing is learnt from it. [ids]"""
    last: int = 0
    """The last turn."""
    action: Hashable = "answer"
    """What it did first: its looks, or the kind."""
    kind: str = "answer"
    """The first action, coarsely: `whole` or `crop` where it looked, else how the turn was read, as `answer`."""
    forced: bool = False
    """Whether someone else decided on its action."""
    decision: int | None = None
    """Place of the id with which it decided to answer, where something could be asked for."""
    probability: float | None = None
    """Probability of its action under the policy, where one id decides."""


class Members:
    """All members of a step on this process. Arrays have one value per member, nan where it is unscored."""

    def __init__(self, groups: Sequence[Sequence[Member]]):
        self.members = [member for group in groups for member in group]
        ends = np.cumsum([0, *map(len, groups)])
        self.groups = [np.arange(begin, end) for begin, end in itertools.pairwise(ends)]
        self.forced = np.array([member.forced for member in self.members], dtype=bool)
        self.area = np.array([member.channels.area for member in self.members])
        self.accuracy, self.outcome, self.total = self._scored("accuracy"), self._scored("outcome"), self._scored("total")
        self.format, self.penalty, self.bonus = self._scored("format"), self._scored("penalty"), self._scored("bonus")
        self.crop, self.share = self._scored("crop"), self._scored("share")

    def __len__(self) -> int:
        return len(self.members)

    def _scored(self, name: str) -> np.ndarray:
        """A channel; of a member without accuracy nothing counts."""
        channels = [member.channels for member in self.members]
        return np.array([np.nan if c.accuracy is None else getattr(c, name) for c in channels], dtype=float)


def centred_within(values: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Values less the mean of their group; nan stays nan and counts in no mean."""
    found = values.copy()
    for group in groups:
        there = group[~np.isnan(values[group])]
        if len(there):
            found[there] -= values[there].mean()
    return found


def normalised(values: np.ndarray, groups: Sequence[np.ndarray], eps: float) -> np.ndarray:
    """Centred values over the group's standard deviation, with n - 1, plus `eps`."""
    found = centred_within(values, groups)
    for group in groups:
        there = group[~np.isnan(values[group])]
        deviation = values[there].std(ddof=1) if len(there) > 1 else 0.0
        found[there] /= deviation + eps
    return found
