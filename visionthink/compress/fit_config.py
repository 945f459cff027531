"""How a compression method is trained, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from visionthink.errors import OptionError

Objective = Literal["answers", "distill", "reconstruct"]
WEIGHTS: Mapping[Objective, tuple[float, float]] = {"answers": (1, 0), "distill": (1, 1), "reconstruct": (0, 0)}
"""The weights of the cross-entropy and of the divergence from the teacher, by objective."""


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a module is trained."""

    objective: Objective = "answers"
    """Learn from the answers, from the answers and the model with all visual tokens, or from what the module itself restores."""
    answers_weight: float = 1.0
    """Weight of the answers in `distill`; at 0 the model with all visual tokens is all that is learnt from."""
    temperature: float = 1.0
    """Temperature of teacher and student in `distill`."""
    steps: int = 500
    """Optimizer updates."""
    batch_size: int = 24
    """Examples per update."""
    learning_rate: float = 1e-3
    """AdamW learning rate, after a warm-up over a twenty-fifth of the updates and falling to 0 along a cosine."""
    seed: int = 0
    """Random seed of the weights and of the order of examples."""

    def __post_init__(self) -> None:
        if self.objective not in get_args(Objective):
            raise OptionError(f"--objective {self.objective!r}: choose from {', '.join(WEIGHTS)}")
        for name in ("steps", "batch_size", "temperature", "learning_rate"):
            if not getattr(self, name) > 0:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be above 0")

    @property
    def weights(self) -> tuple[float, float]:
        answers, teacher = WEIGHTS[self.objective]
        return (self.answers_weight if teacher else answers), teacher
