"""P_control: what a member pays for the action it took (Eq. 5 and 6 of arXiv 2507.13348), in named forms.

    r = C_direct / (C_direct + C_high),  C = number of *correct* members that answered directly / after a request
    P = weight * [ 1_direct I(r < theta) + 1_high I(r >= theta) ]

When few of the correct answers came directly, a direct answer is a lucky guess and pays; otherwise the request is a
luxury and pays. Without a correct member r is undefined and nobody pays.

Who pays, by name of the penalty:

    eq5       as above, every member by its action (scope "correct": correct members only)
    eqN       Eq. 5 for ladders: r_j = share of the correct members whose highest rung is at most j; every member that stopped
              at another rung than the least j with r_j >= theta. With two rungs it is eq5
    released  the authors' code: a correct request always, a correct direct answer if 0 < r' < theta
    constant  a correct request (Search-R1 style; "All Penalty" in Fig. 3a)
    awares    AwaRes (arXiv 2603.16932): 2 for a direct answer where a look is needed; for a look 0.25 + 0.01 x the share of
              the image that it shows
    none      nobody ("w/o Penalty" in Fig. 3a)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from visionthink.errors import DataError, OptionError, choose_from


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A member of a group, and what its group did. `right` counts the group's correct members by their highest rung."""

    rung: int
    correct: bool
    area: float
    hard: bool | None
    right: tuple[int, ...]
    theta: float

    @property
    def requested(self) -> bool:
        return self.rung > 0


def _eq5(m: _Member) -> float:
    return sum(m.right) > 0 and m.requested == (m.right[0] / sum(m.right) >= m.theta)


def _eq_n(m: _Member) -> float:
    if not sum(m.right):
        return 0.0
    up_to = itertools.accumulate(m.right)
    return m.rung != next(j for j, right in enumerate(up_to) if right / sum(m.right) >= m.theta)


def _released(m: _Member) -> float:
    share = m.right[0] / (sum(m.right) + 1e-4)  # the small number is theirs: at exactly theta it counts as below
    return m.correct and (m.requested or 0 < share < m.theta)


def _constant(m: _Member) -> float:
    return m.correct and m.requested


def _awares(m: _Member) -> float:
    if m.requested:
        return 2.5 + 0.1 * m.area
    if m.hard is None:
        raise DataError("penalty awares: its need (easy or hard) is not known; label it, or use another penalty")
    return 20.0 * m.hard


def _nobody(m: _Member) -> float:
    return 0.0


PENALTIES: Mapping[str, Callable[[_Member], float]] = {
    "eq5": _eq5,
    "eqN": _eq_n,
    "released": _released,
    "constant": _constant,
    "awares": _awares,
    "none": _nobody,
}
"""What a member pays, in units of the penalty's weight, by the penalty's name."""


@dataclass(frozen=True)
class Penalty:
    """A named penalty. `theta` is the threshold on r, `weight` the amount paid; that of `awares` is 0.1 for the paper's."""

    name: str = "eq5"
    _: KW_ONLY
    theta: float = 0.2
    weight: float = 0.1
    scope: Literal["all", "correct"] = "all"

    def __post_init__(self) -> None:
        if self.name not in PENALTIES:
            raise OptionError(f"unknown penalty {self.name!r}; {choose_from(self.name, PENALTIES)}, with an amount as eq5:0.1")
        if self.scope not in ("all", "correct"):
            raise OptionError(f"penalty scope {self.scope!r}: choose all or correct")
        if not 0 <= self.weight < math.inf:
            raise OptionError(f"penalty weight {self.weight}: must be a number of at least 0")
        if not 0 <= self.theta <= 1:
            raise OptionError(f"penalty theta {self.theta}: a share, from 0 to 1")

    @classmethod
    def parse(cls, text: str, *, theta: float = 0.2, scope: Literal["all", "correct"] = "all") -> Penalty:
        """From NAME or NAME:AMOUNT, as `constant:0.05`; the amount is 0.1 where none is named.

        Raises:
            OptionError: an unknown name, an amount that is no number of at least 0, or one of the penalty that nobody pays.
        """
        name, colon, amount = text.partition(":")
        if not colon:
            return cls(name, theta=theta, scope=scope)
        try:
            weight = float(amount)
        except ValueError:
            raise OptionError(f"penalty {text!r}: the amount must be a number of at least 0, as {name}:0.1") from None
        penalty = cls(name, theta=theta, weight=weight, scope=scope)
        if PENALTIES[name] is _nobody:
            raise OptionError(f"penalty {text!r}: nobody pays, so there is no amount")
        return penalty

    def __call__(
        self,
        rungs: Sequence[int],
        correct: Sequence[bool],
        *,
        areas: Sequence[float] | None = None,
        hard: bool | None = None,
    ) -> list[float]:
        """What each member of one group pays. Members that were not scored must be left out beforehand.

        Args:
            rungs: the highest rung of the ladder that each member was shown, 0 for the first view, [group]. With two rungs it may
                be whether the member asked for and got more resolution.
            correct: whether its answer is correct, [group].
            areas: share of the image that each looked at, [group]; of `awares` only.
            hard: whether the group's example needs a look; of `awares` only.

        Raises:
            DataError: the penalty depends on the need of the example, which is not known.
        """
        right = [0] * (1 + max(map(int, rungs), default=0))
        for rung, is_right in zip(rungs, correct, strict=True):
            right[int(rung)] += is_right
        members = [
            _Member(rung=int(rung), correct=c, area=area, hard=hard, right=tuple(right), theta=self.theta)
            for rung, c, area in zip(rungs, correct, areas or [0.0] * len(rungs), strict=True)
        ]
        return [self.weight * self._pays(member) for member in members]

    def _pays(self, member: _Member) -> float:
        return PENALTIES[self.name](member) if member.correct or self.scope == "all" else 0.0
