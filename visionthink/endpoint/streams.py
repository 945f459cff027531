"""The JSON in the body of a response, also where the server streamed a reply that was not to be streamed."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from typing import Any

from visionthink.endpoint.failures import error_of

_ONCE = ("role", "type", "id", "name", "index")
"""Fields whose value is sent whole, never in pieces."""


def decoded(content: bytes, charset: str | None) -> str:
    """The text of a body, in the character set that its header names; elsewhere in the Unicode encoding that it shows.

    Raises:
        ValueError: it is not; the message says so.
    """
    named = charset if charset and codecs.lookup(charset).name != "utf-8" else json.detect_encoding(content)
    return content.decode(named)


def parse_body(text: str) -> Any:
    """The value; the events of a stream are put together as one reply.

    Raises:
        ValueError: the body is neither; the message says what it is.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise
    except ValueError:
        text = text.strip()
    lines = [line[5:].strip() for line in re.split(r"[\r\n]+", text) if line.startswith("data:")]
    if not lines:
        ended = re.sub(r"\s*data:\s*\[DONE\]$", "", text)  # a whole reply with the end of a stream behind it
        try:
            return json.loads(ended)
        except ValueError:
            raise ValueError("no JSON") from None
    try:
        events = [json.loads(line) for line in lines if line and line != "[DONE]"]
    except ValueError:
        raise ValueError("a stream that was cut off") from None
    if not events or not all(isinstance(event, dict) for event in events):
        raise ValueError("a stream without a reply")
    return _assembled(events, ended="[DONE]" in lines)


def _assembled(events: list[dict[str, Any]], *, ended: bool) -> dict[str, Any]:
    reply: dict[str, Any] = {}
    choices: dict[str, dict[str, Any]] = {}
    for event in events:
        if error_of(event) is not None:
            return event
        reply |= {name: value for name, value in event.items() if value is not None and name != "choices"}
        pieces = event.get("choices")
        for piece in pieces if isinstance(pieces, list) else []:
            if not isinstance(piece, dict):
                raise ValueError("a stream of an unknown form")
            choice = choices.setdefault(json.dumps(piece.get("index", 0)), {})
            said, whole = choice.get("message"), piece.get("message")
            if said is not None and whole is not None and said != whole:
                raise ValueError("a stream of several messages")
            _extend(choice, {name: value for name, value in piece.items() if name != "message"})
            choice |= {} if whole is None else {"message": whole}
    for choice in choices.values():
        _joined(choice)
    if not ended and not any(choice.get("finish_reason") for choice in choices.values()):
        raise ValueError("a stream that was cut off")
    return reply | ({"choices": list(choices.values())} if choices else {})


def _joined(choice: dict[str, Any]) -> None:
    """The pieces as the message; where the stream says the message as a whole, too, that must be the same."""
    if "delta" not in choice:
        return
    pieces, whole = choice.pop("delta"), choice.get("message") or {}
    if not isinstance(pieces, dict) or not isinstance(whole, dict):
        raise ValueError("a stream of an unknown form")
    if pieces and any(value and name not in _ONCE and pieces.get(name) != value for name, value in whole.items()):
        raise ValueError("a stream whose pieces are not its message")
    choice["message"] = whole | {name: value for name, value in pieces.items() if value}


def _extend(said: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Pieces of text are joined, lists are appended to, records are extended; text beside a list is a part of it, and a later
    number counts.

    Raises:
        ValueError: values of other kinds that would be lost.
    """
    for name, value in more.items():
        before = said.get(name)
        if value is None or (before and name in _ONCE):
            continue
        kinds = {type(before), type(value)} & {str, list, dict}
        if before in (None, "") or name == "finish_reason":
            said[name] = value
        elif kinds == {str, list}:
            said[name] = _listed(before) + _listed(value)
        elif len(kinds) > 1:
            raise ValueError("a stream of an unknown form")
        elif isinstance(before, str) and isinstance(value, str):
            said[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _extend(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            for item in value:
                _append(before, item)
        else:
            said[name] = value
    return said


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _append(items: list[Any], item: Any) -> None:
    """An item with the index of an earlier one goes on with it."""
    index = item.get("index") if isinstance(item, dict) else None
    same = [i for i in items if isinstance(i, dict) and index is not None and i.get("index") == index]
    if same:
        _extend(same[0], item)
    else:
        items.append(item)
