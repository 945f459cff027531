"""The JSON in the body of a response, and a reply that was streamed, put together."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from visionthink.endpoint.events import Events
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
    events, assembly = Events(), Assembly()
    for record in itertools.chain(events.feed(text), events.finish()):
        if error_of(record) is not None:
            return record
        assembly.add(record)
    if events.found:
        return assembly.whole(ended=events.ended)
    ended = re.sub(r"\s*data:\s*\[DONE\]$", "", text)  # a whole reply with the end of a stream behind it
    try:
        return json.loads(ended)
    except ValueError:
        raise ValueError("no JSON") from None


class Assembly:
    """The records of a stream, put together as one reply."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] = {}
        self._choices: dict[int | str, dict[str, Any]] = {}

    def add(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """Take a record; what its first choice adds to the reply.

        Raises:
            ValueError: it cannot be a part of a reply; the message says what the stream is.
        """
        self._reply |= {name: value for name, value in event.items() if value is not None and name != "choices"}
        pieces = event.get("choices")
        pieces = pieces if isinstance(pieces, list) else []
        if not all(isinstance(piece, dict) for piece in pieces):
            raise ValueError("a stream of an unknown form")
        first: Mapping[str, Any] = {}
        for piece in pieces:
            index = piece.get("index", 0)
            place = index if type(index) is int else json.dumps(index)
            choice = self._choices.setdefault(place, {})
            said, whole = choice.get("message"), piece.get("message")
            if said is not None and whole is not None and said != whole:
                raise ValueError("a stream of several messages")
            _extend(choice, {name: value for name, value in piece.items() if name != "message"} if "message" in piece else piece)
            choice |= {} if whole is None else {"message": whole}
            first = piece if place == next(iter(self._choices)) else first
        return first

    @property
    def alone(self) -> bool:
        """Whether the reply has begun, with the pieces of one choice, the first."""
        return len(self._choices) == 1 and "delta" in self._choices.get(0, ()) and "message" not in self._choices[0]

    @property
    def finished(self) -> bool:
        """Whether the reply has come to its end, whatever may follow it."""
        return any(choice.get("finish_reason") for choice in self._choices.values())

    def whole(self, *, ended: bool) -> dict[str, Any]:
        """The reply; to be asked for once.

        Args:
            ended: whether the stream has said that this was all.

        Raises:
            ValueError: it is not whole.
        """
        if not self._reply and not self._choices:
            raise ValueError("a stream without a reply")
        for choice in self._choices.values():
            _joined(choice)
        if not ended and not self.finished:
            raise ValueError("a stream that was cut off")
        return self._reply | ({"choices": list(self._choices.values())} if self._choices else {})


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
    same = None if index is None else next((i for i in items if isinstance(i, dict) and i.get("index") == index), None)
    if same is not None:
        _extend(same, item)
    else:
        items.append(item)
