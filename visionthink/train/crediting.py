"""What the settings of a GRPO run say of credit: names to values, and which go together."""

from __future__ import annotations

from pathlib import Path

from visionthink.errors import OptionError
from visionthink.menu import Menu
from visionthink.rewards.benefit import Benefit
from visionthink.rewards.budget import Budget
from visionthink.rewards.costs import DeviceTable
from visionthink.rewards.credit import CREDITS, Credit
from visionthink.rewards.penalty import Penalty
from visionthink.train.exclusions import Exclusion, parse_exclusions
from visionthink.train.forced_looks import parse_actions

OVER_LIMIT = ("mask", "exclude", "penalise")


class CreditSettings:
    """A part of the settings of a GRPO run, which declares the fields named here."""

    credit: str
    penalty: str
    theta: float
    budget: str
    device_table: str
    over_limit: str
    benefit: str
    exclude: str
    forced: int
    forced_actions: str
    group_size: int

    def rollout_menu(self) -> Menu:
        raise NotImplementedError

    def rollout_credit(self) -> Credit:
        return Credit.parse(self.credit or ("centred" if self.budget else "eq3"))

    def rollout_budget(self) -> Budget | None:
        return Budget.parse(self.budget) if self.budget else None

    @property
    def penalty_name(self) -> str:
        """The penalty that is named, or goes with the credit. A budget sets what looking costs by itself."""
        return self.penalty or ("none" if self.budget or not self.rollout_menu().asks else self.rollout_credit().penalty)

    def rollout_benefit(self) -> Benefit:
        return Benefit.parse(self.benefit)

    def actions(self) -> tuple[str, ...]:
        """What members are made to do, where some are."""
        return parse_actions(self.forced_actions, self.rollout_menu()) if self.forced else ()

    def over_limits(self) -> str:
        """What becomes of a member that asks on where a limit is reached."""
        return self.over_limit or ("mask" if self.rollout_menu().most_turns > 2 else "penalise")

    def exclusions(self) -> tuple[Exclusion, ...]:
        """Members that are left out."""
        named = parse_exclusions(self.exclude)
        return (*named, "over_limit") if self.over_limits() == "exclude" else named

    def _check_credit(self, penalty: Penalty) -> None:
        """
        Raises:
            OptionError: a name is unknown, or settings do not go together.
        """
        credit, budget, benefit = self.rollout_credit(), self.rollout_budget(), self.rollout_benefit()
        self.exclusions()
        if self.over_limits() not in OVER_LIMIT:
            raise OptionError(f"unknown over_limit {self.over_limit!r}; choose {', '.join(OVER_LIMIT)}")
        taken = len(self.actions()) * self.forced
        if self.group_size - taken < 2:
            raise OptionError(f"forced {self.forced}: leaves fewer than 2 of {self.group_size} rollouts free")
        if not self.forced and self.forced_actions != type(self).forced_actions:
            raise OptionError(f"forced_actions {self.forced_actions}: nobody is made to act; use --forced 2 or more")
        if credit.name == "branches" and not self.forced:
            raise OptionError("credit branches: needs members that are made to act; use --forced 2 or more")
        if penalty.name != "none" and not credit.takes_penalty:
            raise OptionError(f"penalty {penalty.name}: credit {credit.name} takes none; use --penalty none, or another credit")
        if benefit.name != "none" and credit.name == "branches":
            raise OptionError(
                f"benefit {benefit.name}: credit branches measures by itself what looking brings; use --benefit none, or another "
                "credit"
            )
        if benefit.name == "value" and not {"direct"} < {*self.actions()}:
            raise OptionError("benefit value: is measured on members that are made to act; use --forced 2 or more")
        if budget is None:
            if self.device_table:
                raise OptionError(f"device_table {self.device_table}: is for a budget in milliseconds; use --budget ms=0.5")
            return
        if "price" not in CREDITS[credit.name].settings:
            raise OptionError(f"budget {self.budget}: credit {credit.name} has no price that it could set; use --credit centred")
        if credit.own_price:
            raise OptionError(f"budget {self.budget}: sets the price by itself; leave it out of credit {self.credit}")
        if penalty.name != "none":
            raise OptionError(f"budget {self.budget}: sets what looking costs; use --penalty none instead of {penalty.name}")
        self._check_reachable(budget)

    def _check_reachable(self, budget: Budget) -> None:
        menu = self.rollout_menu()
        if not menu.asks:
            raise OptionError(
                f"budget {self.budget}: with the levels {menu.ladder} nothing can be asked for; take another menu or ladder"
            )
        least = menu.ladder.levels[0]
        if budget.unit == "visual" and budget.share <= least:
            raise OptionError(f"budget {self.budget}: the first view alone is {least:g} of the full one; take a larger share")
        most = least + menu.most_turns - 1  # a view costs at most what the full one does
        if budget.unit == "visual" and not menu.has_regions and budget.share >= most:
            raise OptionError(
                f"budget {self.budget}: no episode costs more than {most:g} times the full view; take a smaller share, as 0.4 "
                "for 40 %"
            )
        if (budget.unit == "ms") != bool(self.device_table):
            wanted = "visionthink measure --model M --out FILE, then --device-table FILE"
            other = f"device_table {self.device_table}: is for a budget in milliseconds"
            raise OptionError(f"budget {self.budget}: needs the times of a device: {wanted}" if budget.unit == "ms" else other)
        if budget.unit == "ms":
            DeviceTable.read(Path(self.device_table))
