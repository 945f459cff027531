"""What a recipe is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from visionthink.data.examples import read_examples
from visionthink.policies.checkpoint import Checkpoint
from visionthink.train.config import TrainConfig
from visionthink.types import Examples

Rehearsal = tuple[Checkpoint, Examples]


@dataclass(frozen=True)
class Recipe:
    """A training run ready to start: settings, what to train on, made when it is known how much is needed, and a stand-in.

    The stand-in is for rehearsals where the real model is large: random weights, few layers, the same architecture, the same
    image processor, our embedded tokenizer; nothing is downloaded.
    """

    config: TrainConfig
    source: Callable[[TrainConfig], Examples]
    stand_in: Callable[[TrainConfig], Rehearsal] | None = None

    def examples(self, config: TrainConfig) -> Examples:
        """The recipe's own data, or what `config.data` names."""
        if not config.data:
            return self.source(config)
        return read_examples(config.data, columns=config.columns, image_root=config.image_root)
