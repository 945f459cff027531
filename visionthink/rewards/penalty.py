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
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from visionthink.errors import OptionError

PenaltyName = Literal["eq5", "released", "constant", "none"]


@dataclass(frozen=True)
class Penalty:
    """A named penalty. `theta` is the threshold on r, `weight` the amount paid."""

    name: PenaltyName = "eq5"
    _: KW_ONLY
    theta: float = 0.2
    weight: float = 0.1
    scope: Literal["all", "correct"] = "all"

    def __post_init__(self) -> None:
        if self.name not in ("eq5", "released", "constant", "none"):
            raise OptionError(f"unknown penalty {self.name!r}; choose eq5, released, constant or none")
        if self.scope not in ("all", "correct"):
            raise OptionError(f"penalty scope {self.scope!r}: choose all or correct")
        if not 0 <= self.weight < math.inf:
            raise OptionError(f"penalty weight {self.weight}: must be a number of at least 0")
        if not 0 <= self.theta <= 1:
            raise OptionError(f"penalty theta {self.theta}: a share, from 0 to 1")

    def __call__(self, requested: Sequence[bool], correct: Sequence[bool]) -> list[float]:
        """What each member of one group pays. Members that were not scored must be left out beforehand.

        Args:
            requested: whether the member asked for and got more resolution, [group].
            correct: whether its answer is correct, [group].
        """
        direct_right = sum(c and not q for q, c in zip(requested, correct, strict=True))
        right = sum(correct)
        pays = [self._pays(q, c, direct_right, right) for q, c in zip(requested, correct, strict=True)]
        return [self.weight if p else 0.0 for p in pays]

    def _pays(self, requested: bool, correct: bool, direct_right: int, right: int) -> bool:
        if right == 0 or self.name == "none":
            return False
        if self.name == "constant":
            return correct and requested
        if self.name == "released":
            share = direct_right / (right + 1e-4)  # the small number is theirs: at exactly theta it counts as below
            return correct and (requested or 0 < share < self.theta)
        if self.scope == "correct" and not correct:
            return False
        return requested == (direct_right / right >= self.theta)
