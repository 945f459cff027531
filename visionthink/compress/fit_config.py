"""Settings of the training of a compression method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from visionthink.errors import OptionError

Objective = Literal["answers", "distill", "reconstruct"]
WEIGHTS: Mapping[Objective, tuple[float, float]] = {"answers": (1, 0), "distill": (1, 1), "reconstruct": (0, 0)}
"""The weights of the cross-entropy and of the KL divergence from the teacher, by objective."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a method is trained."""

    objective: Objective = "answers"
    """Loss: answers is the cross-entropy of the correct answers, distill adds the KL divergence from the model with all visual
    tokens, and reconstruct is the error of the method's own reconstruction."""
    answers_weight: float = 1.0
    """Weight of the cross-entropy in `distill`; 0 leaves the KL divergence alone."""
    temperature: float = 1.0
    """Softmax temperature of teacher and student in `distill`."""
    steps: int = 500
    """Number of optimizer updates."""
    batch_size: int = 24
    """Number of examples in an update."""
    learning_rate: float = 1e-3
    """AdamW learning rate, with a warm-up over the first twenty-fifth of the updates and a cosine decay to 0."""
    seed: int = 0
    """Random seed of the initial weights and of the order of the examples."""

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise OptionError(f"--objective {self.objective!r}: choose from {', '.join(WEIGHTS)}")
        for name in ("steps", "batch_size", "temperature", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0")
        if not 0 <= self.answers_weight < math.inf:
            raise OptionError(f"--answers-weight {self.answers_weight}: must be at least 0")
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"--seed {self.seed}: must be at least 0 and below {2**32}")

    @property
    def weights(self) -> tuple[float, float]:
        """The weights of the cross-entropy and of the KL divergence."""
        answers, teacher = WEIGHTS[self.objective]
        return (self.answers_weight if teacher else answers), teacher
