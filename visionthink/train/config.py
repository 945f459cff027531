"""What a training run is: one frozen record, checked before anything is loaded, translated to TRL's configuration."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from visionthink.errors import OptionError, one_line
from visionthink.policies.attention import check_attention
from visionthink.rewards.penalty import Penalty
from visionthink.train import trl_options
from visionthink.train.crediting import CreditSettings
from visionthink.train.settings import RunSettings

if TYPE_CHECKING:
    from trl import GRPOConfig

    from visionthink.policies.checkpoint import Checkpoint


NEVER = -100.0
"""Added to the logit of what vLLM must not sample: the least that every server takes."""
_LEAST = {
    "steps": 1,
    "prompts_per_step": 1,
    "updates_per_step": 1,
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
    "entropy_coef": 0,
    "refill": 0,
    "forced": 0,
    "lora_rank": 0,
    "max_image_tokens": 0,
    "probe_steps": 0,
    "timeout_minutes": 1,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunSettings, CreditSettings):
    """Multi-turn GRPO (Eq. 3 of arXiv 2507.13348). The defaults are the paper's where the paper gives one."""

    model: str = "tiny-base"
    """Model to start from: tiny, tiny-base, a checkpoint folder, or a hub id."""
    out: Path = Path("runs/train")
    """Folder for checkpoints, metrics.jsonl and the final model."""
    steps: int = 80
    """Number of training steps; each samples rollouts and updates the model on them."""
    prompts_per_step: int = 32
    """Number of examples in a step, over all processes together."""
    updates_per_step: int = 1
    """Optimizer updates per step; with more than one the later ones are off-policy, which clipping limits."""
    group_size: int = 16
    """Number of rollouts for each example; they are compared with each other."""
    learning_rate: float = 1e-6
    """AdamW learning rate."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """Learning rate after the warm-up: constant, or falling linearly to 0 at the last step."""
    warmup_steps: int = 0
    """Number of optimizer updates over which the learning rate rises from 0."""
    data: str = ""
    """Training data instead of the recipe's: a file, a folder written by `datasets.save_to_disk`, or a hub id."""
    columns: str = ""
    """Names of the columns of `data` where they differ, as question=q,image=picture,answer=label."""
    image_root: str = ""
    """Folder that image paths in `data` are relative to; empty: the folder of the table."""
    shuffle: bool = True
    """Whether examples are taken in random order; data that is balanced step by step must keep its order."""
    attention: str = ""
    """Attention kernel: sdpa, flash_attention_2 or eager; empty: flash attention where it can be used, else sdpa."""
    max_image_tokens: int = 0
    """Largest number of visual tokens of an image; larger images are shrunk. 0: the image processor's limit."""
    max_new_tokens: int = 1024
    """Largest number of tokens in a reply (one turn)."""
    temperature: float = 1.0
    """Sampling temperature of rollouts."""
    clip_eps: float = 0.2
    """How far the probability ratio may move from 1 before it is clipped (epsilon of GRPO)."""
    kl_coef: float = 0.001
    """Weight of the KL penalty (beta); 0 trains without a reference model."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus; the authors' code has 0.001, the paper none."""
    credit: str = ""
    """How rewards become advantages (docs/reference/rewards.md); empty: Eq. 3 of the paper, or centred with a budget."""
    penalty: str = ""
    """What requests or direct answers cost, e.g. constant:0.05; empty: Eq. 5 of the paper, or none with a budget."""
    theta: float = 0.2
    """Direct answers are penalised if fewer than this share of a group's right answers are direct; otherwise requests are."""
    penalty_scope: Literal["all", "correct"] = "all"
    """Which rollouts can be penalised: all, or only correct ones."""
    budget: str = ""
    """Average cost of an episode to aim at, as a share of always-full: visual=0.4 (docs/how-to/budgets.md)."""
    device_table: str = ""
    """File written by `visionthink measure`, for a budget in milliseconds."""
    benefit: str = "none"
    """Bonus for looking closer where that helps, as value:0.6 (docs/reference/rewards.md)."""
    judge: str = "rules"
    """Who decides what is right: rules, exact (other short texts are wrong), an endpoint URL#MODEL, or a .toml file."""
    judge_down: Literal["stop", "unscored"] = "stop"
    """If the judge's server is down: save and stop, or continue with answers unscored and try it again later."""
    dialect: str = ""
    """Wording in which the model asks for more; empty: the one stored with the checkpoint, else agent."""
    menu: str = "visionthink"
    """Named set of the views that the model may ask for; it brings its dialect along."""
    ladder: str = ""
    """Levels of whole images, as shares of the pixels; empty: the menu's (0.25,1)."""
    refill: int = 4
    """Largest number of attempts to replace groups with equal rewards by groups of other examples; 0: such groups stay."""
    exclude: str = "duplicate,empty"
    """Rollouts that are left out: duplicate, empty, truncated; separate several by commas."""
    over_limit: str = ""
    """Rollouts that ask for more beyond a limit: mask (no gradient), exclude, or penalise; empty: mask with 3 or more turns."""
    forced: int = 0
    """For each of `forced_actions`, the number of rollouts in a group that are forced to begin with it."""
    forced_actions: str = "direct,request"
    """What forced rollouts do: direct, request (the next level), whole, evidence, or ids of regions."""
    seed: int = 0
    """Random seed of sampling, shuffling, adapters and generated examples."""
    save_steps: int = 20
    """Number of steps between checkpoints."""
    share: Literal["auto", "on", "off"] = "auto"
    """Whether images and prefixes that rollouts share are computed once: auto (where possible), on or off."""
    canonical: bool = False
    """Continue after a request with its standard wording, not the model's own, so that rollouts share more."""
    micro_batch: int = 0
    """Number of rollouts in a forward pass of each process; 0: all of an update at once."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: less memory, more time."""
    lora_rank: int = 0
    """Rank of a LoRA adapter of the language model, merged into what is saved; 0: train all weights."""
    vllm: Literal["off", "colocate", "server"] = "off"
    """What generates rollouts: off (transformers), colocate (vLLM on the training GPUs), or server (a vLLM server)."""
    probe_steps: int = 0
    """Number of steps between probes: forced direct answers, forced requests and swapped images; 0: never."""
    timeout_minutes: int = 120
    """Longest time, in minutes, that a process waits for another one that still generates or waits for its judge."""
    report_to: str = "none"
    """Also log to trackio, wandb or tensorboard; metrics.jsonl is always written."""
    resume: bool = False
    """Continue from the last checkpoint in the output folder."""
    trl: Mapping[str, Any] = field(default_factory=dict)
    """Another setting of TRL's GRPOConfig, as vllm_gpu_memory_utilization=0.5; may be given several times."""

    def __post_init__(self) -> None:
        self._check_shared(_LEAST)
        check_attention(self.attention)
        self.rollouts_per_process(1)
        if self.lr_schedule not in ("constant", "linear"):
            raise OptionError(f"unknown lr_schedule {self.lr_schedule!r}; choose constant or linear")
        if self.judge_down not in ("stop", "unscored"):
            raise OptionError(f"unknown judge_down {self.judge_down!r}; choose stop or unscored")
        if self.share not in ("auto", "on", "off"):
            raise OptionError(f"unknown share {self.share!r}; choose auto, on or off")
        if self.vllm not in ("off", "colocate", "server"):
            raise OptionError(f"unknown vllm {self.vllm!r}; choose off, colocate or server")
        if self.canonical and (self.share == "off" or self.vllm != "off"):
            taken = "share off" if self.share == "off" else f"vllm {self.vllm}"
            raise OptionError(f"canonical: {taken} reads a rollout as one sequence, not as two; use --share on --vllm off")
        if self.vllm != "off" and importlib.util.find_spec("vllm") is None:
            raise OptionError(f"vllm {self.vllm}: is not installed; pip install 'visionthink[vllm]'")
        penalty = self.rollout_penalty()
        menu = self.rollout_menu()
        if not menu.asks and penalty.name != "none":
            raise OptionError(f"penalty {self.penalty}: nobody can ask on a ladder of one level; use --penalty none")
        self._check_credit(penalty)
        object.__setattr__(self, "trl", trl_options.checked(self.trl, vllm=self.vllm != "off"))

    def adjusted(self, checkpoint: Checkpoint) -> Checkpoint:
        """As that of every run; what a request leads to is this run's too, whatever the checkpoint was trained with."""
        adjusted = super().adjusted(checkpoint)
        return replace(adjusted, protocol=replace(adjusted.protocol, canonical=self.canonical))

    def rollouts_per_process(self, processes: int) -> int:
        """Rollouts that each of so many processes samples in a step: whole groups, and an equal share of every update.

        Raises:
            OptionError: they cannot be divided so.
        """
        if self.prompts_per_step % processes:
            raise OptionError(
                f"prompts_per_step {self.prompts_per_step}: cannot be divided among {processes} processes; "
                f"use a multiple of {processes}"
            )
        rollouts = self.prompts_per_step // processes * self.group_size
        if rollouts % (self.updates_per_step * (self.micro_batch or 1)):
            raise OptionError(
                f"{rollouts} rollouts of a step{' on each process' if processes > 1 else ''} cannot be split into "
                f"{self.updates_per_step} updates of passes of {self.micro_batch or 'any'}: change micro_batch, updates_per_step "
                "or group_size"
            )
        return rollouts

    def rollout_penalty(self) -> Penalty:
        return Penalty.parse(self.penalty_name, theta=self.theta, scope=self.penalty_scope)

    def rehearsed(self, out: Path, processes: int = 1) -> TrainConfig:
        """One step of the same kind, as small as it gets, into another folder."""
        small = {
            "prompts_per_step": 2 * processes,
            "group_size": 2 + len(self.actions()) * self.forced,
            "updates_per_step": 1,
            "micro_batch": 0,
        }
        # a random model ends few of its turns: leaving those out would leave nothing
        most = min(self.max_new_tokens, 16)
        return self.replace(
            steps=1, resume=False, refill=0, exclude="", over_limit="penalise", max_new_tokens=most, out=out, **small
        )

    def to_trl(
        self, *, processes: int, on_cpu: bool, bridge_tokens: int, longest: int, never_sampled: Sequence[int]
    ) -> GRPOConfig:
        """TRL's configuration for Eq. 3.

        Args:
            processes: that the step is divided among.
            on_cpu: whether to stay off accelerators and half precision.
            bridge_tokens: the most ids that may stand between two turns.
            longest: the most ids an episode may take; vLLM plans its memory by it.
            never_sampled: ids the model must not say.
        """
        from trl import GRPOConfig

        turns = self.rollout_menu().most_turns
        rollouts = self.rollouts_per_process(processes)
        micro = self.micro_batch or rollouts // self.updates_per_step
        if self.vllm == "off":
            generation: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "suppress_tokens": list(never_sampled)}
        else:
            generation = {"max_tokens": self.max_new_tokens, "logit_bias": dict.fromkeys(never_sampled, NEVER)}
        settings: dict[str, Any] = {
            "output_dir": str(self.out),
            "max_steps": self.steps * self.updates_per_step,
            # a generation batch is a whole step: no group is split between processes or passes
            "per_device_train_batch_size": micro,
            "steps_per_generation": rollouts // micro,
            "gradient_accumulation_steps": rollouts // micro // self.updates_per_step,
            "num_generations": self.group_size,
            "max_completion_length": turns * self.max_new_tokens + (turns - 1) * bridge_tokens,
            "generation_kwargs": generation,
            "use_vllm": self.vllm != "off",
            "vllm_max_model_length": longest,
            "vllm_mode": self.vllm if self.vllm != "off" else "colocate",
            # brings what vLLM sampled back to the policy of Eq. 3; TRL's own choice leaves whole answers of two turns out
            "vllm_importance_sampling_mode": "token_truncate",
            "loss_type": self.rollout_credit().loss,
            "importance_sampling_level": "token",
            "scale_rewards": "group",
            "use_bias_correction_kl": False,
            "epsilon": self.clip_eps,
            "beta": self.kl_coef,
            "entropy_coef": self.entropy_coef,
            "temperature": self.temperature,
            "mask_truncated_completions": False,  # True crashes on rollouts with images; `exclude` does it
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": {"constant": "constant_with_warmup", "linear": "linear"}[self.lr_schedule],
            "warmup_steps": self.warmup_steps,
            "max_grad_norm": 1.0,
            "weight_decay": 0.0,
            "seed": self.seed,
            "save_steps": self.save_steps * self.updates_per_step,
            "save_total_limit": 2,
            "logging_steps": 1,
            "report_to": self.report_to,
            "project": "visionthink",
            "run_name": self.out.name,
            "disable_tqdm": True,  # our own progress bar
            "log_completions": False,
            "log_multimodal": False,
            "remove_unused_columns": False,
            "shuffle_dataset": False,  # `training_order` has done it
            "bf16": not on_cpu,
            "use_cpu": on_cpu,
            "gradient_checkpointing": self.gradient_checkpointing,
            "dataloader_pin_memory": not on_cpu,
            "ddp_timeout": 60 * self.timeout_minutes,
        }
        try:
            return GRPOConfig(**{**settings, **self.trl})
        except ValueError as error:
            if not self.trl:
                raise
            raise OptionError(f"--trl {' '.join(f'{k}={v}' for k, v in self.trl.items())}: {one_line(error)}") from error
