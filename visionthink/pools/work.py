"""What a pool spreads: a function of one item, which every worker opens for itself, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from visionthink.errors import VisionThinkError

Work = Callable[[], Callable[[Any], "Finished"]]
"""Opens whatever the work needs, such as a model, and returns the function of one item. It is pickled on its way to a worker."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The record of one item, and what the judge of its worker has cost so far, by the worker's name."""

    record: Mapping[str, Any]
    worker: str = ""
    usage: Mapping[str, float] = field(default_factory=dict)


class Worker:
    """A worker of a pool: does the work of one item after the other, and opens what it needs when the first one comes."""

    def __init__(self, work: Work):
        self._work = work
        self._run: Callable[[Any], Finished] | None = None

    def __call__(self, item: Any) -> Finished | VisionThinkError:
        """The result, or an error that is the user's business, which is handed over as it is."""
        try:
            if self._run is None:
                self._run = self._work()
            return self._run(item)
        except VisionThinkError as error:
            return error
