"""How a server says that a reply has ended, whatever its name for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

Ending = Literal["stop", "length", "refused", "failed"]

_ENDS = frozenset(
    "stop|eos|eos token|eos token id|eos found|eot|end|end turn|end of turn|end of text|end of sequence|endoftext|"
    "stop sequence|stop token|stop string|stop string found|stop str|stop word|stop words|complete|completed|finish|finished|"
    "done|success|succeeded|tool|tools|tool call|tool calls|tool use|function|function call|function calls".split("|")
)
"""The names that mean that a reply came to its end. One word more may deny it: `not_finished`, `stopped_by_user`."""
_ENDINGS: tuple[tuple[Ending, str], ...] = (  # in this order: `error_toxic` is a refusal
    ("failed", r"malformed|unexpected|abort|cancel|interrupt|timeout|fail|network|insufficient|overload|pause"),
    ("refused", r"\w*filter|safety|refus|block|prohibit|recitation|spii|sensitive|moderat|guardrail|toxic|polic|flagged|armor"),
    ("length", r"length|max|limit|window|trunc|incomplete"),
    ("failed", r"error"),
)


def ending_of(name: str) -> Ending | None:
    """What a finish reason means: the end by its whole name, anything else by a word in it; None where it is not known.

    stop, eos_token, end_turn, STOP, tool_calls; length, MAX_TOKENS, model_length; content_filter, SAFETY, refusal; error, abort.
    """
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", name.rpartition(".")[2]).lower()
    spaced = re.sub(r"[^a-z]+", " ", spaced).removeprefix("finish reason ")
    if spaced.strip() in _ENDS:
        return "stop"
    return next((ending for ending, words in _ENDINGS if re.search(rf"\b(?:{words})", spaced)), None)


def finish_reason(choice: Mapping[str, Any]) -> str:
    """The finish reason as the server names it; behind a router that reports a normal end, the one of the model's server."""
    named = [_named(choice[k]) for k in ("finish_reason", "finishReason", "native_finish_reason") if choice.get(k) is not None]
    denied = (name for name in named if ending_of(name) not in (None, "stop"))
    return next(denied, named[0] if named else "")


def _named(reason: Any) -> str:
    """SGLang's engine puts it into a record."""
    reason = reason.get("type", "") if isinstance(reason, dict) else reason
    return reason.strip() if isinstance(reason, str) else json.dumps(reason)
