"""Server-sent events, as their text comes: in pieces of any size, the same events."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from visionthink.endpoint.failures import error_of

_LINE_END = re.compile(r"\r\n|\r|\n")
_END = "[DONE]"
_DECODE = json.JSONDecoder().raw_decode  # with less around it than `loads`, which counts for a record a token


class Events:
    """Reads the JSON records that a stream of events carries.

    Data may take several lines, which end in CR, LF or both; comments and other fields are passed over. Many servers leave out
    the empty line behind an event: a line that is a whole record is one.
    """

    def __init__(self) -> None:
        self.found = False
        """Whether anything was an event so far: a body without any is no stream."""
        self.ended = False
        """Whether the stream has said that this was all."""
        self._line: list[str] = []
        self._returned = False
        self._data: list[str] = []
        self._kind = ""

    def feed(self, text: str) -> Iterator[dict[str, Any]]:
        """The records that this text completes, one after the other.

        Raises:
            ValueError: an event that is no record; the message says what the stream is.
        """
        if self._returned and text.startswith("\n"):  # the second half of a line end
            text = text[1:]
            self._returned = False
        if not text:
            return
        self._returned = text.endswith("\r")
        *whole, rest = _LINE_END.split(text) if "\r" in text else text.split("\n")
        if whole and self._line:
            whole[0], self._line = "".join([*self._line, whole[0]]), []
        for line in whole:
            if line[:7] == "data: {" and not (self._data or self._kind or self.ended):  # as nearly all are, each a record
                record = _record(line[6:])
                if isinstance(record, dict):
                    self.found = True
                    yield record
                    continue
            if line or self._data or self._kind:
                yield from self._take(line)
        self._line.append(rest)

    def finish(self) -> Iterator[dict[str, Any]]:
        """What the end of the stream completes.

        Raises:
            ValueError: it ends in the middle of an event.
        """
        line, self._line = "".join(self._line), []
        yield from self._take(line)
        yield from self._dispatched()

    @property
    def waiting(self) -> int:
        """Characters of an event that has only begun."""
        return sum(map(len, self._line)) + sum(map(len, self._data))

    def _take(self, line: str) -> list[dict[str, Any]]:
        if self.ended:
            return []
        if not line or line.isspace():
            return self._dispatched() if self._data or self._kind else []
        name, _, value = line.partition(":")
        value = value.strip()
        if name == "event":
            self._kind = value
        elif name == "data":
            self.found = True
            if value == _END and not self._data:
                self.ended = True
            elif value:
                self._data.append(value)
                if len(self._data) == 1 and value.endswith("}") and (record := _record(value)) is not None:
                    return self._as_said(record)
        return []

    def _dispatched(self) -> list[dict[str, Any]]:
        if not self._data:
            self._kind = ""
            return []
        text = "\n".join(self._data)
        record = _record(text)
        if record is None and self._kind != "error":
            raise ValueError("a stream that was cut off")
        return self._as_said(text if record is None else record)

    def _as_said(self, record: Any) -> list[dict[str, Any]]:
        """An event may be called an error without a word of that in its record."""
        kind, self._kind, self._data = self._kind, "", []
        if kind == "error" and error_of(record) is None:
            return [{"error": record}]
        if not isinstance(record, dict):
            raise ValueError("a stream without a reply")
        return [record]


def _record(text: str) -> Any:
    """The value, or None."""
    try:
        value, end = _DECODE(text)
        return value if end == len(text) else json.loads(text)
    except RecursionError:
        raise
    except ValueError:
        return None
