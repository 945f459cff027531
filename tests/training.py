"""A short run of the tiny base model, for the tests of training."""

from __future__ import annotations

from visionthink.train.config import TrainConfig


def small(out, **changes) -> TrainConfig:
    settings = {
        "steps": 2,
        "prompts_per_step": 4,
        "group_size": 4,
        "learning_rate": 1e-4,
        "max_new_tokens": 8,
        "kl_coef": 0.0,
        "refill": 0,
        "exclude": "truncated",
    }
    return TrainConfig(**{"model": "tiny-base", "out": out} | settings | changes)


def rollout_batch(trainer) -> dict:
    """What TRL would train on next, all rollouts of a step."""
    trainer.current_gradient_accumulation_steps = 1  # set by the training loop, which is not running
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
