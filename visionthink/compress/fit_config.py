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
    """What is learnt: answers; distill, answers and the uncompressed model; reconstruct, to restore what is dropped."""
    answers_weight: float = 1.0
    """With distill: weight of the answers; at 0 only the uncompressed model is learnt from."""
    temperature: float = 1.0
    """With distill: softmax temperature of teacher and student."""
    steps: int = 500
    """Number of optimizer updates."""
    batch_size: int = 24
    """Number of examples in an update."""
    learning_rate: float = 1e-3
    """AdamW learning rate, after a warm-up over 4 % of the updates and falling to 0 along a cosine."""
    seed: int = 0
    """Random seed of the initial weights and of the order of examples."""

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
