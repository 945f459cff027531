"""Histories as the messages of a request of chat completions, and replies with calls as completions."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from visionthink.protocol import after_thinking, prompt, taken_out
from visionthink.types import History, ImageView, Message


def messages_of(history: History) -> list[dict[str, Any]]:
    """The messages of a history. A view is the same bytes in every round, so that a prefix cache finds it.

    Where functions are named beside the text, a turn that calls them is sent as calls, and each is answered in a word: what was
    asked for follows in the user's turn, since the answer to a call can hold no image everywhere.
    """
    native = any(message.tools for message in history)
    sent: list[dict[str, Any]] = []
    for message in history:
        calls: list[tuple[str, str]] = []
        if native and message.completion is not None:
            text, calls = taken_out(message.completion.text)
        if calls:
            sent += _called(text, calls, named(functions_of(history))[0], len(sent))
        else:
            sent.append(_message(message))
    return sent


def functions_of(history: History) -> list[Mapping[str, Any]]:
    """The protocol's functions that can be called."""
    return [function for message in history for function in message.tools]


def named(tools: Any) -> list[str]:
    """Names of functions in OpenAI's form; what has none is left out."""
    records = [tool.get("function", tool) for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, Sequence) else []
    return [r["name"] for r in records if isinstance(r, Mapping) and isinstance(r.get("name"), str)]


def call_of(name: str, arguments: str, known_as: str) -> dict[str, Any]:
    """A call in OpenAI's form, under a name of its own where the server gave it none."""
    known_as = known_as or f"call_{uuid.uuid4().hex}"
    return {"id": known_as, "type": "function", "function": {"name": name, "arguments": arguments}}


def by_token(tokens: Sequence[tuple[str, float]], text: str) -> dict[str, Any]:
    """`token_texts` and `logprobs` of a completion; nothing where the tokens that a server names are not those of the text.

    Marks of the end add no text. Thinking that the server took out may be written otherwise than it was said, or its tokens be
    missing: what comes before the answer is then the text of one token.
    """
    texts = [""] * len(tokens)
    left, end = len(tokens), len(text)
    while left and not text.endswith(tokens[left - 1][0]):
        left -= 1
    while left and text.endswith(tokens[left - 1][0], 0, end):
        left -= 1
        texts[left] = tokens[left][0]
        end -= len(texts[left])
    answer = after_thinking(text)
    if not tokens or end > (text.rindex(answer) if answer else len(text)):
        return {}
    texts[max(0, left - 1)] = text[:end] + texts[max(0, left - 1)]
    return {"token_texts": tuple(texts), "logprobs": tuple(logprob for _, logprob in tokens)}


def _called(text: str, calls: Sequence[tuple[str, str]], usual: str, place: int) -> list[dict[str, Any]]:
    """A turn with calls, and an answer to each.

    Args:
        usual: the function that is meant where a call names none.
        place: of the turn, which makes names of calls that are the same in every round.
    """
    made = [call_of(name or usual, arguments, f"look{place:03d}{n:02d}") for n, (name, arguments) in enumerate(calls)]
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": prompt("native_result")} for call in made]
    return [{"role": "assistant", "content": text or None, "tool_calls": made}, *answers]


def _message(message: Message) -> dict[str, Any]:
    content: Any = [_part(part) for part in message.content if part]
    if all(isinstance(part, str) for part in message.content):
        content = "".join(map(str, message.content))
    if not content and message.wire.get("tool_calls"):
        content = None
    return {**message.wire, "role": message.role, "content": content}


def _part(part: str | ImageView) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind, content = part.encoded
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(content).decode()}"}}
