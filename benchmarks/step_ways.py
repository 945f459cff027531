"""Training steps with a clock, in one way of computing them: ours, plain (`share off`), or stock TRL."""

from __future__ import annotations

import gc
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from step_bound import Operations, StepOperations, together
from step_stock import Completions, stock_trainer
from step_work import MODELS, Script, Work, random_model
from transformers import TrainerCallback

from visionthink.evals.flops import Architecture
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.render import Renderer
from visionthink.train.trainer import make_trainer

WAYS = ("ours", "plain", "stock")


@dataclass(kw_only=True)
class Run:
    """What some steps took, a value for each, and of ours the operations by phase, summed over them."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)
    """Tokens that were said and read after the openings, in ascending order."""
    plain: list[Operations] = field(default_factory=list)
    shared: list[Operations] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    """Share of the members that asked."""


class Clock(TrainerCallback):
    """CPU and wall seconds of every step but the first; `then` is called between steps, when the clock stands still."""

    def __init__(self, run: Run, then: Callable[[int], None]):
        self._run, self._then = run, then

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.process_time(), time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        cpu, wall = time.process_time() - self._begun[0], time.perf_counter() - self._begun[1]
        if state.global_step > 1:
            self._run.cpu.append(cpu)
            self._run.wall.append(wall)
        self._then(state.global_step)


@contextmanager
def model_of(work: Work) -> Iterator[str]:
    """The model that is trained."""
    with tempfile.TemporaryDirectory() as folder:
        yield "tiny-base" if work.model == "tiny" else random_model(MODELS[work.model], Path(folder) / "model")


def timed(work: Work, way: str, model: str, steps: int) -> Run:
    """`steps` steps after one that is not measured."""
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        return (_stock if way == "stock" else _ours)(work, way, model, steps, Path(folder))


def _ours(work: Work, way: str, model: str, steps: int, folder: Path) -> Run:
    torch.manual_seed(0)
    run, config = Run(), work.config(model, folder, steps + 1).replace(share="off" if way == "plain" else "on")
    trainer = make_trainer(config, work.examples(steps + 1), checkpoint=open_checkpoint(model))
    assert (trainer.engine is not None) == (way == "ours")
    renderer = trainer.sampler.policy.renderer
    if work.model != "tiny":
        Script(work, renderer).speak(trainer.model, trainer.engine)
    architecture = Architecture.of(trainer.model.config)

    def record(step: int) -> None:
        rollouts = trainer.step.rollouts
        if step > 1:
            run.lengths.append(sorted(map(len, trainer.step.completion_ids)))
            run.asked.append(sum(rollout.transcript.requested for rollout in rollouts) / len(rollouts))
        if step > 1 and way == "ours":
            operations = StepOperations(architecture, rollouts, renderer.image_pad_id)
            run.plain.append(operations.plain)
            run.shared.append(operations.shared)

    trainer.add_callback(Clock(run, record))
    trainer.train()
    assert (trainer.engine is not None) == (way == "ours")  # the check of the first step has found no difference
    return run


def _stock(work: Work, _way: str, model: str, steps: int, folder: Path) -> Run:
    torch.manual_seed(0)
    run, found = Run(), list[Completions]()
    config, checkpoint = work.config(model, folder, steps + 1), open_checkpoint(model)
    trainer = stock_trainer(config, work.examples(steps + 1), checkpoint, found)
    if work.model != "tiny":
        Script(work, Renderer(checkpoint.tokenizer)).speak(trainer.model)
    trainer.add_callback(Clock(run, lambda step: None))
    trainer.train()
    run.lengths = [completions.lengths for completions in found[1:]]
    run.asked = [completions.asked for completions in found[1:]]
    return run


def operations(runs: list[Run]) -> tuple[Operations, Operations]:
    """Of stock code and at the least, of all steps of ours."""
    return tuple(together([step for run in runs for step in getattr(run, kind)]) for kind in ("plain", "shared"))


logging.getLogger("visionthink").setLevel(logging.ERROR)
