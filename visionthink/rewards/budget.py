"""A budget: maximise accuracy subject to a mean cost of at most a share b of always-full, by dual ascent on the price of a cost.

    lambda <- clip(lambda + eta (mean c / b - 1), 0, ceiling)          once a step, after its rollouts
    price   = clip(lambda + damping (mean c / b - 1), 0, ceiling)      of the next step

The mean is a ratio of sums over the free members of the step. A member pays price (c - mean c of its group) / b (see `credit`):
linear, as the Lagrangian of a mean is. At the ceiling a wrong cheap answer would be worth as much as a right expensive one.
Policy and lambda follow each other with a delay and swing; the damping, a term in proportion to what is overspent, holds that
down (PID Lagrangian methods, arXiv 2007.03964).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from visionthink.errors import OptionError
from visionthink.rewards.costs import UNITS

FORMAT_RATE = 0.9
"""The price stays 0 until so many replies keep the format: before that, what is cheap is chance."""


@dataclass(frozen=True, kw_only=True)
class Dual:
    """Where the price of a run stands; kept in its checkpoints."""

    weight: float = 0.0
    """Lambda, for the next step."""
    price: float = 0.0
    """What the next step uses: lambda, damped."""
    running: float | None = None
    """Running mean of the steps' mean costs; None before the first step."""
    steps: int = 0
    total: float = 0.0
    """Sum of lambda after each of the `steps`."""
    least: float | None = None
    most: float | None = None
    """The least and the largest cost of all free members so far, relative to always-full."""
    held: bool = True
    """Whether too few replies have kept the format so far."""

    @property
    def mean(self) -> float:
        """Average of lambda."""
        return self.total / self.steps if self.steps else self.weight


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the free members of a step cost, over all processes."""

    cost: float
    full: float
    """Sums, the latter of always-full."""
    least: float
    most: float
    """The least and the largest cost among the members, relative to always-full."""
    form: float
    """Share of members that kept the format."""

    @property
    def share(self) -> float:
        return self.cost / self.full


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an episode may cost on average."""

    unit: str
    share: float
    """The budget b as a share of always-full, above 0."""
    eta: float = 0.05
    """How fast the price moves."""
    damping: float = 0.2
    """What the price has beyond lambda where twice the budget is spent; 0 is plain dual ascent."""
    ema: float = 1.0
    """Weight of a step in the running mean that moves the price; 1 takes the step alone."""
    ceiling: float | None = None
    """The most that lambda may be; None: b / (most - least cost seen), times the least distance of right from wrong in z."""

    @classmethod
    def parse(cls, text: str) -> Budget:
        """From UNIT=SHARE, with settings behind it: `visual=0.4`, `flops=0.5,eta=0.02`.

        Raises:
            OptionError: it is no such text, or a number cannot be.
        """
        parts = [[each.strip() for each in part.partition("=")[::2]] for part in text.split(",")]
        (unit, share), settings = parts[0], parts[1:]
        if unit not in UNITS:
            raise OptionError(f"budget {text!r}: expected UNIT=SHARE with a unit of {', '.join(UNITS)}, as visual=0.4")
        for name, _ in settings:
            if name not in ("eta", "damping", "ema", "ceiling"):
                raise OptionError(
                    f"budget {text!r}: no setting {name!r}; choose eta, damping, ema or ceiling, as {unit}=0.4,eta=0.05"
                )
            if [name for name, _ in settings].count(name) > 1:
                raise OptionError(f"budget {text!r}: {name} is named twice")
        try:
            numbers = {name: float(value) for name, value in (("share", share), *settings)}
        except ValueError:
            raise OptionError(f"budget {text!r}: {unit} and its settings are numbers, as {unit}=0.4,eta=0.05") from None
        for name, value in numbers.items():
            if not 0 <= value < math.inf or (name != "damping" and not value) or (name == "ema" and value > 1):
                wanted = {"damping": "of at least 0", "ema": "above 0 and at most 1"}.get(name, "above 0")
                raise OptionError(f"budget {text!r}: {unit if name == 'share' else name} must be a number {wanted}")
        return cls(unit=unit, **numbers)

    def per_cost(self, dual: Dual) -> float:
        """What a cost of always-full takes from the advantage: the price over b."""
        return dual.price / self.share

    def bound(self, dual: Dual, group_size: int) -> float:
        """The ceiling of lambda; infinite while all episodes have cost the same."""
        if self.ceiling is not None:
            return self.ceiling
        if dual.most is None or dual.least is None:
            return math.inf
        spread = dual.most - dual.least
        # the distance of right and wrong in z is 1 / std, at least this where half of a group is right
        apart = 2 * math.sqrt((group_size - 1) / group_size)
        return apart * self.share / spread if spread > 1e-9 else math.inf

    def after(self, dual: Dual, seen: Seen, group_size: int) -> Dual:
        """The next step's price."""
        running = seen.share if dual.running is None else (1 - self.ema) * dual.running + self.ema * seen.share
        held = dual.held and seen.form <= FORMAT_RATE
        least = seen.least if dual.least is None else min(dual.least, seen.least)
        most = seen.most if dual.most is None else max(dual.most, seen.most)
        known = dataclasses.replace(dual, running=running, held=held, least=least, most=most)
        over, ceiling = 0.0 if held else running / self.share - 1, self.bound(known, group_size)
        weight = min(max(dual.weight + self.eta * over, 0.0), ceiling)
        price = min(max(weight + self.damping * over, 0.0), ceiling)
        return dataclasses.replace(known, weight=weight, price=price, steps=dual.steps + 1, total=dual.total + weight)
