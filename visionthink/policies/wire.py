"""Histories as the messages of a request of chat completions, and what a server says of tokens as a completion has it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from visionthink.certainty import spread_of
from visionthink.endpoint.usage import TokenSaid
from visionthink.protocol import after_thinking, with_calls
from visionthink.types import History, ImageView, Message


def messages_of(history: History) -> list[dict[str, Any]]:
    """The messages of a history. A view is the same bytes in every round, so that a prefix cache finds it."""
    return list(map(_message, with_calls(history)))


def align_logprobs(tokens: Sequence[TokenSaid], text: str) -> dict[str, Any]:
    """`token_texts`, `logprobs` and, where the likeliest tokens are known, `spreads` of a completion; nothing where the tokens
    that a server names are not those of the text.

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
    spreads = [spread_of(token.logprob, token.others) for token in tokens if token.others is not None]
    return {
        "token_texts": tuple(texts),
        "logprobs": tuple(token.logprob for token in tokens),
        "spreads": tuple(spreads) if len(spreads) == len(tokens) else (),
    }


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
    image = {"url": f"data:{kind};base64,{base64.b64encode(content).decode()}"}
    return {"type": "image_url", "image_url": image | ({"detail": part.detail} if part.detail else {})}
