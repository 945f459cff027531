"""The JSON in the body of a response, also where the server streamed a reply that was not to be streamed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_ONCE = ("role", "type", "id", "name", "index")
"""Fields whose value is sent whole, never in pieces."""


def parse_body(content: bytes) -> Any:
    """The value; the events of a stream are put together as one reply.

    Raises:
        ValueError: the body is neither; the message says what it is.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise
    except ValueError:
        text = content.decode("utf-8", "replace").strip()
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
        if event.get("error") or "error" in (event.get("object"), event.get("type")):
            return event
        reply |= {name: value for name, value in event.items() if value is not None and name != "choices"}
        pieces = event.get("choices")
        for piece in pieces if isinstance(pieces, list) else []:
            if not isinstance(piece, dict):
                raise ValueError("a stream of an unknown form")
            choice = choices.setdefault(json.dumps(piece.get("index", 0)), {})
            whole = {name: value for name, value in piece.items() if name != "delta"}
            if isinstance(piece.get("delta"), dict):
                whole["message"] = piece["delta"]
            _extend(choice, whole)
    if not ended and not any(choice.get("finish_reason") for choice in choices.values()):
        raise ValueError("a stream that was cut off")
    return reply | ({"choices": list(choices.values())} if choices else {})


def _extend(said: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Pieces of text are joined, lists are appended to, records are extended; a later value of another kind counts."""
    for name, value in more.items():
        before = said.get(name)
        if value is None or (before and name in _ONCE):
            continue
        if isinstance(before, str) and isinstance(value, str) and name != "finish_reason":
            said[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _extend(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            for item in value:
                _append(before, item)
        else:
            said[name] = value
    return said


def _append(items: list[Any], item: Any) -> None:
    """An item with the index of an earlier one goes on with it."""
    index = item.get("index") if isinstance(item, dict) else None
    same = [i for i in items if isinstance(i, dict) and index is not None and i.get("index") == index]
    if same:
        _extend(same[0], item)
    else:
        items.append(item)
