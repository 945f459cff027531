"""Rollouts of a training step with every image and every shared prefix computed once, beside the plain path.

`ours` (`share on`) and `plain` (`share off`, generation by transformers) play the same episodes in turn in one process, first the
one and then the other, and the other way round; CPU seconds of a step's rollouts, judging included. Rows are named as in
`grpo_step.py`. The bound beside a ratio is arithmetic (`step_bound.py`).

Run: OMP_NUM_THREADS=1 python benchmarks/rollout.py [--quick] [--json] [--rows TEXT] [--repeats N] [--out DIR]
"""

from __future__ import annotations

import dataclasses
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from step_bound import StepOperations
from step_table import command, spread
from step_ways import model_of
from step_work import Script, Work

from visionthink.evals.flops import Architecture
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.train.trainer import VisionThinkTrainer, make_trainer

WAYS = ("ours", "plain")
ROWS = (
    Work(model="tiny", prompts=14),
    Work(),
    Work(share=0.5),
    Work(share=0.5, same_words=False),
    Work(share=1.0),
    Work(share=1.0, same_words=False),
    Work(prompt=600, low=300),
    Work(prompt=600, low=300, group=4),
    Work(prompt=600, low=300, group=16),
    Work(prompt=600, low=300, group=32),
    Work(share=0.5, group=16),
    Work(share=0.5, group=16, same_words=False),
    Work(prompt=600, low=300, share=0.5),
    Work(prompt=2800, low=2500),
)
QUICK = Work(prompt=60, low=12, group=4, share=0.5)


def measured(work: Work, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    with model_of(work) as model, tempfile.TemporaryDirectory() as folder:
        trainers = {way: trainer_of(work, way, model, repeats, Path(folder)) for way in WAYS}
        plain = shared = 0.0
        for step in range(repeats + 1):
            lengths = {}
            for way in WAYS if step % 2 else WAYS[::-1]:
                gc.collect()
                rollouts, *seconds = played(trainers[way], step)
                lengths[way] = sorted(len(rollout.transcript.token_ids) for rollout in rollouts)
                if step:  # the examples of the first are small, and it is not measured
                    cpu[way].append(seconds[0])
                    wall[way].append(seconds[1])
                if step and way == "ours":
                    trainer = trainers[way]
                    pad = trainer.sampler.policy.renderer.image_pad_id
                    counted = StepOperations(Architecture.of(trainer.model.config), rollouts, pad)
                    plain, shared = plain + counted.plain["generation"], shared + counted.shared["generation"]
            if work.model != "tiny":
                assert lengths["ours"] == lengths["plain"], f"the ways did not do the same work: {lengths}"
    return {
        "name": work.name,
        "work": dataclasses.asdict(work) | {"answer": list(work.answer)},
        "n": repeats,
        "cpu_seconds": {way: spread(cpu[way]) for way in WAYS},
        "wall_seconds": {way: spread(wall[way]) for way in WAYS},
        "ratio": {"plain": spread([theirs / ours for theirs, ours in zip(cpu["plain"], cpu["ours"], strict=True)])},
        "bound": round(plain / shared, 2),
    }


def trainer_of(work: Work, way: str, model: str, steps: int, folder: Path) -> VisionThinkTrainer:
    torch.manual_seed(0)
    config = work.config(model, folder / way, steps + 1).replace(kl_coef=0.0, share="on" if way == "ours" else "off")
    trainer = make_trainer(config, work.examples(steps + 1), checkpoint=open_checkpoint(model))
    if work.model != "tiny":
        Script(work, trainer.sampler.policy.renderer).speak(trainer.model, trainer.engine)
    return trainer


def played(trainer: VisionThinkTrainer, step: int) -> tuple[list[Any], float, float]:
    """The rollouts of a step, and CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    with trainer.sampling(step):
        groups = trainer.sampler.sample(trainer.examples_of(step))
    spent = time.process_time() - cpu, time.perf_counter() - wall
    return [rollout for group in groups for rollout in group], *spent


if __name__ == "__main__":
    command("rollout", __doc__, ways=WAYS, works=ROWS, quick=QUICK, measure=measured)
