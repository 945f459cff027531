"""What happens while an answer is made, in the order in which a client hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from visionthink.serve.bill import Bill
from visionthink.types import FailureKind, Shown


@dataclass(frozen=True)
class Thought:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Looked:
    """What the model is shown: the opening is turn 0, every request that is followed shows more."""

    turn: int
    views: tuple[Shown, ...]


@dataclass(frozen=True)
class Decided:
    """Why it looks as it does, in one short sentence."""

    rule: Literal["model", "gate", "skipped", "fixed"]
    text: str
    measured: Mapping[str, Any] | None = None
    """What a gate went by, for the log."""


@dataclass(frozen=True)
class CalledTools:
    """Calls of the client's own tools, in the form of chat completions."""

    calls: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Ended:
    """The answer is complete; always the last event, unless `Failed` is."""

    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]
    bill: Bill


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no rest of it. The text is one clear line."""

    kind: FailureKind
    text: str
    after: float | None = None
    """See `Failure.after`."""


Event: TypeAlias = "Thought | Text | Looked | Decided | CalledTools | Ended | Failed"
