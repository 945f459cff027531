"""What a server that speaks OpenAI's chat completions replied, parsed once, here, from all the shapes that servers give it.

A reply is used whole or not at all. It is `Completed` (said, cut off, or refused), or `Unanswered` with the server's words; what
is understood only in part is the latter. Whether what was said is an answer is the protocol's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from visionthink.endpoint.failures import Unanswered, error_of, failed, short
from visionthink.endpoint.finish_reasons import ending_of, finish_reason
from visionthink.endpoint.markup import taken_apart
from visionthink.endpoint.streams import parse_body
from visionthink.endpoint.usage import TokenSaid, logprobs_of, usage_of
from visionthink.errors import one_line


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A reply in its parts, and what the server says it cost; None where it does not say."""

    text: str
    finish_reason: Literal["stop", "length", "refused", "unknown"] = "stop"
    """Whatever the server's name for it; `unknown` where that name does not say whether the text came to its end."""
    ended_as: str = ""
    """The server's name for it; empty where it gave none."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    image_tokens: int | None = None
    """How many of the prompt tokens they are."""
    cached_tokens: int | None = None
    """How many of the prompt tokens the server had computed before."""
    logprobs: tuple[TokenSaid, ...] = field(default=(), repr=False)
    """The text that each token added, and the natural logarithm of its probability; empty where the server does not say."""
    reasoning: str = ""
    """What the server took out of the text as thinking."""
    calls: tuple[tuple[str, str], ...] = ()
    """Name, and arguments as JSON text, of the tool calls that it took out of the text."""
    call_ids: tuple[str, ...] = ()
    """What the server calls each of them; an empty text where it does not say."""
    note: str = ""
    """The server's words where it refused; what is uncertain about the reply elsewhere."""

    @property
    def why_no_answer(self) -> str:
        """What to say of a reply that holds no answer."""
        held = "thinking and no answer" if self.reasoning.strip() else "no answer" if self.text else "an empty reply"
        ending = f"finish reason {self.ended_as or 'none'}"
        counted = f", {self.completion_tokens} tokens" if self.completion_tokens else ""
        words = one_line(self.text or self.reasoning, 120, end=True)
        return f"the server gave {held} ({ending}{counted})" + (f": {words}" if words else "")


@dataclass(kw_only=True)
class MessageParts:
    """What a message holds, in order."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    call_ids: list[str] = field(default_factory=list)


def read_reply(content: str) -> Completed:
    """The reply in the body of a response.

    Raises:
        Unanswered: it is none, it says that something failed, or it is understood only in part.
    """
    try:
        return completed_of(_parsed(content))
    except RecursionError:
        raise too_deep() from None


def read_record(content: str) -> Any:
    """Any other JSON in the body of a response.

    Raises:
        Unanswered: it is none, or it says that something failed.
    """
    try:
        record = _parsed(content)
        if (error := error_of(record)) is not None:
            raise failed(error)
    except RecursionError:
        raise too_deep() from None
    return record


def _parsed(content: str) -> Any:
    try:
        return parse_body(content)
    except ValueError as error:
        words = short(content)
        raise Unanswered("server", f"the reply is {error}: {words}" if words else "the reply is empty") from None


def completed_of(record: Any) -> Completed:
    """The reply that a record holds; errors as of `read_reply`."""
    record = record[0] if isinstance(record, list) and len(record) == 1 else record
    if (error := error_of(record)) is not None:
        raise failed(error)
    choices = record.get("choices") if isinstance(record, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        if isinstance(record, dict) and (blocked := _blocked(record)):
            return Completed(text="", finish_reason="refused", note=blocked)
        foreign = isinstance(record, dict) and "choices" not in record  # a record of something else: it will be the same again
        raise Unanswered("server", short(f"the reply holds no completion: {json.dumps(record)}"), final=foreign)
    if len(choices) > 1:
        raise _not_understood(f"{len(choices)} completions, and one was asked for")
    choice = choices[0]
    message = choice.get("message", choice.get("delta"))
    name = finish_reason(choice)
    error = choice.get("error") or (message.get("error") if isinstance(message, dict) else None)
    if error:
        raise failed(error)
    said = MessageParts()
    if isinstance(message, dict):
        read_message(message, said)
    if choice.get("text") and not any(said.text):  # of the older endpoint for completions
        _content(choice["text"], said)
    elif message is not None and not isinstance(message, dict):
        raise _not_understood(f"a message of the form {json.dumps(message)}")
    elif message is None and "text" not in choice and ending_of(name) in (None, "stop"):
        raise Unanswered("server", short(f"the reply holds no completion: {json.dumps(record)}"))
    return _completed(said, name, usage_of(record), logprobs_of(choice))


def _completed(said: MessageParts, name: str, usage: Mapping[str, int | None], logprobs: tuple[TokenSaid, ...]) -> Completed:
    text, reasoning, refusal = (sound("".join(parts)) for parts in (said.text, said.reasoning, said.refusal))
    thinking, text = taken_apart(text)
    reasoning, ending, note = reasoning or thinking, ending_of(name), ""
    if ending == "failed":
        raise Unanswered("server", short(f"the server ended the reply as {name}" + (f": {text}" if text else "")))
    if refusal.strip() or ending == "refused":
        ending, note = "refused", short(refusal) or f"the server ended the reply as {name}"
    elif ending is None:
        if not (text or said.calls) and name:
            raise Unanswered("server", short(f"the server ended the reply as {name}, without a word"), final=True)
        note = f"finish reason {short(name)} is not known" if name else "the server gave no finish reason"
    return Completed(
        text=text,
        finish_reason=ending or ("unknown" if name else "stop"),
        ended_as=name,
        reasoning=reasoning,
        calls=tuple(said.calls),
        call_ids=tuple(said.call_ids),
        logprobs=logprobs,
        note=note,
        **usage,
    )


def read_message(message: Mapping[str, Any], said: MessageParts) -> None:
    """Add what a message holds.

    Raises:
        Unanswered: it holds something else, too.
    """
    for name in ("audio", "images", "image", "video"):
        if message.get(name):
            raise _not_understood(name)
    _content(message.get("content"), said)
    if isinstance(refusal := message.get("refusal"), str):
        said.refusal.append(refusal)
    elif refusal:
        raise _not_understood(f"a refusal of the form {json.dumps(refusal)}")
    if not any(said.reasoning):  # servers give the same thinking under several names
        names = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "reasoning_details", "thinking_blocks")
        said.reasoning.append(next((words for name in names if (words := _thought(message.get(name)))), ""))
    calls = message.get("tool_calls") or []
    for call in calls if isinstance(calls, list) else [calls]:
        _take_call(call, said)
    if (older := message.get("function_call")) and _call(older) not in said.calls:
        _take_call(older, said)


def _content(content: Any, said: MessageParts) -> None:
    """Text, nothing, a part, or a list of parts."""
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else None
        if part is None or isinstance(part, str):
            said.text.append(part or "")
        elif kind in ("text", "output_text"):
            (said.reasoning if part.get("thought") is True else said.text).append(_plain(part.get("text")))
        elif kind in ("thinking", "reasoning", "redacted_thinking"):  # what is encrypted cannot be read, and need not be
            said.reasoning.append(_thought(part))
        elif kind == "refusal":
            said.refusal.append(_plain(part.get("refusal")))
        elif kind in ("tool_use", "tool_call", "function_call"):
            _take_call(part, said)
        else:
            raise _not_understood(f"a part of the form {json.dumps(part)}")


def _plain(text: Any) -> str:
    text = text.get("value") if isinstance(text, dict) else text
    if text is not None and not isinstance(text, str):
        raise _not_understood(f"text of the form {json.dumps(text)}")
    return text or ""


def _thought(value: Any) -> str:
    """Thinking, in whatever form; it is no part of the answer."""
    if isinstance(value, list):
        return "".join(map(_thought, value))
    if isinstance(value, dict):
        return next(
            (words for k in ("thinking", "text", "reasoning", "summary", "content") if (words := _thought(value.get(k)))), ""
        )
    return value if isinstance(value, str) else ""


def _take_call(call: Any, said: MessageParts) -> None:
    name = call.get("id") if isinstance(call, dict) else None
    said.calls.append(_call(call))
    said.call_ids.append(name if isinstance(name, str) else "")


def _call(call: Any) -> tuple[str, str]:
    """Name, and arguments as JSON text, of a call in any of its forms."""
    record = call if isinstance(call, dict) else {}
    record = next((record[k] for k in ("function", "custom", "function_call") if isinstance(record.get(k), dict)), record)
    name = record.get("name")
    if not isinstance(name, str) or not name:
        raise _not_understood(f"a call of the form {json.dumps(call)}")
    arguments: Any = next((record[k] for k in ("arguments", "input", "args", "parameters") if record.get(k) is not None), {})
    if isinstance(arguments, str):
        try:
            twice = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return name, arguments  # malformed, and to be judged as such
        return name, twice if isinstance(twice, str) else arguments or "{}"
    return name, json.dumps(arguments, ensure_ascii=False)


def too_deep() -> Unanswered:
    return Unanswered("server", "the reply is nested too deeply", final=True)


def _not_understood(what: str) -> Unanswered:
    return Unanswered("server", short(f"the reply is understood only in part; it holds {what}"), final=True)


def sound(text: str) -> str:
    """Halves of a character that were sent apart are joined; one that stands alone cannot be written to a file."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _blocked(record: Mapping[str, Any]) -> str:
    """Why a prompt was not answered at all."""
    feedback = record.get("promptFeedback") or record.get("prompt_feedback") or {}
    reason = feedback.get("blockReason") or feedback.get("block_reason") if isinstance(feedback, dict) else None
    filtered = record.get("prompt_filter_results")
    if not reason and filtered and '"filtered": true' in json.dumps(filtered):
        reason = json.dumps(filtered)
    return short(f"the server blocked the prompt: {reason}") if reason else ""
