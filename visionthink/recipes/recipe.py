"""What a recipe is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from visionthink.train.config import TrainConfig
from visionthink.types import Example


@dataclass(frozen=True)
class Recipe:
    """A training run ready to start: settings, and what to train on, made when it is known how much is needed."""

    config: TrainConfig
    examples: Callable[[TrainConfig], Sequence[Example]]
