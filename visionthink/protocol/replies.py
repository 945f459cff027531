"""What a reply says, whatever the dialect: an answer, a request, or a call that cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from visionthink.errors import is_blank
from visionthink.types import Call, CallError


@dataclass(frozen=True)
class Answer:
    """The turn is an answer. `text` is the whole reply: `extract_answer` says what counts as *the* answer."""

    text: str


@dataclass(frozen=True)
class Request:
    """The turn asks to see more: what was said, one call or several."""

    calls: tuple[Call, ...] = (Call(),)


@dataclass(frozen=True)
class Malformed:
    """The turn tries to call and fails."""

    reason: CallError


Reply: TypeAlias = Answer | Request | Malformed

TAGGED_ANSWER = r"<answer>((?:(?!</?answer>).)*)</answer>"


def extract_answer(text: str) -> str:
    """The last `<answer>` of what was `spoken`, unwrapped from its last `\\boxed{}`; without tags the last box; else the text
    after the thinking.

    Braces inside a box may nest. Surrounding white space is dropped; what cannot be seen is no answer.
    """
    tagged = re.findall(TAGGED_ANSWER, spoken(text), re.DOTALL)
    visible = tagged[-1] if tagged else text.rpartition("</think>")[2]
    boxed = _last_boxed(visible)
    answer = (visible if boxed is None else boxed).strip()
    return "" if is_blank(answer) else answer


def spoken(text: str) -> str:
    """What is searched for answers and requests: the text without its closed thinking, which may quote either.

    Thinking with nothing behind it counts, since it is all that there is. One that opens before the turn does is thinking, too.
    """
    *closed, behind = text.split("</think>")
    if is_blank(behind):
        return text
    outside = ""
    for piece in closed:
        before, opened, _ = piece.partition("<think>")
        outside = outside + before if opened else ""
    return outside + behind


def written_out(content: str, reasoning: str, calls: Sequence[tuple[str, str]]) -> str:
    """The text that a server took apart into content, reasoning and tool calls (name, arguments as JSON), as the model said.

    What the server left in the content as well is not said twice.
    """
    thought = f"<think>{reasoning}</think>" if reasoning and reasoning.strip() not in content.partition("</think>")[0] else ""
    said = [_json(body) for body in re.findall(r"<tool_call>(.*?)</tool_call>", content, re.DOTALL)]
    parts = [thought, content]
    for name, arguments in calls:
        call = _json(arguments)
        call = arguments if call is None else {"name": name, "arguments": call}  # malformed, and to be judged as such
        if call not in said:
            parts.append(f"<tool_call>\n{call if isinstance(call, str) else json.dumps(call, ensure_ascii=False)}\n</tool_call>")
    return "".join(parts)


def _json(text: str) -> Any:
    """The value, or None."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def after_thinking(text: str) -> str:
    """What stands behind the thinking; nothing where the thinking does not end."""
    if "<think>" in text and "</think>" not in text:
        return ""
    behind = text.rpartition("</think>")[2].strip()
    return "" if is_blank(behind) else behind


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin, depth = start + len("\\boxed{"), 1
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i]
    return None
