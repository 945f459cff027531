"""The trainer of a method: its checkpoints hold what is trained, and nothing of the frozen model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from visionthink.compress.learned import WEIGHTS, Learned
from visionthink.engine.checkpoints import Checkpoints, naming


class FitTrainer(Checkpoints):
    """transformers' trainer, for a method within its model.

    Args:
        module: the method.
    """

    def __init__(self, module: Learned, **arguments: Any):
        super().__init__(**arguments)
        self.module, self._before, self._began = module, 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Training time, including that before an interruption."""
        return self._before + time.perf_counter() - self._began

    def read(self, checkpoint: Path) -> None:
        """Go on from the weights of a checkpoint, without its optimizer.

        Raises:
            ModelError: they are missing or damaged.
        """
        with naming(str(checkpoint)), torch.no_grad():
            stored = load_file(checkpoint / WEIGHTS)
            for name, weight in self._weights().items():
                weight.copy_(stored[name])
            self._before, self._began = float(stored["seconds"]), time.perf_counter()

    def _weights(self) -> dict[str, Tensor]:
        adapter = self.module.adapter.parameters() if self.module.adapter is not None else {}
        return {
            **{f"module.{name}": weight for name, weight in self.module.state_dict().items()},
            **{f"adapter.{name}": weight.detach() for name, weight in adapter.items()},
        }

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: weight.cpu().contiguous() for name, weight in self._weights().items()}
        save_file(weights | {"seconds": torch.tensor(self.seconds)}, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.read(Path(resume_from_checkpoint))


class Progress(transformers.TrainerCallback):
    """Reports progress to the module and to the progress bar."""

    def __init__(self, module: Learned, steps: int, advance: Any):
        self.module, self.steps, self.advance = module, steps, advance

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        self.module.progress(state.global_step / self.steps)

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **_kwargs: Any) -> None:
        self.advance(1)


class Numbers(torch.utils.data.Dataset[int]):
    """Indices of the samples, which the data collator makes into batches."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index
