"""One process of supervised runs on scripted demonstrations: `torchrun ... sft_run.py OUT RUNS`, where RUNS is JSON, settings of
each run by its name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from visionthink.data import synth
from visionthink.episode import run_batch
from visionthink.menu import Menu
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.render import Renderer
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.train.demonstrations import Demonstrations, demonstrate
from visionthink.train.processes import this_process
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.saving import save_final
from visionthink.train.sft import SupervisedTrainer, check_run
from visionthink.train.sft_config import SftConfig


def scripted(checkpoint: Checkpoint, count: int) -> Demonstrations:
    """Every third one asks, and answers are of unequal length, so that shares of a batch differ in tokens."""
    examples = {e.id: e for e in synth.suite(count, split="train")}
    source = EpisodeSource(examples=examples, menu=Menu(), protocol=checkpoint.protocol, budget=checkpoint.budget)
    transcripts = []
    for i, example in enumerate(examples.values()):
        answer = source.protocol.format_answer(" ".join([str(example.answer)] * (1 + i % 4)))
        script = [source.protocol.request(), answer] if i % 3 == 0 else [answer]
        transcripts += run_batch(source.over(example), ScriptedPolicy(script))
    return demonstrate(transcripts, source, Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary))


def run(out: Path, **settings: Any) -> Path:
    """Two updates of plain gradient descent: Adam would blow up float errors where a gradient is 0."""
    this_process()
    checkpoint = open_checkpoint("tiny-base")
    config = SftConfig(out=out, steps=2, batch_size=8, save_steps=9, **settings)
    check_run(config)
    trainer = SupervisedTrainer(config, scripted(checkpoint, 12), checkpoint)
    trainer.args.optim, trainer.args.learning_rate = "sgd", 0.05
    trainer.train()
    save_final(trainer, out / "final")
    return out / "final"


if __name__ == "__main__":
    for name, settings in json.loads(sys.argv[2]).items():
        run(Path(sys.argv[1]) / name, **settings)
