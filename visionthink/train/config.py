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
    """Checkpoint to start from: tiny, tiny-base, a folder, or a hub id."""
    out: Path = Path("runs/train")
    """Folder for checkpoints, metrics.jsonl and the final model."""
    steps: int = 80
    """Steps: rollouts are sampled, then learnt from."""
    prompts_per_step: int = 32
    """Examples per step, over all processes together."""
    updates_per_step: int = 1
    """Optimiser updates a step's rollouts are spread over; more than one makes the later ones off-policy, which Eq. 3 clips."""
    group_size: int = 16
    """Rollouts per example."""
    learning_rate: float = 1e-6
    """AdamW learning rate."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """After the warm-up: as it is, or falling to 0 at the last step."""
    warmup_steps: int = 0
    """Optimiser updates over which the learning rate rises."""
    data: str = ""
    """What to train on instead of the recipe's own data: a file, a folder of `datasets.save_to_disk`, or a hub id."""
    columns: str = ""
    """Names of the columns of `data` where they are others, as question=q,image=picture,answer=label."""
    image_root: str = ""
    """Folder that the images of `data` lie in; empty takes the one of the table."""
    shuffle: bool = True
    """Whether examples come in random order; data that is balanced step by step must keep its own."""
    attention: str = ""
    """sdpa, flash_attention_2 or eager; empty takes flash attention where it is installed and weights are in half precision."""
    max_image_tokens: int = 0
    """Shrink larger images to so many visual tokens; 0 keeps the processor's own limit."""
    max_new_tokens: int = 1024
    """Tokens a model may say per turn."""
    temperature: float = 1.0
    """Sampling temperature."""
    clip_eps: float = 0.2
    """How far the probability ratio may move from 1 before it is clipped."""
    kl_coef: float = 0.001
    """Beta, the weight of the KL penalty; 0 trains without a reference model."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus; the authors' code has 0.001, the paper none."""
    credit: str = ""
    """How rewards become advantages (docs/reference/rewards.md), as dtpo:first=0.5; empty takes eq3, or centred with a budget."""
    penalty: str = ""
    """Who pays for an action, as constant:0.05 (amount by default 0.1); empty takes eq5, or what goes with credit or budget."""
    theta: float = 0.2
    """Share of right direct answers in a group below which they count as luck."""
    penalty_scope: Literal["all", "correct"] = "all"
    """Which rollouts can be penalised."""
    budget: str = ""
    """What an episode may cost on average, as a share of always showing the full view (docs/how-to/budgets.md), as visual=0.4."""
    device_table: str = ""
    """What `visionthink measure` wrote, for a budget in milliseconds."""
    benefit: str = "none"
    """A bonus for looking where looking helps: a name, or NAME:AMOUNT as value:0.6."""
    judge: str = "rules"
    """Who decides what is correct: rules, exact (another short text is wrong), an endpoint URL#model, or a .toml file."""
    judge_down: Literal["stop", "unscored"] = "stop"
    """When the judge's server is down: save and stop, or go on with answers unscored and try the judge again after a while."""
    dialect: str = ""
    """Wording of the protocol; empty takes what is stored beside the checkpoint, else agent."""
    menu: str = "visionthink"
    """What can be asked for, by name; it brings its dialect along."""
    ladder: str = ""
    """Levels of whole images, as shares of the pixels; empty takes the menu's (0.25,1)."""
    refill: int = 4
    """Rounds in which groups of equal rewards are replaced by groups of other examples; 0 keeps them."""
    exclude: str = "duplicate,empty"
    """Members that take no part in their group's statistics and get no gradient."""
    over_limit: str = ""
    """A member that asks on at a limit: no gradient, left out, or wrong; empty takes mask where there are more than 2 turns."""
    forced: int = 0
    """Members of a group made to take each of the forced actions, so that every branch stays trained."""
    forced_actions: str = "direct,request"
    """What forced members do: direct, request (the next level), whole, evidence, or ids of regions."""
    seed: int = 0
    """Random seed of sampling, shuffling, adapters and generated examples."""
    save_steps: int = 20
    """Steps between checkpoints."""
    share: Literal["auto", "on", "off"] = "auto"
    """Whether images and prefixes that rollouts have in common are computed once: where that can be done, always, or never."""
    canonical: bool = False
    """Go on from a request in canonical words, and not as it was said, so that all members that ask share the next view."""
    micro_batch: int = 0
    """Rollouts per forward pass and process; 0 takes all of an update at once."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    lora_rank: int = 0
    """Train a low-rank adapter of the language model instead of all weights; it is merged into what is saved."""
    vllm: Literal["off", "colocate", "server"] = "off"
    """Where rollouts are generated: by transformers, by vLLM on the training GPUs, or by a vLLM server."""
    probe_steps: int = 0
    """Steps between looks at both branches by force and at swapped images (see `train.probe`); 0 never looks."""
    timeout_minutes: int = 120
    """Minutes that a process waits for the others, of which one may generate or be judged for long."""
    report_to: str = "none"
    """Also log to trackio, wandb or tensorboard; metrics.jsonl is always written."""
    resume: bool = False
    """Continue from the last checkpoint in the output folder."""
    trl: Mapping[str, Any] = field(default_factory=dict)
    """A setting of TRL's GRPOConfig that has none of ours, as vllm_gpu_memory_utilization=0.5; may be given several times."""

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
