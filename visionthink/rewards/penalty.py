"""P_control: what a group pays for the action it took (Eq. 5 and 6 of arXiv 2507.13348), in four named forms.

    r = C_direct / (C_direct + C_high),  C = number of *correct* members that answered directly / after a request
    P = weight * [ 1_direct I(r < theta) + 1_high I(r >= theta) ]

When few of the correct answers came directly, a direct answer is a lucky guess and pays; otherwise the request is a
luxury and pays. Without a correct member r is undefined and nobody pays.

| name       | who pays                                                                                  |
|------------|-------------------------------------------------------------------------------------------|
| `eq5`      | as above, every member by its action (`scope="correct"`: correct members only)            |
| `released` | the authors' code: a correct request always, a correct direct answer if 0 < r' < theta     |
| `constant` | a correct request (Search-R1 style; "All Penalty" in Fig. 3a)                              |
| `none`     | nobody ("w/o Penalty" in Fig. 3a)                                                         |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from visionthink.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A member of a group that holds at least one correct answer, and what its group did."""

    requested: bool
    correct: bool
    direct_right: int
    right: int
    theta: float


def _eq5(m: _Member) -> bool:
    return m.requested == (m.direct_right / m.right >= m.theta)


def _released(m: _Member) -> bool:
    share = m.direct_right / (m.right + 1e-4)  # the small number is theirs: at exactly theta it counts as below
    return m.correct and (m.requested or 0 < share < m.theta)


def _constant(m: _Member) -> bool:
    return m.correct and m.requested


def _nobody(m: _Member) -> bool:
    return False


PENALTIES: Mapping[str, Callable[[_Member], bool]] = {
    "eq5": _eq5,
    "released": _released,
    "constant": _constant,
    "none": _nobody,
}
"""Whether a member pays, by the penalty's name."""


@dataclass(frozen=True)
class Penalty:
    """A named penalty. `theta` is the threshold on r, `weight` the amount paid."""

    name: str = "eq5"
    _: KW_ONLY
    theta: float = 0.2
    weight: float = 0.1
    scope: Literal["all", "correct"] = "all"

    def __post_init__(self) -> None:
        if self.name not in PENALTIES:
            *most, last = PENALTIES
            raise OptionError(f"unknown penalty {self.name!r}; choose {', '.join(most)} or {last}, with an amount as eq5:0.1")
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

    def __call__(self, requested: Sequence[bool], correct: Sequence[bool]) -> list[float]:
        """What each member of one group pays. Members that were not scored must be left out beforehand.

        Args:
            requested: whether the member asked for and got more resolution, [group].
            correct: whether its answer is correct, [group].
        """
        direct_right = sum(c and not q for q, c in zip(requested, correct, strict=True))
        right = sum(correct)
        members = [
            _Member(requested=q, correct=c, direct_right=direct_right, right=right, theta=self.theta)
            for q, c in zip(requested, correct, strict=True)
        ]
        return [self.weight if right and self._pays(member) else 0.0 for member in members]

    def _pays(self, member: _Member) -> bool:
        return (member.correct or self.scope == "all") and PENALTIES[self.name](member)
