"""What a training run is: one frozen record, checked before anything is loaded, translated to TRL's configuration."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from visionthink.errors import OptionError
from visionthink.resolution import ResolutionLadder
from visionthink.rewards.penalty import Penalty

if TYPE_CHECKING:
    from trl import GRPOConfig


_LEAST = {
    "steps": 1,
    "prompts_per_step": 1,
    "group_size": 2,  # fewer have nothing to be compared with
    "max_new_tokens": 1,
    "save_steps": 1,
    "warmup_steps": 0,
    "micro_batch": 0,
    "seed": 0,
    "temperature": 1e-3,  # rollouts must be sampled
    "learning_rate": 1e-12,
    "clip_eps": 0,
    "kl_coef": 0,
    "penalty_weight": 0,
}


@dataclass(frozen=True)
class TrainConfig:
    """Multi-turn GRPO (Eq. 3 of arXiv 2507.13348). The defaults are the paper's where the paper gives one."""

    model: str = "tiny-base"
    """Checkpoint to start from: tiny, tiny-base, a folder, or a hub id."""
    out: Path = Path("runs/train")
    """Folder for checkpoints, metrics.jsonl and the final model."""
    steps: int = 80
    """Optimiser steps."""
    prompts_per_step: int = 32
    """Examples per optimiser step and process."""
    group_size: int = 16
    """Rollouts per example."""
    learning_rate: float = 1e-6
    warmup_steps: int = 0
    max_new_tokens: int = 1024
    """Tokens a model may say per turn."""
    temperature: float = 1.0
    clip_eps: float = 0.2
    kl_coef: float = 0.001
    """Beta, the weight of the KL penalty; 0 trains without a reference model."""
    penalty: Literal["eq5", "released", "constant", "none"] = "eq5"
    theta: float = 0.2
    penalty_weight: float = 0.1
    ladder: str = "0.25,1"
    seed: int = 0
    save_steps: int = 20
    """Steps between checkpoints."""
    micro_batch: int = 0
    """Rollouts per forward pass; 0 takes a whole step at once."""
    resume: bool = False
    """Continue from the last checkpoint in the output folder."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not least <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} {getattr(self, name)}: must be a number of at least {least:g}")
        if self.micro_batch and (self.prompts_per_step * self.group_size) % self.micro_batch:
            raise OptionError(
                f"micro_batch {self.micro_batch} does not divide the {self.prompts_per_step * self.group_size} rollouts of a step"
            )
        self.rollout_ladder()
        self.rollout_penalty()

    def rollout_ladder(self) -> ResolutionLadder:
        return ResolutionLadder.parse(self.ladder)

    def rollout_penalty(self) -> Penalty:
        return Penalty(self.penalty, self.theta, self.penalty_weight)

    def replace(self, **changes: Any) -> TrainConfig:
        return dataclasses.replace(self, **changes)

    def to_trl(self, *, on_cpu: bool, bridge_tokens: int, reward_count: int) -> GRPOConfig:
        """TRL's configuration for Eq. 3.

        Groups stay whole inside every reward call because a generation batch is a step's rollouts; the completion
        budget holds every turn and the largest view that may be shown in between (`bridge_tokens`), so no request is
        silently rolled back.
        """
        from trl import GRPOConfig

        turns = len(self.rollout_ladder().levels)
        rollouts = self.prompts_per_step * self.group_size
        micro = self.micro_batch or rollouts
        settings: dict[str, Any] = {
            "output_dir": str(self.out),
            "max_steps": self.steps,
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": rollouts // micro,
            "num_generations": self.group_size,
            "max_completion_length": turns * self.max_new_tokens + (turns - 1) * bridge_tokens,
            "max_tool_calling_iterations": turns - 1,
            "loss_type": "grpo",
            "importance_sampling_level": "token",
            "scale_rewards": "group",
            "use_bias_correction_kl": False,
            "epsilon": self.clip_eps,
            "beta": self.kl_coef,
            "temperature": self.temperature,
            "reward_weights": [1.0] * reward_count,
            "mask_truncated_completions": False,  # True crashes on rollouts with images
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": self.warmup_steps,
            "max_grad_norm": 1.0,
            "weight_decay": 0.0,
            "seed": self.seed,
            "save_steps": self.save_steps,
            "save_total_limit": 2,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,  # our own progress bar
            "log_completions": False,
            "remove_unused_columns": False,
            "bf16": not on_cpu,
            "use_cpu": on_cpu,
            "gradient_checkpointing": not on_cpu,
            "dataloader_pin_memory": not on_cpu,
        }
        return GRPOConfig(**settings)
