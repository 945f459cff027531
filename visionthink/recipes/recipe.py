"""What a recipe is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from visionthink.data.examples import read_examples
from visionthink.policies.checkpoint import Checkpoint
from visionthink.train.config import TrainConfig
from visionthink.train.hardware import Hardware
from visionthink.types import Examples

Rehearsal = tuple[Checkpoint, Examples]

_DECISIVE = (
    "steps",
    "prompts_per_step",
    "updates_per_step",
    "group_size",
    "learning_rate",
    "lr_schedule",
    "warmup_steps",
    "max_image_tokens",
    "max_new_tokens",
    "temperature",
    "clip_eps",
    "kl_coef",
    "entropy_coef",
    "theta",
    "menu",
    "credit",
    "penalty",
    "budget",
    "refill",
    "exclude",
    "forced",
    "lora_rank",
)
"""Settings whose values in the paper's run hold for each of its recipes."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run ready to start: settings, what to train on, made when it is known how much is needed, and a stand-in.

    The stand-in is for rehearsals where the real model is large: random weights, few layers, the same architecture, the same
    image processor, our embedded tokenizer; nothing is downloaded.
    """

    config: TrainConfig
    source: Callable[[TrainConfig], Examples]
    stand_in: Callable[[TrainConfig], Rehearsal] | None = None
    paper: TrainConfig | None = None
    """The settings of the paper's run of this kind, if it has one."""
    hardware: Hardware | None = None
    """What its command is written for, if that is more than a laptop."""

    def differences(self, config: TrainConfig) -> str:
        """What of the settings that decide what is learnt is not the paper's, in one line; empty where there is nothing to
        compare or nothing differs."""
        if not self.paper:
            return ""
        pairs = ((name, getattr(config, name), getattr(self.paper, name)) for name in _DECISIVE)
        found = [f"{name} {_said(ours)} ({_said(theirs)})" for name, ours, theirs in pairs if ours != theirs]
        batches = [c.prompts_per_step / c.updates_per_step for c in (config, self.paper)]
        if batches[0] != batches[1]:
            found.append(f"examples per update {batches[0]:g} ({batches[1]:g})")
        return ", ".join(found)

    def examples(self, config: TrainConfig) -> Examples:
        """The recipe's own data, or what `config.data` names."""
        if not config.data:
            return self.source(config)
        return read_examples(config.data, columns=config.columns, image_root=config.image_root)


def _said(value: object) -> object:
    return "default" if value == "" else value
