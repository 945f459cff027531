"""What happens while an answer is made, as the Responses API says it: one object, or a stream of numbered events."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Literal, TypeAlias

from visionthink.serve.errors import ApiError
from visionthink.serve.events import CalledTools, Decided, Ended, Event, Looked, Text, Thought
from visionthink.serve.streaming import Envelope, complete, data, told

Kind = Literal["reasoning", "message"]
Status = Literal["completed", "incomplete"]
Record: TypeAlias = dict[str, Any]

_UNFINISHED = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by the reason that an answer ends for."""


class ResponseWriter:
    """One response while it is made. Thoughts are items of type `reasoning` and sent whole, the answer is a `message`.

    Args:
        said_again: the part of the request that the response says again, see `read_responses`.
    """

    def __init__(self, envelope: Envelope, said_again: Mapping[str, Any]):
        self.envelope = envelope
        self.response: dict[str, Any] = {
            "id": envelope.id,
            "object": "response",
            "created_at": envelope.created,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": envelope.model,
            "output": [],
            "usage": None,
            **said_again,
        }
        self._number = 0
        self._told: list[dict[str, Any]] = []
        self._open: tuple[dict[str, Any], dict[str, Any]] | None = None
        """The item that grows, and the part of it that does."""
        self._pieces: list[str] = []

    async def stream(self, events: AsyncGenerator[Event]) -> AsyncGenerator[bytes]:
        """Server-sent events, for an `EventStream`. Nothing is sent before there is something to say, so that a failure before
        that still has a status of its own.

        Raises:
            ApiError: see `complete`.
        """
        async with aclosing(complete(events)) as whole:
            async for event in whole:
                if not isinstance(event, Looked | Decided) or self.envelope.events:
                    for record in self._take(event):
                        yield data(record, record["type"])

    async def whole(self, events: AsyncGenerator[Event]) -> tuple[dict[str, Any], dict[str, str]]:
        """The response as one object, and the headers that go with it.

        Raises:
            ApiError: there is none; what was said of it is dropped.
        """
        headers = dict[str, str]()
        async with aclosing(complete(events)) as whole:
            async for event in whole:
                for _ in self._take(event):
                    pass
                if isinstance(event, Ended):
                    headers = event.bill.headers()
        return self.response, headers

    def late(self, error: ApiError) -> bytes:
        """The end of a response that failed after it had begun."""
        return b"".join(data(record, record["type"]) for record in self._failed(error))

    def _failed(self, error: ApiError) -> Iterator[Record]:
        code = "invalid_prompt" if error.status < 500 else "server_error"
        code = "rate_limit_exceeded" if error.status == 429 else code
        yield from self._begun()
        yield from self._closed("incomplete")
        self.response |= {"status": "failed", "error": {"code": code, "message": error.message}}
        yield self._event("response.failed", response=self.response)

    # -------------------------------------------------------------------------------------------- one event of an answer

    def _event(self, kind: str, **fields: Any) -> Record:
        """An event, to be written down before the next one is made: both refer to what grows."""
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _begun(self) -> Iterator[Record]:
        if not self._number:
            yield self._event("response.created", response=self.response)
            yield self._event("response.in_progress", response=self.response)

    def _take(self, event: Event) -> Iterator[Record]:
        yield from self._begun()
        if isinstance(event, Thought):
            yield from self._piece("reasoning", event.text)
        elif isinstance(event, Text):
            yield from self._piece("message", event.text)
        elif isinstance(event, CalledTools):
            yield from self._closed("completed")
            for call in event.calls:
                yield from self._call(call)
        elif isinstance(event, Looked | Decided):
            self._told.append(told(event))
            # an event that every client knows, with a field more; some refuse kinds of events that they do not know
            yield self._event("response.in_progress", response=self.response, visionthink=told(event))
        elif isinstance(event, Ended):
            yield from self._ended(event)

    def _at(self) -> int:
        return len(self.response["output"]) - 1

    def _added(self, item: dict[str, Any]) -> Record:
        self.response["output"].append(item)
        return self._event("response.output_item.added", output_index=self._at(), item=item)

    def _piece(self, kind: Kind, text: str) -> Iterator[Record]:
        if self._open is None or self._open[0]["type"] != kind:
            yield from self._closed("completed")
            yield from self._opened(kind)
        assert self._open is not None
        item, _ = self._open
        self._pieces.append(text)
        yield self._event(self._name(".delta"), **self._place(item), delta=text, **self._logprobs())

    def _opened(self, kind: Kind) -> Iterator[Record]:
        item: dict[str, Any] = {"type": kind, "status": "in_progress", "content": []}
        part: dict[str, Any] = {"text": ""}
        if kind == "message":
            item |= {"id": "msg_" + secrets.token_hex(16), "role": "assistant"}
            part |= {"type": "output_text", "annotations": [], "logprobs": []}
        else:
            item |= {"id": "rs_" + secrets.token_hex(16), "summary": []}
            part |= {"type": "reasoning_text"}
        yield self._added(item)
        item["content"].append(part)
        self._open = item, part
        yield self._event("response.content_part.added", **self._place(item), part=part)

    def _closed(self, status: Status) -> Iterator[Record]:
        if self._open is None:
            return
        item, part = self._open
        item["status"], part["text"] = status, "".join(self._pieces)
        self._pieces.clear()
        place = self._place(item)
        yield self._event(self._name(".done"), **place, text=part["text"], **self._logprobs())
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=self._at(), item=item)
        self._open = None

    def _name(self, what: str) -> str:
        assert self._open is not None
        return ("response.output_text" if self._open[0]["type"] == "message" else "response.reasoning_text") + what

    def _place(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": self._at(), "content_index": 0}

    def _logprobs(self) -> dict[str, Any]:
        assert self._open is not None
        return {"logprobs": []} if self._open[0]["type"] == "message" else {}

    def _call(self, call: Mapping[str, Any]) -> Iterator[Record]:
        function = call["function"]
        item = {
            "type": "function_call",
            "id": "fc_" + secrets.token_hex(16),
            "call_id": call["id"],
            "name": function["name"],
            "arguments": "",
            "status": "in_progress",
        }
        yield self._added(item)
        place = {"item_id": item["id"], "output_index": self._at()}
        item |= {"arguments": function["arguments"], "status": "completed"}
        yield self._event("response.function_call_arguments.delta", **place, delta=item["arguments"])
        yield self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"])
        yield self._event("response.output_item.done", output_index=self._at(), item=item)

    def _ended(self, event: Ended) -> Iterator[Record]:
        why = _UNFINISHED.get(event.finish_reason)
        yield from self._closed("incomplete" if why else "completed")
        self.response["usage"] = event.bill.responses_usage()
        self.response["visionthink"] = event.bill.record() | ({"events": self._told} if self.envelope.events else {})
        self.response["status"] = "incomplete" if why else "completed"
        if why:
            self.response["incomplete_details"] = {"reason": why}
        else:
            self.response["completed_at"] = max(self.envelope.created, int(time.time()))
        yield self._event("response.incomplete" if why else "response.completed", response=self.response)
