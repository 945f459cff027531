"""Server-sent events on their way to a client: nothing lost, nothing late, and nothing left running when the client goes away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable

import pytest

pytest.importorskip("starlette")
pytest.importorskip("pydantic")

from visionthink.errors import DataError
from visionthink.serve import chat
from visionthink.serve.admission import Admission
from visionthink.serve.errors import ApiError
from visionthink.serve.limits import Limits
from visionthink.serve.streaming import DONE, KEEP_ALIVE, EventStream, data

INTERNAL = b'data: {"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}\n\n'


class Connection:
    """The server's side of a response: what is sent, when, and the client's going away."""

    def __init__(self, *, blocked_after: int | None = None):
        self.sent, self.times, self.gone = list[dict](), list[float](), asyncio.Event()
        self.blocked_after, self.asked = blocked_after, False

    async def receive(self) -> dict:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"{}"}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        assert not self.sent or self.sent[-1].get("more_body", True), "sent behind the end"
        if len(self.sent) == self.blocked_after:
            await asyncio.sleep(3600)
        self.sent.append(message)
        self.times.append(time.perf_counter())

    async def answer(self, source: AsyncGenerator[bytes], every: float = 15.0, seconds: float = 600.0) -> None:
        response = EventStream(source, chat.late, every=every, seconds=seconds)
        await response({"type": "http"}, self.receive, self.send)

    async def admitted(self, source: AsyncGenerator[bytes]) -> None:
        """The same behind what sees that the client goes away."""
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
        await Admission(EventStream(source, chat.late), limits=Limits())(scope, self.receive, self.send)

    @property
    def body(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]


class Source:
    """Events with pauses; knows in which tasks it ran, when it said what, and whether it was closed."""

    def __init__(self, *script: bytes | float | Exception):
        self.script, self.closed, self.tasks, self.times = script, 0, set[object](), list[float]()

    async def run(self) -> AsyncGenerator[bytes]:
        try:
            async with asyncio.timeout(60):  # works in one task only
                for item in self.script:
                    self.tasks.add(asyncio.current_task())
                    if isinstance(item, Exception):
                        raise item
                    if isinstance(item, float):
                        await asyncio.sleep(item)
                    else:
                        self.times.append(time.perf_counter())
                        yield item
        finally:
            self.tasks.add(asyncio.current_task())
            self.closed += 1


def run(scenario: Callable) -> None:
    """In an event loop that must be left without a task."""

    async def whole() -> None:
        await asyncio.wait_for(scenario(), 5)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


def test_silence_is_filled_with_comments_and_events_are_neither_lost_nor_late():
    async def scenario():
        source, line = Source(0.2, b"1", b"2", 0.2, b"3"), Connection()
        await line.answer(source.run(), every=0.05)
        body = line.body
        first, second = body.index(b"1"), body.index(b"3") - body.index(b"2") - 1
        assert body == [KEEP_ALIVE] * first + [b"1", b"2"] + [KEEP_ALIVE] * second + [b"3", b""]
        assert first in (1, 2, 3) and second in (1, 2, 3)  # exactly 3 where nothing else runs
        assert line.sent[0]["type"] == "http.response.start"
        assert (b"content-type", b"text/event-stream; charset=utf-8") in line.sent[0]["headers"]
        arrived = [t for t, m in zip(line.times, line.sent, strict=True) if m.get("body") in (b"1", b"2", b"3")]
        assert max(there - said for said, there in zip(source.times, arrived, strict=True)) < 0.1
        assert (source.closed, len(source.tasks)) == (1, 1)

    run(scenario)


def test_no_comments_while_something_is_said():
    async def scenario():
        line = Connection()
        await line.answer(Source(*[b"x", 0.05] * 10).run(), every=0.4)
        assert line.body == [b"x"] * 10 + [b""]

    run(scenario)


@pytest.mark.parametrize("script", [(3600.0,), (b"1", 3600.0)])
def test_a_client_that_goes_away_closes_the_source_at_once(script):
    async def scenario():
        source, line = Source(*script), Connection()
        answering = asyncio.create_task(line.admitted(source.run()))
        await asyncio.sleep(0.05)
        line.gone.set()
        start = time.perf_counter()
        await answering
        assert time.perf_counter() - start < 0.4
        assert (source.closed, len(source.tasks), len(line.sent)) == (1, 1, 2 if len(script) == 2 else 0)

    run(scenario)


def test_a_client_that_goes_away_while_it_does_not_read():
    async def scenario():
        source, line = Source(*[b"x"] * 100), Connection(blocked_after=3)
        answering = asyncio.create_task(line.admitted(source.run()))
        await asyncio.sleep(0.05)
        assert len(source.times) == 3  # the source waits for the client
        line.gone.set()
        await answering
        assert (source.closed, len(source.tasks)) == (1, 1)

    run(scenario)


@pytest.mark.parametrize("script", [(3600.0,), (b"1", 3600.0)])
def test_an_answer_has_a_deadline(script):
    async def scenario():
        source, line = Source(*script), Connection()
        answering = line.answer(source.run(), seconds=0.1)
        if len(script) == 1:
            with pytest.raises(ApiError, match=r"the answer was not complete within 0\.1 s") as late:
                await answering
            assert (late.value.status, line.sent) == (504, [])
        else:
            await answering
            said = json.loads(line.body[1].partition(b"data: ")[2].partition(b"\n")[0])["error"]
            assert (said["code"], line.sent[-1]["more_body"]) == ("answer_too_slow", False)
        assert source.closed == 1

    run(scenario)


def test_a_client_that_reads_slowly_does_not_hold_the_source():
    async def scenario():
        source, line = Source(*[b"x"] * 100), Connection(blocked_after=3)
        answering = asyncio.create_task(line.answer(source.run(), seconds=0.1))
        await asyncio.sleep(0.2)
        assert (source.closed, answering.done()) == (1, False)
        answering.cancel()
        await asyncio.wait({answering})

    run(scenario)


def test_a_server_that_stops_closes_the_source():
    async def scenario():
        source, line = Source(b"1", 3600.0), Connection()
        answering = asyncio.create_task(line.answer(source.run()))
        await asyncio.sleep(0.05)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert source.closed == 1

    run(scenario)


def test_an_error_before_anything_was_sent_is_raised():
    async def scenario():
        line = Connection()
        with pytest.raises(ApiError, match="slow down"):
            await line.answer(Source(ApiError(429, "slow down")).run())
        assert line.sent == []

    run(scenario)


def test_an_error_after_a_comment_is_an_event():
    async def scenario():
        line = Connection()
        await line.answer(Source(0.07, ApiError(429, "slow down")).run(), every=0.05)
        error = {"message": "slow down", "type": "rate_limit_error", "param": None, "code": None}
        assert line.body == [KEEP_ALIVE, data({"error": error}) + DONE]
        assert [message.get("more_body") for message in line.sent] == [None, True, False]

    run(scenario)


@pytest.mark.parametrize("error", [OSError("reset"), KeyError("a secret")])
def test_a_fault_of_ours_ends_the_stream_in_order_and_is_heard_of(error):
    async def scenario():
        line, source = Connection(), Source(b"1", error)
        with pytest.raises(type(error)):
            await line.answer(source.run())
        assert line.body == [b"1", INTERNAL + DONE]
        assert line.sent[-1]["more_body"] is False
        first = Connection()
        with pytest.raises(type(error)):
            await first.answer(Source(error).run())
        assert first.sent == []
        known = Connection()
        await known.answer(Source(b"1", DataError("row 3: no image")).run())
        assert b'"message":"row 3: no image"' in known.body[1]

    run(scenario)


def test_events_are_ascii_lines():
    assert data({"a": "\u2028é\ud83d\n"}) == b'data: {"a":"\\u2028\\u00e9\\ud83d\\n"}\n\n'
    assert data({"a": 1}, "x.y") == b'event: x.y\ndata: {"a":1}\n\n'
