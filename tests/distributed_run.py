"""One process of a training run with scripted rollouts: `torchrun ... distributed_run.py OUT`.

Examples alternate between those for which half of a group asks and those for which nobody does, so that with one example per
process one process has a second turn and the other has none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from scripted import speak

from visionthink import Example
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.render import Renderer
from visionthink.train.config import TrainConfig
from visionthink.train.trainer import make_trainer


def main() -> None:
    out = Path(sys.argv[1])
    examples = [
        Example(str(i), f"Which digit is written? {i}", Image.new("RGB", (112, 112), (40 * i, 90, 160)), answer=str(i % 3))
        for i in range(4)
    ]
    checkpoint = open_checkpoint("tiny-base")
    config = TrainConfig(out=out, steps=2, prompts_per_step=2, group_size=4, max_new_tokens=12, kl_coef=0.0, refill=0, exclude="")
    trainer = make_trainer(config, examples, checkpoint=checkpoint)
    trainer.args.optim, trainer.args.learning_rate = "sgd", 0.05  # Adam would blow up float errors where a gradient is 0

    def reply(question: str, turn: int, member: int) -> str:
        example = int(question.rpartition(" ")[2])
        if example % 2 and turn == 0 and member < 2:
            return checkpoint.protocol.request()
        return f"<answer>{member % 3}</answer>"

    speak(trainer, Renderer(checkpoint.tokenizer), reply)
    trainer.train()
    process = trainer.accelerator.process_index
    record = [
        {"example": t.example_id, "requested": t.requested, "reward": r.score.total}
        for r, t in zip(trainer.step.rollouts, trainer.transcripts(), strict=True)
    ]
    (out / f"rollouts-{process}.json").write_text(json.dumps(record))
    if process == 0:
        torch.save(trainer.accelerator.unwrap_model(trainer.model).state_dict(), out / "weights.pt")


if __name__ == "__main__":
    main()
