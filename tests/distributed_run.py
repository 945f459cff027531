"""One process of a training run with scripted rollouts: `torchrun ... distributed_run.py OUT [--setting value ...]`.

The model generates as well, unheard, so that all is done that processes must do together. With one example per process:

step 1: nobody asks on the first process; on the second two members do, one of them with a prompt that outgrows the context
        afterwards, and a third says nothing.
step 2: all members of the first process say the same, so that the group is replaced; on the second all ask.
step 3: nobody asks on the second process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import accelerate.state
import torch
from accelerate.utils import DistributedType
from PIL import Image
from scripted import speak
from transformers import TrainerCallback

from visionthink import Example
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.train import run
from visionthink.train.config import TrainConfig
from visionthink.train.processes import this_process

ASK = {1: (0, 1), 3: (0, 1, 2, 3), 4: (0, 3)}
"""Members that ask, by example."""
STEPS = 3


def as_gpus() -> None:
    """Accelerate splits weights only over devices that are none of a CPU's: two processes on a CPU pass for such. DeepSpeed would
    compile a reduction for CPUs, and gloo has one."""
    if importlib.util.find_spec("deepspeed"):
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    accelerate.state.PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)  # type: ignore[method-assign]
    for state in (accelerate.state.PartialState, accelerate.state.AcceleratorState):

        def begin(self: Any, *given: Any, begin: Any = state.__init__, cpu: bool = False, **named: Any) -> None:
            begin(self, *given, **named)

        state.__init__ = begin  # type: ignore[method-assign]


class Weights(TrainerCallback):
    """Keeps the weights after each step, and what was sampled."""

    trainer: Any = None

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        trainer, step = self.trainer, state.global_step
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        rollouts = [
            {
                "example": t.example_id,
                "requested": t.requested,
                "reward": r.score.total,
                "turns": len(t.turns),
                "stop": t.stop_reason.value,
            }
            for r, t in zip(trainer.step.rollouts, trainer.transcripts(), strict=True)
        ]
        (trainer.config.out / f"rollouts-{step}-{trainer.accelerator.process_index}.json").write_text(json.dumps(rollouts))
        if trainer.accelerator.is_main_process:
            torch.save(weights, trainer.config.out / f"weights-{step}.pt")
            group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
            (trainer.config.out / "waits.txt").write_text(str(group.options._timeout))


def main() -> None:
    out = Path(sys.argv[1])
    changes = {name.removeprefix("--"): json.loads(value) for name, value in zip(sys.argv[2::2], sys.argv[3::2], strict=True)}
    die_at = changes.pop("die_at", None)
    if any(os.environ.get(f"ACCELERATE_USE_{kind}") for kind in ("DEEPSPEED", "FSDP")):
        as_gpus()
    examples = [
        Example(str(i), f"Which digit is written? {i}", Image.new("RGB", (112, 112), (40 * i, 90, 160)), answer="0")
        for i in range(6)
    ]
    checkpoint = open_checkpoint("tiny-base")
    settings = {
        "steps": STEPS,
        "prompts_per_step": 2,
        "group_size": 4,
        "max_new_tokens": 12,
        "kl_coef": 0.1,
        "refill": 1,
        "exclude": "empty",
        "shuffle": False,
        "save_steps": 1,
        "learning_rate": 0.05,
        "timeout_minutes": 7,
    }
    config = TrainConfig(out=out, **settings | changes)
    protocol = checkpoint.protocol
    make_trainer, trained = run.make_trainer, Weights()

    def make(*given: Any, **named: Any) -> Any:
        trained.trainer = trainer = make_trainer(*given, **named)
        # Adam would blow up float errors where a gradient is 0
        trainer.optimizer_cls_and_kwargs = torch.optim.SGD, {"lr": config.learning_rate, "momentum": 0.9}
        trainer.add_callback(trained)
        checkpoint.model.config.get_text_config().max_position_embeddings = 80
        speak(trainer, reply, unheard=True)
        return trainer

    def reply(question: str, turn: int, member: int) -> str:
        if not question.startswith("Which digit"):
            return "A padding turn."
        process, step = trained.trainer.accelerator.process_index, trained.trainer.state.global_step + 1
        if step == die_at and process == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        example = int(question.rpartition(" ")[2])
        if turn == 0 and member % 4 in ASK.get(example, ()):
            return ("x" * 60 if (example, member) == (1, 1) else "") + protocol.request()
        if (example, member) == (1, 2):
            return ""
        return "<answer>7</answer>" if example == 2 else f"<answer>{member % 4}</answer>"

    run.make_trainer = make
    run.train(config, examples, checkpoint=checkpoint)
    this_process().destroy_process_group()


if __name__ == "__main__":
    main()
