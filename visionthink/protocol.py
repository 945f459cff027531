"""What is said between us and the model: prompts, tags, the tool schema, and how a reply is read.

Knows nothing about whose turn it is (`episode`) or about tokens (`chatml` writes the wire text). The strings live in
`prompts/`, byte for byte as published; a variant of the protocol is a `Dialect`, a value.
"""

from __future__ import annotations

import enum
import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, TypeAlias

from visionthink.errors import DataError, OptionError
from visionthink.types import ImageView, Message

IMAGE_MARK = "<image>"
"""Where a question (in the released data) or a transcript has an image."""

Boundary = Literal["chatml", "released"]
"""Between an assistant turn and the next: `chatml` has a newline, `released` has none, as the authors' checkpoints were
trained."""


@functools.cache
def prompt(name: str) -> str:
    """The text of `prompts/NAME.txt`, byte for byte."""
    return (resources.files("visionthink") / "prompts" / f"{name}.txt").read_bytes().decode("utf-8")


# ------------------------------------------------------------------------------------------------ what a reply says


class CallError(enum.StrEnum):
    """Why a call cannot be read. The value is what the model is told; no exception text ever reaches it."""

    UNCLOSED = "the tool call is not closed"
    NOT_JSON = "the tool call is not valid JSON"
    UNKNOWN_FUNCTION = "there is no function of this name"
    WRONG_ARGUMENTS = "the arguments must be exactly one action, which must be resize"
    REPEATED = "only one tool call is allowed per step"


@dataclass(frozen=True)
class Answer:
    """The turn is an answer. `text` is the whole reply: `extract_answer` says what counts as *the* answer."""

    text: str


@dataclass(frozen=True)
class RequestResolution:
    """The turn asks for the next level."""


@dataclass(frozen=True)
class Malformed:
    """The turn tries to call and fails."""

    reason: CallError


Reply: TypeAlias = Answer | RequestResolution | Malformed

_CALL = {"name": "resize_image", "arguments": {"action": "resize"}}
_TOOL_CALL = f"<tool_call>\n{json.dumps(_CALL)}\n</tool_call>"


def _parse_tool_call(text: str) -> Reply:
    opened, closed = text.count("<tool_call>"), text.count("</tool_call>")
    if not opened:
        return Answer(text)
    if opened > 1:
        return Malformed(CallError.REPEATED)
    body = re.search(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
    if closed != 1 or body is None:
        return Malformed(CallError.UNCLOSED)
    try:
        call = json.loads(body[1])
    except (ValueError, RecursionError):
        return Malformed(CallError.NOT_JSON)
    if not isinstance(call, dict) or call.get("name") != _CALL["name"]:
        return Malformed(CallError.UNKNOWN_FUNCTION)
    return RequestResolution() if call == _CALL else Malformed(CallError.WRONG_ARGUMENTS)


def _parse_resize_pair(text: str) -> Reply:
    count = text.count("<resize>")
    if not count:
        return Answer(text)
    if count > 1:
        return Malformed(CallError.REPEATED)
    return RequestResolution() if "<resize></resize>" in text else Malformed(CallError.UNCLOSED)


def _parse_resize_mark(text: str) -> Reply:
    count = text.count("<resize>")
    if not count:
        return Answer(text)
    return RequestResolution() if count == 1 else Malformed(CallError.REPEATED)


@dataclass(frozen=True)
class _Call:
    """A way to ask: the canonical text, how a reply is read, the string that opens a call, and the form of a clean one."""

    canonical: str
    parse: Callable[[str], Reply]
    opens: str
    form: str
    """Regular expression for a turn that asks, its thinking left out."""


_PLAIN = r"(?:(?!</?(?:think|answer|tool_call|tool_response|resize)>).)*"
"""Text without a tag of the protocol."""

_CALLS = {
    "tool_call": _Call(_TOOL_CALL, _parse_tool_call, "<tool_call>", rf"<tool_call>{_PLAIN}</tool_call>"),
    # these two ask in running text
    "resize_pair": _Call("<resize></resize>", _parse_resize_pair, "<resize>", rf"{_PLAIN}<resize></resize>"),
    "resize_mark": _Call("<resize>", _parse_resize_mark, "<resize>", rf"{_PLAIN}<resize>"),
}
_THINKING = rf"<think>{_PLAIN}</think>\s*"
_ANSWER = r"<answer>((?:(?!</?answer>).)*)</answer>"


def extract_answer(text: str) -> str:
    """The last `<answer>`, unwrapped from its last `\\boxed{}`; without tags the last box; else the text after the thinking.

    Braces inside a box may nest. Surrounding white space is dropped.
    """
    tagged = re.findall(_ANSWER, text, re.DOTALL)
    visible = tagged[-1] if tagged else text.rpartition("</think>")[2]
    boxed = _last_boxed(visible)
    return (visible if boxed is None else boxed).strip()


def written_out(content: str, reasoning: str, calls: Sequence[tuple[str, str]]) -> str:
    """The text that a server took apart into content, reasoning and tool calls (name, arguments as JSON), as the model said."""
    parts = [f"<think>{reasoning}</think>" if reasoning else "", content]
    for name, arguments in calls:
        try:
            call = json.dumps({"name": name, "arguments": json.loads(arguments)}, ensure_ascii=False)
        except ValueError:
            call = arguments  # malformed, and to be judged as such
        parts.append(f"<tool_call>\n{call}\n</tool_call>")
    return "".join(parts)


def after_thinking(text: str) -> str:
    """What stands behind the thinking; nothing where the thinking does not end."""
    if "<think>" in text and "</think>" not in text:
        return ""
    return text.rpartition("</think>")[2].strip()


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


# ------------------------------------------------------------------------------------------------ dialects


@dataclass(frozen=True)
class Dialect:
    """One wording of the protocol. `system`, `user`, `resized` and `tool_error` name files in `prompts/`.

    `call` is None where the tool is not advertised; `single` names the dialect for ladders of one level. `thinks` says
    whether the format demands `<think>`.
    """

    name: str
    system: str | None
    user: str
    single: str
    call: str | None = None
    resized: str = "resized"
    tool_error: str = "tool_error"
    thinks: bool = True


DIALECTS: dict[str, Dialect] = {
    d.name: d
    for d in (
        # paper Table 4: the default for real models
        Dialect("agent", "agent_system", "agent_user", "general", call="tool_call"),
        # paper Table 5: one level, no tool
        Dialect("general", "general_system", "general_user", "general"),
        # paper Table 10: the two custom prompts of Fig. 7
        Dialect("simple_resize", "simple_resize_system", "simple_resize_user", "general", call="resize_pair", thinks=False),
        Dialect("simple_think_resize", "simple_think_resize_system", "simple_think_resize_user", "general", call="resize_mark"),
        # ours: a few tokens, for the tiny model; the call is the agent's
        Dialect("compact", None, "compact_user", "compact_single", call="tool_call", resized="compact_resized",
                tool_error="compact_tool_error", thinks=False),
        Dialect("compact_single", None, "compact_single_user", "compact_single", thinks=False),
    )
}  # fmt: skip

MARKUP = (
    _TOOL_CALL,
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
)
"""Strings a tokenizer may want as single, non-special tokens; the first is a whole request."""


@dataclass(frozen=True)
class Protocol:
    """A dialect and a turn boundary: everything that is said, as functions of what happened.

    Raises:
        OptionError: unknown dialect or boundary.
    """

    dialect: str = "agent"
    boundary: Boundary = "chatml"

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise OptionError(f"unknown dialect {self.dialect!r}; choose from {', '.join(DIALECTS)}")
        if self.boundary not in ("chatml", "released"):
            raise OptionError(f"unknown boundary {self.boundary!r}; choose chatml or released")

    def _spoken(self, can_request: bool) -> Dialect:
        dialect = DIALECTS[self.dialect]
        return dialect if can_request else DIALECTS[dialect.single]

    def opening(self, question: str, view: ImageView, *, can_request: bool) -> list[Message]:
        """System and user message of the first turn. Without a higher level to ask for, the tool is not mentioned."""
        dialect = self._spoken(can_request)
        if question.count(IMAGE_MARK) > 1:
            raise DataError(f"the question {question[:60]!r} has more than one {IMAGE_MARK}; one image is supported")
        before, _, after = question.rpartition(IMAGE_MARK)
        head, tail = prompt(dialect.user).split("{question}")
        messages = [Message("system", (prompt(dialect.system),))] if dialect.system else []
        content = (head + before, view, after + tail)
        return [*messages, Message("user", tuple(part for part in content if part != ""))]

    def tool_result(self, view: ImageView) -> Message:
        """The user turn that shows the next level."""
        head, tail = prompt(DIALECTS[self.dialect].resized).split("{image}")
        return Message("user", tuple(part for part in (head, view, tail) if part != ""))

    def tool_error(self, reason: CallError) -> Message:
        """The user turn after a call that cannot be read."""
        return Message("user", (prompt(DIALECTS[self.dialect].tool_error).replace("{error}", reason.value),))

    def parse(self, text: str, *, can_request: bool = True) -> Reply:
        """Read a reply in the dialect that was spoken."""
        call = self._call(can_request)
        return call.parse(text) if call else Answer(text)

    def _call(self, can_request: bool = True) -> _Call | None:
        kind = self._spoken(can_request).call
        return _CALLS[kind] if kind else None

    @property
    def can_ask(self) -> bool:
        """Whether the dialect has a way to ask for more resolution."""
        return self._call() is not None

    def _asking(self) -> _Call:
        call = self._call()
        if call is None:
            raise OptionError(f"the dialect {self.dialect} has no way to ask for more resolution")
        return call

    @property
    def request(self) -> str:
        """The canonical request, for demonstrations and forced actions."""
        return self._asking().canonical

    @property
    def request_opening(self) -> str:
        """The string that no reply without a request contains."""
        return self._asking().opens

    @property
    def answer_opening(self) -> str:
        """The string that opens an answer."""
        return "<answer>"

    def is_well_formed(self, text: str, *, can_request: bool = True) -> bool:
        """Whether one turn keeps the format to the letter: a valid request or a tagged answer, once, and nothing beside it.

        Where the dialect thinks, the reasoning comes first and once. White space around the parts does not matter.
        """
        reply, form = self.parse(text, can_request=can_request), f"<answer>{_PLAIN}</answer>"
        if isinstance(reply, Malformed):
            return False
        if isinstance(reply, RequestResolution):
            form = self._asking().form
        if self._spoken(can_request).thinks:
            form = _THINKING + form
        return re.fullmatch(form, text.strip(), re.DOTALL) is not None

    def format_answer(self, answer: str) -> str:
        """An answer in this dialect, for demonstrations; thinking is left to the model."""
        return f"<answer>{answer}</answer>"
