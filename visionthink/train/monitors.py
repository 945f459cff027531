"""Warns of a run that goes wrong in one of the ways runs of this method go wrong. Knows logged numbers only.

Collapse to always or never asking (Fig. 3a of arXiv 2507.13348), entropy gone, a branch that decays because it is no longer
taken, a budget that cannot be met, and a reward that rises although the image does not matter. Each warning is given once.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from visionthink.train.progress import logged_step

log = logging.getLogger(__name__)

WINDOW = 20
"""Logged values a mean is taken over."""


class Watch:
    """Reads the logged numbers of a run and says what is wrong. In a run that `can_ask`, never asking is wrong too."""

    def __init__(self, *, can_ask: bool = True) -> None:
        self._can_ask = can_ask
        self._seen: defaultdict[str, list[float]] = defaultdict(list)
        self._said: set[str] = set()

    def see(self, logs: Mapping[str, Any]) -> list[str]:
        """Warnings that are new with these numbers."""
        for name, value in logs.items():
            if isinstance(value, (int, float)):
                self._seen[name].append(value)
        found = {
            "always": self._mean("request_ratio", least=0.98) and "every rollout asks: requests have collapsed; lower theta",
            "never": self._can_ask
            and self._mean("request_ratio", most=0.02)
            and "no rollout asks: requests have collapsed; set forced or kl_coef",
            "entropy": self._mean("entropy", most=0.005) and "entropy is gone: rollouts of a group are alike; set entropy_coef",
            "unscored": self._mean("unscored/judge", least=0.5)
            and "half of the answers cannot be judged and are not learnt from: the judge does not fit the data",
            "direct": self._branch_decays("direct") and "answers without asking have decayed; set forced to keep them trained",
            "request": self._branch_decays("request") and "answers after asking have decayed; set forced to keep them trained",
            "budget": self._mean("budget/at_ceiling", least=0.2)
            and "the price of looking is at its ceiling in a fifth of the steps or more: the budget cannot be met without "
            "giving up right answers; raise it, or train longer",
            "held": self._mean("budget/held", least=1)
            and "fewer than 90 % of the replies keep the format, so the budget does nothing yet",
            "blind": self._rises("probe/swapped_image")
            and self._rises("reward")
            and "the reward rises, and so it does with another image: the question alone gives the answer away",
        }
        new = {name: text for name, text in found.items() if text and name not in self._said}
        self._said |= set(new)
        return list(new.values())

    def _mean(self, name: str, *, least: float = float("-inf"), most: float = float("inf")) -> bool:
        """Whether the mean of the last window lies in [least, most]."""
        values = self._seen[name][-WINDOW:]
        return len(values) == WINDOW and least <= sum(values) / WINDOW <= most

    def _branch_decays(self, action: str) -> bool:
        """Looked at by the probe, which is rare and steady, or through forced members, which are many and noisy."""
        return self._decays(f"probe/{action}", 2) or self._decays(f"forced/{action}", WINDOW)

    def _decays(self, name: str, window: int) -> bool:
        """Whether the mean of the last `window` values lies 0.15 below the best mean of as many."""
        values = self._seen[name]
        means = [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]
        return bool(means) and means[-1] < max(means) - 0.15

    def _rises(self, name: str) -> bool:
        """Whether the last values lie 0.1 above the first."""
        values = self._seen[name]
        n = min(WINDOW, max(1, len(values) // 4))
        return len(values) >= 4 and sum(values[-n:]) / n > sum(values[:n]) / n + 0.1


class Monitors(TrainerCallback):
    """Logs warnings and appends them to a JSON-lines file, for the report."""

    def __init__(self, path: Path, *, can_ask: bool):
        self.path, self._watch = path, Watch(can_ask=can_ask)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A resumed run has seen what was logged before, and repeats no warning."""
        for logs in state.log_history:
            self._watch.see(logs)
        if state.is_world_process_zero and self.path.is_file():
            kept = [line for line in self.path.read_text("utf-8").splitlines() if logged_step(line) <= state.global_step]
            self.path.write_text("".join(f"{line}\n" for line in kept), "utf-8")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        for text in self._watch.see(logs or {}):
            log.warning("step %d: %s", state.global_step, text)
            if state.is_world_process_zero:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": state.global_step, "warning": text}) + "\n")
