"""A thin subclass of TRL's `GRPOTrainer`: our episodes take the place of `_generate`. The loss is TRL's own.

TRL hands over a step's examples and takes back token ids and loss masks; clipping, KL and the optimiser are TRL's, and so are the
advantages of Eq. 3 (arXiv 2507.13348, see `TrainConfig.to_trl`); `train.credit` has others. Log-probabilities are TRL's own where
prefixes are not shared (`train.sharing`), and it takes the images then.
"""

from __future__ import annotations

import functools
import logging
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from datasets import Dataset

from visionthink.engine.prepare import prepare
from visionthink.errors import DataError, JudgeError, OptionError
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.processor import ImageTextProcessor
from visionthink.policies.render import Renderer, views
from visionthink.rewards.cascade import outage, outages
from visionthink.rewards.costs import FlopsOf
from visionthink.rewards.judge import Judge
from visionthink.rewards.rubric import Rubric
from visionthink.rewards.spec import read_judge
from visionthink.train.checkpoints import WholeCheckpoints
from visionthink.train.checks import bridge_tokens, longest_episode
from visionthink.train.config import TrainConfig
from visionthink.train.credit import Credited, meter_of
from visionthink.train.monitors import Monitors
from visionthink.train.outage import agreed, random_streams
from visionthink.train.probe import PROBED, Probe
from visionthink.train.processes import this_process
from visionthink.train.progress import MetricsFile, ProgressBar
from visionthink.train.refill import refilled
from visionthink.train.rollouts import EpisodeSource, GroupSampler, Rollout, training_order
from visionthink.train.sampled import Blank, Part, SampledStep, measures, request_view
from visionthink.train.sharing import SharedPrefixes
from visionthink.train.together import padding, policy_of
from visionthink.train.usable import reject_lines, usable
from visionthink.transcript import Transcript
from visionthink.types import Examples

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from trl import GRPOTrainer


T = TypeVar("T")


def _not_about_unscored(record: logging.LogRecord) -> bool:
    return "All reward functions returned None" not in record.getMessage()


# members are left out on purpose, and each would be printed with its whole example
logging.getLogger(GRPOTrainer.__module__).addFilter(_not_about_unscored)


class VisionThinkTrainer(WholeCheckpoints, Credited, SharedPrefixes, GRPOTrainer):
    """GRPO over episodes.

    Args:
        config: the run.
        checkpoint: what is trained.
        source: makes the episodes.
        rubric: scores the groups.
        visual_tokens: what to train on, ids of `source.examples`, with what their full views cost.
        unreadable: ids of examples that are left out, and why.

    Raises:
        OptionError: an episode may outgrow the model's context.
    """

    config: TrainConfig

    def __init__(
        self,
        config: TrainConfig,
        checkpoint: Checkpoint,
        source: EpisodeSource,
        rubric: Rubric,
        visual_tokens: Mapping[str, int],
        unreadable: Mapping[str, str],
    ):
        self.config, self.checkpoint, self.example_ids, self.step = config, checkpoint, list(visual_tokens), SampledStep()
        self.rejects = config.out / "rejects.jsonl"
        self._unreachable = ""
        """Why the judge has never answered."""
        renderer = Renderer(checkpoint.tokenizer, source.protocol.boundary)
        shown = padding(checkpoint.budget)
        self.blank = Blank(tuple(renderer.prompt_ids(shown)), (renderer.end_id,), views(shown)[0].image)
        largest = max(visual_tokens, key=lambda i: visual_tokens[i])
        bridge = bridge_tokens(source, renderer, source.space(source.examples[largest]))
        self.longest_episode = functools.partial(
            longest_episode, source=source, checkpoint=checkpoint, renderer=renderer, largest=largest, bridge=bridge
        )
        arguments = config.to_trl(
            processes=this_process().num_processes,
            on_cpu=checkpoint.model.device.type == "cpu",
            bridge_tokens=bridge,
            longest=self.longest_episode(config),
            never_sampled=renderer.never_sampled,
        )
        if config.kl_coef and not config.lora_rank:
            # TRL loads the reference model by name: as ours, not as its files say
            own = checkpoint.model
            arguments.model_init_kwargs = {
                "architecture": type(own),
                "config": own.config,
                "generation_config": own.generation_config,
            }
        self.credit_by(config)
        groups = config.steps * config.prompts_per_step
        self.order = training_order(self.example_ids, groups, seed=config.seed, shuffle=config.shuffle)
        super().__init__(
            model=checkpoint.model,
            reward_funcs=self._columns(rubric),
            args=arguments,
            # TRL carries the id through its own sampler; what is said is the episode's business
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": i}]} for i in self.order]),
            processing_class=ImageTextProcessor(image_processor=checkpoint.image_processor, tokenizer=checkpoint.tokenizer),
            callbacks=[
                MetricsFile(config.out / "metrics.jsonl"),
                Monitors(config.out / "warnings.jsonl", can_ask=source.can_ask),
                ProgressBar(),
            ],
            peft_config=config.peft(),
        )
        if self.ref_model is not None:
            prepare(self.accelerator.unwrap_model(self.ref_model))
        arguments.model_init_kwargs = None
        self.remove_callback(transformers.trainer_callback.PrinterCallback)
        self.tools = [request_view]
        self.share(renderer, checkpoint.image_processor)
        policy, run = policy_of(self, renderer, checkpoint.image_processor, checkpoint.budget)
        draw = random.Random(f"{config.seed} {self.accelerator.process_index}")
        probed = draw.sample(self.example_ids, min(PROBED, len(self.example_ids)))
        self.probe = Probe(source, policy, rubric.judge, probed, run=run) if config.probe_steps else None
        self.sampler = GroupSampler(
            source,
            policy,
            rubric,
            config.group_size,
            forced=config.forced,
            actions=config.actions(),
            exclude=config.exclusions(),
            mask_over_limit=config.over_limits() == "mask",
            replacements=self.example_ids,
            run=run,
        )
        if self.accelerator.is_main_process:  # each process writes what it has found itself, and all have found these
            self.sampler.rejected |= unreadable

    def _columns(self, rubric: Rubric) -> list[Callable[..., list[float | None]]]:
        parts = [self._column("accuracy"), self._column("format"), self._column("penalty", sign=-1)]
        return parts if rubric.benefit.name == "none" else [*parts, self._column("bonus")]

    def _column(self, part: Part, sign: int = 1) -> Callable[..., list[float | None]]:
        """One part of the reward, as a reward function of TRL."""

        def column(*, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
            return self.step.rewards(part, completion_ids, sign)

        column.__name__ = part
        return column

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        self._buffered_inputs = None  # of the last step: its pixels would lie beside those of this one
        number, engine = self.state.global_step // self.config.updates_per_step, self.engine
        with self.sampling(number):
            self._sample(number, [prompt[-1]["content"] for prompt in prompts[:: self.num_generations]])
        self.sampler.pictures.begin(self.examples_of(number + 1), ahead=True)
        generated = self.generated()
        return generated if self.engine is engine else self._generate(prompts)  # an engine that was found wrong sampled these

    def _sample(self, number: int, example_ids: Sequence[str]) -> None:
        """Sample and score the groups of step `number`."""
        rewind, before = random_streams(), outages(self.sampler.rubric.judge)
        if self.probe and number % self.config.probe_steps == 0:
            for name, value in (self._judged(self.probe.measure) or {}).items():
                self._log_metric(name, value)
        started = time.perf_counter()
        groups = self._judged(lambda: self.sampler.sample(example_ids)) or []
        seconds = time.perf_counter() - started
        self._stop_where_judge_is_down(rewind, before)
        self._measure(groups, seconds)
        self.weigh(groups)
        if self.config.refill:
            groups = refilled(self, groups, self.example_ids, lambda ids: self._judged(lambda: self.sampler.sample(ids)) or [])
            self._stop_where_judge_is_down(rewind, before)
        self.step = SampledStep.of(groups, self.blank)
        self._write_rejects()

    def examples_of(self, step: int) -> list[str]:
        """Ids of what this process samples in a step, counted from 0: TRL deals a step's examples out in their order."""
        share = self.config.prompts_per_step // self.accelerator.num_processes
        begin = step * self.config.prompts_per_step + self.accelerator.process_index * share
        return self.order[begin : begin + share]

    def _judged(self, work: Callable[[], T]) -> T | None:
        """What `work` returns; None where the judge has never answered, which is remembered: raised on one process, it would
        leave the others waiting."""
        try:
            return work()
        except OptionError as error:
            self._unreachable = str(error)
            return None

    def _stop_where_judge_is_down(self, rewind: Callable[[], None], before: int) -> None:
        """End the run on all processes where the judge of one cannot be asked; what was sampled is sampled again on --resume.

        Args:
            before: outages that there had been when the step began.

        Raises:
            JudgeError: it is so; every finished update is in a checkpoint.
        """
        own = outage(self.sampler.rubric.judge, before) if self.config.judge_down == "stop" else ""
        done = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{done}"
        why, saved = agreed(self._unreachable or own, (folder / "trainer_state.json").is_file())
        if not why:
            return
        if done and not saved:
            rewind()
            self._save_checkpoint(self.model, None)
            self.accelerator.wait_for_everyone()
        kept = f"{folder} holds all {done} updates that are done" if done else "nothing is trained yet"
        raise JudgeError(f"{why}; {kept}; when the judge is back, the same command with --resume goes on")

    def _measure(self, groups: Sequence[Sequence[Rollout]], seconds: float) -> None:
        """Log what was sampled, before groups are chosen for what can be learnt from them. TRL averages over processes and
        steps."""
        for name, value in measures(groups, self.config.exclusions(), self.varies).items():
            self._log_metric(name, value)
        rollouts = [rollout for group in groups for rollout in group]
        self._log_metric("rollouts_per_second", self.accelerator.num_processes * len(rollouts) / seconds)
        seen = torch.tensor(sum(len(r.transcript.token_ids) for r in rollouts), device=self.accelerator.device)
        self.state.num_input_tokens_seen += int(self.accelerator.gather(seen).sum())
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]

    def _write_rejects(self) -> None:
        """Examples that could not be read, each once."""
        if not self.sampler.rejected:
            return
        known = self.rejects.read_text("utf-8") if self.rejects.is_file() else ""
        if fresh := [line for line in reject_lines(self.sampler.rejected) if line not in known]:
            with self.rejects.open("a", encoding="utf-8") as file:
                file.writelines(fresh)

    def transcripts(self) -> list[Transcript]:
        """The transcripts of the latest step in this process, with its groups in order."""
        return self.step.transcripts


def make_trainer(
    config: TrainConfig,
    examples: Examples,
    *,
    judge: Judge | None = None,
    checkpoint: Checkpoint | None = None,
    flops: FlopsOf | None = None,
) -> VisionThinkTrainer:
    """Set up a run. Examples may be a mapping from their ids that reads them when they are asked for.

    Args:
        flops: what counts operations, of a budget in these.

    Raises:
        DataError: no example can be trained on, or one has no answer.
        OptionError: a setting that cannot work, before anything is trained.
    """
    checkpoint = config.adjusted(checkpoint or open_checkpoint(config.model, attention=config.attention))
    by_id = examples if isinstance(examples, Mapping) else {e.id: e for e in examples}
    if len(by_id) < len(examples):
        raise DataError(f"{len(examples) - len(by_id)} examples have an id that another one has")
    source = EpisodeSource(examples=by_id, menu=config.rollout_menu(), protocol=checkpoint.protocol, budget=checkpoint.budget)
    source.protocol.check_menu(source.menu, must_ask=True)
    visual_tokens, unreadable = usable(source)
    checkpoint.model.config._name_or_path = checkpoint.path  # TRL reloads the reference model by name
    checkpoint.model.train()
    rubric = Rubric(
        checkpoint.protocol,
        judge or read_judge(config.judge),
        config.rollout_penalty(),
        benefit=config.rollout_benefit(),
        meter=meter_of(config, checkpoint, flops),
    )
    return VisionThinkTrainer(config, checkpoint, source, rubric, visual_tokens, unreadable)
