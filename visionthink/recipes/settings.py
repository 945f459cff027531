"""The settings in which claims about training are run, how much of everything, and what that takes.

Pure: values and arithmetic. A claim says in which setting it is run, `recipes.reproduce` runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from visionthink.data import places, synth
from visionthink.recipes.claim import How
from visionthink.recipes.recipe import Recipe
from visionthink.recipes.tiny import tiny
from visionthink.recipes.tiny_look import BASE, CELLS, tiny_look
from visionthink.train.config import TrainConfig
from visionthink.types import Example


@dataclass(frozen=True, kw_only=True)
class Miniature:
    """A recipe in miniature, the model that it starts from, unseen questions, and how long its steps take."""

    recipe: Callable[[], Recipe]
    base: str
    questions: Callable[[int], list[Example]]
    seconds: float
    """Seconds that a training step takes for each of its rollouts."""


MINIATURES: Mapping[str, Miniature] = {
    # with a run on each of two cores: 0.53 s for 112 rollouts over the first 60 steps of `tiny`; one run at a time over 160
    # steps of `paper`: 0.41 and 0.5
    "tiny": Miniature(recipe=tiny, base="tiny-base", questions=lambda n: synth.suite(n, split="validation"), seconds=0.0375 / 8),
    "tiny_look": Miniature(
        recipe=tiny_look,
        base=BASE,
        questions=lambda n: places.suite(n, split="validation", cells=CELLS),
        seconds=0.0037,  # 0.95 s for 256 rollouts beside other work; 0.61 to 0.65 where nothing held it up
    ),
}
SECONDS_PER_QUESTION = 0.009
SECONDS_PER_RUN = 2.0
"""Seconds of an evaluated question, and of reading and saving the model."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a run is trained, whatever its variant changes: a recipe, and its learning rate, schedule, weight of the KL term and
    steps. Without steps nothing is trained."""

    name: str
    recipe: str
    base: str
    learning_rate: float
    lr_schedule: Literal["constant", "linear"]
    kl_coef: float
    steps: int

    @classmethod
    def of(cls, name: str, recipe: str, *, steps: int) -> Setting:
        """The setting with the values of the recipe."""
        config = MINIATURES[recipe].recipe().config
        return cls(
            name=name,
            recipe=recipe,
            base=MINIATURES[recipe].base,
            learning_rate=config.learning_rate,
            lr_schedule=config.lr_schedule,
            kl_coef=config.kl_coef,
            steps=steps,
        )

    @property
    def described(self) -> str:
        if not self.steps:
            return "nothing is trained"
        schedule = {"constant": "constant learning rate", "linear": "learning rate falling linearly to 0 from"}[self.lr_schedule]
        return f"{self.steps} steps, {schedule} {self.learning_rate:g}, KL {self.kl_coef:g}"


SETTINGS: dict[str, Setting] = {
    s.name: s
    for s in (
        # the weak KL and the constant rate barely restrain the policy. Figs. 3a and 8 show 80 steps; here runs
        # were still moving then: one with Eq. 5 asked always until step 70 and never from step 100 on
        Setting(
            name="paper", recipe="tiny", base="tiny-base", learning_rate=4e-4, lr_schedule="constant", kl_coef=0.001, steps=120
        ),
        # the KL preserves behaviour that the reward does not measure. The recipe has half as many steps again
        Setting.of("tiny", "tiny", steps=160),
        Setting.of("look", "tiny_look", steps=120),
        Setting.of("untrained", "tiny", steps=0),
    )
}


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How often a gate is calibrated: out of a pool of questions, on how many of them."""

    pool: int = 6000
    n: int = 300
    count: int = 200


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything, all variants alike."""

    settings: tuple[Setting, ...] = tuple(SETTINGS.values())
    prompts_per_step: int = 16
    evaluated: int = 600
    draws: Draws = Draws()

    @property
    def untrained(self) -> Setting:
        """Where variants are run that train nothing, whatever the setting of the claim."""
        return next(s for s in self.settings if not s.steps)

    def config(self, setting: Setting) -> TrainConfig:
        """The settings of the recipe, trained as `setting` says."""
        config = MINIATURES[setting.recipe].recipe().config.replace(model=setting.base)
        if not setting.steps:
            return config
        return config.replace(
            steps=setting.steps,
            prompts_per_step=self.prompts_per_step,
            save_steps=setting.steps,
            learning_rate=setting.learning_rate,
            lr_schedule=setting.lr_schedule,
            kl_coef=setting.kl_coef,
        )

    def seconds(self, setting: Setting, how: How = "train") -> float:
        """Estimate for one run on one core."""
        if how == "calibrate":
            return SECONDS_PER_RUN + 2 * self.draws.pool * SECONDS_PER_QUESTION
        evaluation = SECONDS_PER_RUN + self.evaluated * SECONDS_PER_QUESTION
        rollouts = setting.steps * self.prompts_per_step * self.config(setting).group_size if how == "train" else 0
        return rollouts * MINIATURES[setting.recipe].seconds + evaluation


SCALE = Scale()
