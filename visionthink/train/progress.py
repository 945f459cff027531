"""Watching a run: a line of JSON per step, and a progress bar on a terminal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class MetricsFile(TrainerCallback):
    """Appends every logged step to a JSON-lines file. `fresh` starts the file anew."""

    def __init__(self, path: Path, *, fresh: bool):
        self.path = path
        self._start = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and state.is_world_process_zero and "reward" in logs:
            record = {"step": state.global_step, "seconds": round(time.perf_counter() - self._start, 2), **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


class ProgressBar(TrainerCallback):
    """Steps, reward and request ratio on a terminal; silent elsewhere."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._task = self._progress.add_task("", total=state.max_steps, completed=state.global_step, status="")
        self._progress.start()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "reward" in logs:
            status = f"reward {logs['reward']:.2f}, requests {100 * logs.get('request_ratio', 0):.0f} %"
            self._progress.update(self._task, completed=state.global_step, status=status)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._progress.stop()
