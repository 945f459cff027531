"""From the channels of a step's members to their advantages. Arithmetic on arrays; what learns from them is elsewhere.

z(x) = (x - mean) / (std + 1e-4) within the group, over its scored members; c = cost / cost of always-full; lambda = the price.
Advantages, by name of the credit:

    eq3       z(reward), as TRL computes it (Eq. 3 of arXiv 2507.13348)
    sum       z(reward - lambda c)
    gdpo      whitened over the step: z(accuracy) + z(format) - lambda (z(penalty) + z(c)) (GDPO, arXiv 2601.05242)
    centred   z(accuracy + format) - (penalty - its mean) - lambda (c - its mean): a cost keeps its price
    dtpo      first turn z(reward) + weight z(crop), last turn z(reward), each turn's tokens averaged by themselves
              (AdaptVision, arXiv 2512.03794, Eq. 11-15)
    branches  the decision: what the forced members of its branch gained less what the policy gains on average; other tokens:
              the outcome less the mean of their branch

A bonus counts with accuracy. Unscored members take no part, and their advantage is 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from visionthink.errors import OptionError, choose_from
from visionthink.rewards.branches import branch_credit
from visionthink.rewards.members import Member, Members, centred_within, normalised

Advantages: TypeAlias = "list[np.ndarray]"
"""For each member one number, shape (), or one for each of its ids after the opening, [ids]."""
Summed: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""An array, added up over all processes."""

_EPS_TRL, _EPS_VERL = 1e-4, 1e-6


def alone(array: np.ndarray) -> np.ndarray:
    """The sum over the processes of a run that has one."""
    return array


def _same(values: np.ndarray) -> Advantages:
    return list(np.nan_to_num(values))


def _sum(members: Members, credit: Credit, price: float, summed: Summed) -> Advantages:
    return _same(normalised(members.total - _priced(members, price), members.groups, _EPS_TRL))


def _priced(members: Members, price: float) -> np.ndarray:
    """What is paid for the cost; nothing where there is no price, known cost or not."""
    return price * members.share if price else np.zeros(len(members))


def _gdpo(members: Members, credit: Credit, price: float, summed: Summed) -> Advantages:
    def z(values: np.ndarray) -> np.ndarray:
        return normalised(values, members.groups, _EPS_TRL)

    score = z(members.accuracy + members.bonus) + z(members.format) - price * (z(members.penalty) + z(members.share))
    there = ~np.isnan(score)
    n, total = summed(np.array([there.sum(), score[there].sum()]))
    mean = total / max(n, 1)
    [squares] = summed(np.array([((score[there] - mean) ** 2).sum()]))
    return _same((score - mean) / (math.sqrt(squares / max(n - 1, 1)) + _EPS_TRL))


def _centred(members: Members, credit: Credit, price: float, summed: Summed) -> Advantages:
    gained = normalised(members.outcome, members.groups, _EPS_TRL)
    # a member that was forced did not choose its cost
    chosen = np.where(members.forced, np.nan, members.penalty + _priced(members, price))
    advantages = gained - np.nan_to_num(centred_within(chosen, members.groups))
    if credit.floor:
        advantages = np.where(advantages * gained < 0, 0.0, advantages)
    return _same(advantages)


def _dtpo(members: Members, credit: Credit, price: float, summed: Summed) -> Advantages:
    outcome = np.nan_to_num(normalised(members.total - _priced(members, price), members.groups, _EPS_VERL))
    call = credit.weight * np.nan_to_num(normalised(crop_reward(members), members.groups, _EPS_VERL))
    rows, counts = [], np.zeros(2)
    for i, member in enumerate(members.members):
        first = (member.turns >= 0) & (member.turns < member.last)
        last = member.turns == member.last
        counts += (first.sum(), last.sum())
        rows.append((first, last, outcome[i] + call[i], outcome[i] + (call[i] if member.last == 0 else 0.0)))
    counts = summed(counts)
    # one mean over all tokens of scaled advantages is the sum of two means, of the tokens of first and of last turns
    scale = np.array([credit.first, 1.0]) * counts.sum() / np.maximum(counts, 1)
    return [scale[0] * first * of_first + scale[1] * last * of_last for first, last, of_first, of_last in rows]


def crop_reward(members: Members) -> np.ndarray:
    """R_tool = crop - 2 R_area of AdaptVision; R_area = clip(area / mean area - 1, 0, 1) over the members of a group that are
    right and looked at what they needed. 0 for a direct answer, nan where the evidence is not known."""
    effective = (members.crop == 1) & (members.accuracy == 1)
    reward = members.crop.copy()
    for group in members.groups:
        chosen = group[effective[group]]
        if len(chosen):
            reward[chosen] -= 2 * np.clip(members.area[chosen] / members.area[chosen].mean() - 1, 0, 1)
    return np.where(np.isnan(members.accuracy), np.nan, reward)


def _branches(members: Members, credit: Credit, price: float, summed: Summed) -> Advantages:
    return branch_credit(members, price, shrink=credit.shrink)


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """How a credit is computed, which settings it takes, and what goes with it."""

    compute: Callable[[Members, Credit, float, Summed], Advantages]
    settings: tuple[str, ...] = ()
    channels: tuple[str, ...] = ("total", "share")
    """Channels of which one must vary for a group to be learnt from; the cost counts only where it has a price."""
    loss: str = "grpo"
    """Loss of TRL: `grpo` is a mean over tokens, then over rollouts; `dapo` one mean over all tokens of the step."""
    penalty: str = "eq5"
    """What is paid for actions where nothing else is asked for."""
    priced_penalty: str = "none"
    """The penalty that goes with it where a cost has a price."""
    price: float = 0.0
    """Where none is named."""


CREDITS: Mapping[str, _Rule] = {
    "eq3": _Rule(compute=_sum),
    "sum": _Rule(compute=_sum, settings=("price",)),
    "gdpo": _Rule(
        compute=_gdpo,
        settings=("price",),
        channels=("accuracy", "bonus", "format", "penalty", "share"),
        priced_penalty="eq5",  # the price is the weight of both
        price=0.1,
    ),
    "centred": _Rule(compute=_centred, settings=("price", "floor"), channels=("outcome", "penalty", "share")),
    "dtpo": _Rule(
        compute=_dtpo,
        settings=("price", "weight", "first"),
        channels=("total", "share", "crop", "area"),
        loss="dapo",
        penalty="released",
    ),
    "branches": _Rule(compute=_branches, settings=("price", "shrink"), channels=("outcome", "share"), penalty="none"),
}
"""Credits by name."""


@dataclass(frozen=True, kw_only=True)
class Credit:
    """How advantages follow from channels."""

    name: str = "eq3"
    price: float = 0.0
    """Lambda: what a cost of always-full takes from the reward. A budget sets it step by step."""
    floor: bool = False
    """Whether what is paid may not turn the sign of z (`centred`)."""
    weight: float = 0.3
    """Weight of the crop's reward on first turns (`dtpo`); lambda of the paper."""
    first: float = 1.0
    """Weight of the mean over tokens of first turns (`dtpo`): 1 in the paper, 0.5 in the released code."""
    shrink: float = 0.0
    """Differences between branches of k forced members count k / (k + shrink) times (`branches`)."""

    def __post_init__(self) -> None:
        if self.name not in CREDITS:
            known = choose_from(self.name, CREDITS)
            raise OptionError(f"unknown credit {self.name!r}; {known}, with settings as centred:price=0.1")
        for name in ("price", "weight", "first", "shrink"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"credit {self.name}: {name} {getattr(self, name)}: must be a number of at least 0")

    @classmethod
    def parse(cls, text: str) -> Credit:
        """From NAME or NAME:SETTING=VALUE,..., as `dtpo:first=0.5`.

        Raises:
            OptionError: an unknown name, a setting that this credit has not, or a value that it cannot have.
        """
        name, _, rest = text.partition(":")
        if name not in CREDITS:
            return cls(name=name)
        rule, given = CREDITS[name], dict[str, Any]()
        for part in filter(None, rest.split(",")):
            setting, _, value = (each.strip() for each in part.partition("="))
            if setting not in rule.settings:
                known = ", ".join(rule.settings) or "none"
                raise OptionError(f"credit {text!r}: {name} has no setting {setting!r}; settings of {name}: {known}")
            if setting in given:
                raise OptionError(f"credit {text!r}: {setting} is named twice")
            given[setting] = _value(text, setting, value)
        return dataclasses.replace(cls(name=name, price=rule.price), **given)

    @property
    def by_trl(self) -> bool:
        """Whether TRL computes the advantages itself."""
        return self.name == "eq3"

    @property
    def loss(self) -> str:
        """The loss of TRL that these advantages are meant for."""
        return CREDITS[self.name].loss

    @property
    def penalty(self) -> str:
        """The penalty that goes with it where none is named."""
        rule = CREDITS[self.name]
        return rule.priced_penalty if self.price else rule.penalty

    @property
    def takes_penalty(self) -> bool:
        """Whether what is paid for actions enters these advantages."""
        return bool({"total", "penalty"} & {*CREDITS[self.name].channels})

    @property
    def own_price(self) -> bool:
        """Whether the price is another than the one that goes with the name."""
        return self.price != CREDITS[self.name].price

    def advantages(self, groups: Sequence[Sequence[Member]], price: float | None = None, summed: Summed = alone) -> Advantages:
        """Advantages of all members, in order.

        Args:
            groups: of this process, whole.
            price: in place of the credit's own.
            summed: adds arrays up over all processes, each of which must call this.
        """
        members = Members(groups)
        found = CREDITS[self.name].compute(members, self, self.price if price is None else price, summed)
        learnt = [member.turns >= 0 for member in members.members]
        return [
            np.where(of_ids if values.ndim else of_ids.any(), values, 0.0) for of_ids, values in zip(learnt, found, strict=True)
        ]

    def varies(self, group: Sequence[Member], price: float | None = None) -> bool:
        """Whether a group has anything to compare: two scored members that differ in a channel that counts."""
        priced = self.price if price is None else price
        names = [name for name in CREDITS[self.name].channels if name != "share" or priced]
        scored = [m.channels for m in group if m.channels.accuracy is not None]
        return any(len({_rounded(getattr(c, name)) for c in scored}) > 1 for name in names)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _value(text: str, setting: str, value: str) -> float | bool:
    if setting == "floor":
        if value.lower() not in ("", "true", "false"):
            raise OptionError(f"credit {text!r}: floor must be true or false")
        return value.lower() != "false"
    try:
        return float(value)
    except ValueError:
        raise OptionError(f"credit {text!r}: {setting} must be a number, as {setting}=0.1") from None
