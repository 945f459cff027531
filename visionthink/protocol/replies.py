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

_CALL = r"<tool_call>(.*?)</tool_call>"
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


def answer_start(text: str) -> int:
    """Where the answer begins, in characters: behind the last `<answer>`, or else behind the thinking."""
    begin = max(text.rfind("<answer>") + len("<answer>"), text.rfind("</think>") + len("</think>"))
    return begin if "<answer>" in text or "</think>" in text else 0


def spoken(text: str) -> str:
    """What is searched for answers and requests: the text without its closed thinking, which may quote either.

    Thinking with nothing behind it counts, since it is all that there is. One that opens before the turn does is thinking, too.
    What thinking parts stays apart, on lines of its own: no tag begins before a thought and ends behind it.
    """
    *closed, behind = text.split("</think>")
    if is_blank(behind):
        return text
    outside: list[str] = []
    for piece in closed:
        before, opened, _ = piece.partition("<think>")
        outside = [*outside, before] if opened else []
    return "\n".join(part for part in (*outside, behind) if part)


def written_out(content: str, reasoning: str, calls: Sequence[tuple[str, str]]) -> str:
    """The text that a server took apart into content, reasoning and tool calls (name, arguments as JSON), as the model said.

    What the server left in the content as well is not said twice.
    """
    thought = f"<think>{reasoning}</think>" if reasoning and reasoning.strip() not in content.partition("</think>")[0] else ""
    said = [_json(body) for body in re.findall(_CALL, content, re.DOTALL)]
    parts = [thought, content]
    for name, arguments in calls:
        call = _json(arguments)
        call = arguments if call is None else {"name": name, "arguments": call}  # malformed, and to be judged as such
        if call not in said:
            parts.append(f"<tool_call>\n{call if isinstance(call, str) else json.dumps(call, ensure_ascii=False)}\n</tool_call>")
    return "".join(parts)


class IncrementalText:
    """`written_out`, piece by piece: what a server takes out of the text while it is said."""

    def __init__(self) -> None:
        self.text = ""
        """All that was written so far."""
        self._thought = ""
        self._thinking: bool | None = None
        """Whether a thought is open; None where there was none."""
        self._spoken = False

    def add(self, content: str, reasoning: str) -> str:
        """What a piece of either adds to the text. A thought after the first word is left to the end: it stands before that."""
        piece = ""
        if reasoning and not self._spoken:
            self._thought += reasoning
            if self._thinking:
                piece = reasoning
            elif self._thought.strip():
                self._thinking, piece = True, f"<think>{self._thought}"
        if content:
            piece += f"</think>{content}" if self._thinking else content
            self._thinking, self._spoken = False, True
        self.text += piece
        return piece

    def finish(self, whole: str) -> str:
        """What is missing from the whole; nothing where that is another text than what was written."""
        rest = whole[len(self.text) :] if whole.startswith(self.text) else ""
        self.text += rest
        return rest


def split_calls(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What a turn says behind its thinking and beside its tool calls, and those: name, and arguments as the JSON of an object.

    Where a call is none, its name is empty, or its arguments are.
    """
    bodies = re.findall(_CALL, spoken(text), re.DOTALL)
    calls = []
    for body in map(_json, bodies):
        name, arguments = (body.get("name"), body.get("arguments")) if isinstance(body, dict) else ("", {})
        arguments = json.dumps(arguments if isinstance(arguments, dict) else {}, ensure_ascii=False)
        calls.append((name if isinstance(name, str) else "", arguments))
    return after_thinking(re.sub(_CALL, "", text, flags=re.DOTALL)), calls


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
