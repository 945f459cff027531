"""Watching a run: a line of JSON per step, and a progress bar on a terminal or lines elsewhere."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from visionthink import records
from visionthink.progress import stage
from visionthink.train.processes import this_process


class MetricsFile(TrainerCallback):
    """Appends every logged step to a JSON-lines file. A resumed run drops the steps it is about to repeat."""

    def __init__(self, path: Path):
        self.path = path
        self._start = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text("utf-8", "replace").splitlines() if self.path.is_file() else []
        kept = [line for line in lines if logged_step(line) <= state.global_step]
        self.path.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        self._start -= json.loads(kept[-1]).get("seconds", 0) if kept else 0

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and state.is_world_process_zero and "loss" in logs:
            record = {"step": state.global_step, "seconds": round(time.perf_counter() - self._start, 2), **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def logged_step(line: str) -> float:
    """The step of a line; infinity for one that was torn by a kill or is none, which is then dropped."""
    try:
        return float(records.parse(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")


def _status(logs: dict[str, Any]) -> str:
    """What a run is at, in a few words; supervised runs have no reward."""
    if "reward" not in logs:
        return f"loss {logs['loss']:.3f}"

    def number(name: str) -> float:
        return logs.get(name) or 0.0  # nothing could be scored: None

    accuracy, form, penalty = (number(f"rewards/{name}/mean") for name in ("accuracy", "format", "penalty"))
    return (
        f"reward {number('reward'):.2f} ({accuracy:.2f} + {form:.2f} - {0.0 - penalty:.2f}), "  # -penalty could be minus zero
        f"requests {100 * number('request_ratio'):.0f} %, groups alike {100 * number('zero_variance'):.0f} %, "
        f"{number('rollouts_per_second'):.0f} rollouts/s"
    )


def say(text: str) -> None:
    """A line for people about a stage that may take long, from the first process of a run."""
    if this_process().is_main_process:
        Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)


class ProgressBar(TrainerCallback):
    """Steps, reward and request ratio, from the first process of a run."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stage, self._done = contextlib.ExitStack(), state.global_step
        if state.is_world_process_zero:
            self._advance = self._stage.enter_context(stage("training", state.max_steps, done=self._done))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            self._advance(state.global_step - self._done, _status(logs))
            self._done = state.global_step

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._stage.close()
