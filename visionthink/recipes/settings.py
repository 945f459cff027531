"""The settings in which the paper's claims about training are run, how much of everything, and what that takes.

Pure: values and arithmetic. `recipes.claims` says which claim is run in which setting, `recipes.reproduce` runs them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from visionthink.recipes.tiny import tiny
from visionthink.train.config import TrainConfig

SECONDS_PER_EXAMPLE = 0.0375
"""Seconds of a training step for each of its examples of 8 rollouts, 0.525 for 14 of them. Measured with the tiny model, a run on
each of two cores: 0.53 over the first 60 steps of `tiny`; one run at a time over 160 steps of `paper`: 0.41 and 0.5."""
SECONDS_PER_QUESTION = 0.009
SECONDS_PER_RUN = 2.0
"""Seconds of an evaluated question, and of reading and saving the model."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a run is trained, whatever its variant changes: learning rate and its schedule, weight of the KL term, steps."""

    name: str
    learning_rate: float
    lr_schedule: Literal["constant", "linear"]
    kl_coef: float
    steps: int

    @classmethod
    def of(cls, name: str, config: TrainConfig) -> Setting:
        return cls(
            name=name,
            learning_rate=config.learning_rate,
            lr_schedule=config.lr_schedule,
            kl_coef=config.kl_coef,
            steps=config.steps,
        )

    @property
    def described(self) -> str:
        schedule = {"constant": "constant learning rate", "linear": "learning rate falling linearly to 0 from"}[self.lr_schedule]
        return f"{self.steps} steps, {schedule} {self.learning_rate:g}, KL {self.kl_coef:g}"


SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        # the weak KL and the constant rate barely restrain the policy. Figs. 3a and 8 show 80 steps; here runs
        # were still moving then: one with Eq. 5 asked always until step 70 and never from step 100 on
        Setting(name="paper", learning_rate=4e-4, lr_schedule="constant", kl_coef=0.001, steps=120),
        # the KL preserves behaviour that the reward does not measure. The recipe has half as many steps again
        Setting.of("tiny", tiny().config.replace(steps=160)),
    )
}


@dataclass(frozen=True)
class Scale:
    """How much of everything, all variants alike."""

    settings: tuple[Setting, ...] = tuple(SETTINGS.values())
    prompts_per_step: int = 16
    evaluated: int = 600

    def config(self, setting: Setting) -> TrainConfig:
        """The tiny recipe's settings, trained as `setting` says."""
        return tiny().config.replace(
            steps=setting.steps,
            prompts_per_step=self.prompts_per_step,
            save_steps=setting.steps,
            learning_rate=setting.learning_rate,
            lr_schedule=setting.lr_schedule,
            kl_coef=setting.kl_coef,
        )

    def minutes(self, steps: Iterable[int], cores: int) -> float:
        """Estimated wall time of runs of so many steps, 0 for one that is evaluated only, one run on each core."""
        seconds = (n * self.prompts_per_step * SECONDS_PER_EXAMPLE + self._once for n in steps)
        return sum(seconds) / cores / 60

    @property
    def _once(self) -> float:
        return SECONDS_PER_RUN + self.evaluated * SECONDS_PER_QUESTION


SCALE = Scale()
