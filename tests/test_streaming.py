"""Streamed replies of an endpoint: the same reading however they are split, every fault, and connections that are closed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import socket
import time
from collections.abc import AsyncGenerator

import pytest
from upstream import DONE, USAGE, Script, delta, event, said, streamed, upstream

from visionthink.endpoint import Completed, Connection, Delta, Endpoint, Unanswered, connection
from visionthink.endpoint.completions import read_reply
from visionthink.endpoint.markup import Unfolding, taken_apart
from visionthink.endpoint.reading import Reading, text_of
from visionthink.endpoint.transport import encoded

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def serving():
    with upstream() as (server, url):
        yield server, url


@pytest.fixture
def server(serving, monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    found, _ = serving
    found.scripts[:], found.sent[:], found.gone[:] = [], [], []
    return found


@pytest.fixture
def url(serving):
    return serving[1]


def ask(url: str, *, body=None, most: int | None = None, **limits) -> list[Delta | Completed | Unanswered | Connection]:
    """What comes of one request, failures included; at last the connection that was used, closed."""
    limits = {"timeout": 2.0, "deadline": 5.0} | limits

    async def run():
        opened, found = Connection(Endpoint(url, model="m", **limits)), []
        reply = opened.stream(body or {"model": "m", "messages": [], "max_tokens": 5}, time.monotonic() + limits["deadline"])
        try:
            async for item in reply:
                found.append(item)
                if len(found) == most:
                    break
        except Unanswered as failure:
            found.append(failure)
        finally:
            await reply.aclose()
            await opened.close()
        return [*found, opened]

    return asyncio.run(run())


def failure_of(found) -> tuple[str, str]:
    *_, failure, _ = found
    assert isinstance(failure, Unanswered), found
    return failure.kind, str(failure)


# ------------------------------------------------------------------------------------------------ how it is read

CALL = [
    delta(role="assistant", content=None, tool_calls=[{"index": 0, "id": "a", "function": {"name": "look", "arguments": ""}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"box": '}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": "[1, 2]}"}}]),
    delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "wait", "arguments": "{}"}}]),
    delta("tool_calls"),
    USAGE,
]
STREAM = (
    b"\xef\xbb\xbf: a comment\r\n\r\nid: 1\r\nretry: 10\r\n"
    + event(delta(role="assistant", content=""))
    + event(delta(reasoning_content="h\u00e9 "))
    + b'data: {"choices": [{"index": 0,\r\ndata:  "delta": {"reasoning_content": "ok"}}]}\r\n\r\n'
    + event(delta(content="sieben \u2260 \U0001f600"))
    + b'event: message\rdata: {"choices": [{"index": 0, "delta": {"content": "\\ud83d"}}]}\r\r'
    + b'data:{"choices": [{"index": 0, "delta": {"content": "\\ude00 <|im_"}}]}\n'  # without an empty line
    + event(delta(content="x |"))
    + event(delta(content=" \n<|im_end|>"))
    + b"".join(map(event, CALL))
    + DONE
)


def read(parts: list[bytes]) -> list[Delta | Completed]:
    reading, found = Reading(), []
    for part in parts:
        found += reading.feed(part)
    return [*found, *reading.finish(None)]


def joined(found: list) -> list:
    """What was said together, and what follows it."""
    deltas = [item for item in found if isinstance(item, Delta)]
    return ["".join(d.text for d in deltas), "".join(d.reasoning for d in deltas), *found[len(deltas) :]]


def test_every_split_of_a_stream_says_the_same_and_gives_the_same_reply():
    text, reasoning = "sieben \u2260 \U0001f600\U0001f600 <|im_x |", "h\u00e9 ok"
    completed = Completed(
        text=text,
        reasoning=reasoning,
        ended_as="tool_calls",
        calls=(("look", '{"box": [1, 2]}'), ("wait", "{}")),
        call_ids=("a", "b"),
        prompt_tokens=9,
        completion_tokens=2,
        image_tokens=5,
        cached_tokens=4,
    )
    for place in range(len(STREAM) + 1):
        assert joined(read([STREAM[:place], STREAM[place:]])) == [text, reasoning, completed], place
    assert read([STREAM[i : i + 1] for i in range(len(STREAM))]) == [
        Delta(reasoning="h\u00e9 "),
        Delta(reasoning="ok"),
        Delta(text="sieben \u2260 \U0001f600"),
        Delta(text="\U0001f600"),
        Delta(text=" <|im_x |"),
        completed,
    ]
    assert completed == read_reply(STREAM.decode("utf-8-sig"))


def test_what_comes_together_is_one_delta():
    assert read([STREAM])[:-1] == [Delta(text="sieben \u2260 \U0001f600\U0001f600 <|im_x |", reasoning="h\u00e9 ok")]


def test_a_stream_that_ends_anywhere_before_its_last_reason_is_a_failure():
    """Cut off at every byte: a failure, until the reply has said that it has ended."""
    end = STREAM.index(b'"finish_reason": "tool_calls"}]}') + len(b'"finish_reason": "tool_calls"}]}')
    for place in range(len(STREAM)):
        try:
            *_, last = read([STREAM[:place]])
            assert place >= end and isinstance(last, Completed) and last.calls[0] == ("look", '{"box": [1, 2]}'), place
        except Unanswered as failure:
            cut = "cut off" in str(failure) or "without a reply" in str(failure) or "no JSON" in str(failure)
            assert failure.kind == "server" and (cut or "empty" in str(failure) or "encoding" in str(failure)), place
    with pytest.raises(Unanswered, match="cut off"):
        read([STREAM[:-20]])  # half of the usage


@pytest.mark.parametrize(
    "text",
    [
        "<thinking>a</thinking>b",
        " [THINK]a < b[/THINK] c</s>",
        "◁think▷a◁/think▷b\n<|im_end|>\n",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
        "<think>a</think><answer>7</answer>",
        "a <|im_end|> b </s></s> ",
        "<thinking>never closed",
        "<",
        "  ",
    ],
)
def test_pieces_are_taken_apart_as_the_whole_is(text):
    """Split into single characters: nothing that is taken out of the whole was said before, and the rest only misses its end."""
    whole = taken_apart(text)
    for size in (1, 2, 5, len(text)):
        unfolding = Unfolding()
        pieces = [unfolding.feed(text[i : i + size]) for i in range(0, len(text), size)]
        for part, expected in zip(map("".join, zip(*pieces, strict=True)), whole, strict=True):
            assert expected.startswith(part) and len(part) >= len(expected.rstrip()) - len("<|im_end|>"), (size, pieces)


def damaged(rng: random.Random) -> bytes:
    """The stream with some bytes left out, said twice, exchanged, or brought from elsewhere in it."""
    data = bytearray(STREAM)
    for _ in range(rng.randint(0, 4)):
        at, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 8, 40))
        kind = rng.randrange(5)
        if kind == 0:
            del data[at : at + length]
        elif kind == 1:
            data[at:at] = data[at : at + length]
        elif kind == 2:
            data[at] = rng.choice(b'\r\n:,{}[]" d\xff\x00\\0')
        elif kind == 3:
            begin = rng.randrange(len(data))
            data[at:at] = data[begin : begin + length]
        else:
            data[at:at] = rng.choice(
                (b"\n\n", b"\r", b"data: [DONE]\n\n", b"event: error\n", b"data:", b"null", b"1e999", b"</s>")
            )
    return bytes(data[: rng.randrange(len(data))] if rng.randrange(4) == 0 else data)


def outcome(parts: list[bytes]) -> list[Delta | Completed | str]:
    """What is read, and how it fails."""
    reading, found = Reading(), []
    try:
        for part in parts:
            for delta in reading.feed(part):
                found.append(delta)
        for item in reading.finish(None):
            found.append(item)
    except Unanswered as failure:
        found.append(f"{failure.kind}: {failure}")
    return found


def check_damaged(count: int) -> None:
    """Nothing but `Unanswered` is raised, the pieces do not depend on the split, and the whole is what is read unstreamed."""
    rng, whole = random.Random(0), 0
    for _ in range(count):
        data = damaged(rng)
        places = sorted(rng.sample(range(len(data) + 1), min(len(data), rng.randint(1, 5))))
        found = outcome([data])
        parts = [data[a:b] for a, b in itertools.pairwise([0, *places, len(data)])]
        assert joined(outcome(parts)) == joined(found), data
        try:
            expected = read_reply(text_of(data, None))
        except Unanswered as failure:
            words = str(failure).partition(": ")[0]
            earlier = "no text in its encoding" in words  # what stands before the byte that cannot be read may fail, too
            assert isinstance(found[-1], str) and found[-1].startswith(f"{failure.kind}: {'' if earlier else words}"), data
        else:
            assert found[-1] == expected, data
            said = "".join(delta.text for delta in found[:-1])
            assert said == expected.text or not expected.text.startswith(said), data
            whole += 1
    assert whole > count * 0.2


def test_damaged_streams():
    check_damaged(1000)


@pytest.mark.slow
def test_many_damaged_streams():
    check_damaged(100_000)


# ------------------------------------------------------------------------------------------------ over a connection


def test_pieces_come_as_they_are_said_and_usage_is_asked_for(server, url):
    first, *rest = said("six", " or seven")
    server.scripts[:] = [streamed(first, 0.1, *rest)]
    *pieces, last, opened = ask(url)
    assert pieces == [Delta(text="six"), Delta(text=" or seven")]
    assert (last.text, last.prompt_tokens, last.cached_tokens, last.finish_reason) == ("six or seven", 9, 4, "stop")
    [body] = server.sent
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert (opened.requests, opened.retries) == (1, 0) and opened.working


def test_log_probabilities_that_a_server_refuses_are_not_asked_for_again(server, url, caplog):
    error = json.dumps({"error": {"message": "logprobs are not supported with reasoning models", "param": "logprobs"}}).encode()
    server.rest = lambda body: Script(status=400, headers=JSON, pieces=(error,)) if "logprobs" in body else streamed(*said("7"))
    *_, last, _ = ask(url, body={"model": "m", "messages": [], "logprobs": True})
    server.rest = lambda _: streamed(*said("7"))
    assert (last.text, last.logprobs, len(server.sent)) == ("7", (), 2)
    assert ["logprobs are not asked for any more" in message for message in caplog.messages] == [True]


def refusing(words: str, **more) -> Script:
    return Script(status=400, headers=JSON, pieces=(json.dumps({"error": {"message": words, **more}}).encode(),))


def sent_for(server, url: str, *bodies: dict) -> list[list[set[str]]]:
    """The fields of the requests that are sent for each of these, one after the other over one connection."""

    async def run():
        opened, found = Connection(Endpoint(url, model="m", timeout=2.0, deadline=5.0)), []
        for body in bodies:
            server.sent.clear()
            with contextlib.suppress(Unanswered):
                async for _ in opened.stream({"messages": []} | body, time.monotonic() + 5):
                    pass
            found.append([set(sent) - {"messages"} for sent in server.sent])
        await opened.close()
        return found

    try:
        return asyncio.run(run())
    finally:
        server.rest = lambda _: streamed(*said("7"))


STREAM_FIELDS = {"stream", "stream_options"}


@pytest.mark.parametrize(
    "words",
    [
        "Unsupported JSON schema 'stream'",
        "Unknown property 'logprobs' in the schema",
        "unexpected keyword stream_options in: stream_options",
        "Unsupported name 'max_tokens': use max_completion_tokens instead",
    ],
)
def test_an_error_that_quotes_a_request_changes_no_other_one(words, server, url):
    """The second has the same fields."""
    server.rest = lambda body: refusing(words) if body["response_format"] == "bad" else streamed(*said("7"))
    asked = {"max_tokens": 5, "logprobs": True}
    _, [sent] = sent_for(server, url, asked | {"response_format": "bad"}, asked | {"response_format": "good"})
    assert sent == {"max_tokens", "logprobs", "response_format"} | STREAM_FIELDS


def test_what_is_refused_beside_another_field_is_still_sent_without_that(server, url):
    def rest(body):
        beside = "stream" in body and "tools" in body
        return refusing("'stream' is not supported when functions are given") if beside else streamed(*said("7"))

    server.rest = rest
    found = sent_for(server, url, {"tools": []}, {}, {"tools": []})
    assert found == [[{"tools"} | STREAM_FIELDS, {"tools"}], [STREAM_FIELDS], [{"tools"}]]


def test_what_was_learnt_outlasts_attempts_that_fail_for_other_reasons(server, url):
    server.scripts[:] = [refusing("logprobs are not supported"), *TRIED_AGAIN.values()][:4]
    first, second = sent_for(server, url, {"logprobs": True}, {"logprobs": True})
    assert first == [{"logprobs"} | STREAM_FIELDS, *[STREAM_FIELDS] * 4] and second == [STREAM_FIELDS]


@pytest.mark.parametrize(("refused", "left"), [("logprobs", STREAM_FIELDS), ("top_logprobs", STREAM_FIELDS | {"logprobs"})])
def test_log_probabilities_of_other_tokens_are_not_asked_for_without_the_others(refused, left, server, url):
    server.rest = lambda body: refusing(f"unknown field {refused}", param=refused) if refused in body else streamed(*said("7"))
    asked = {"logprobs": True, "top_logprobs": 2}
    assert sent_for(server, url, asked, asked) == [[{*asked} | STREAM_FIELDS, left], [left]]


def test_the_field_that_an_error_names_stands_above_its_text(server, url):
    server.rest = lambda body: refusing("unknown schema 'stream'", param="response_format")
    [sent] = sent_for(server, url, {"response_format": "bad"})
    assert sent == [{"response_format"} | STREAM_FIELDS]


def test_what_is_json_already_is_sent_as_it_is():
    body = {"model": "m\u00e9", "messages": b'[{"role": "user"}]', "stop": ["\ud800"], "seed": None}
    assert encoded(body) == b'{"model":"m\\u00e9","messages":[{"role": "user"}],"stop":["\\ud800"],"seed":null}'
    assert encoded({}) == b"{}"


def test_a_large_body_is_encoded_once_whatever_is_tried_again(server, url):
    messages = json.dumps([{"role": "user", "content": "x" * 3_000_000}])
    server.scripts[:] = [Script(status=500, pieces=(b"not now",))]
    *_, last, _ = ask(url, body={"model": "m", "messages": messages.encode()}, timeout=20, deadline=40)
    assert last.text == "7" and [body["messages"] for body in server.sent] == [json.loads(messages)] * 2


def test_waiting_for_a_slot_ends_at_the_deadline(url):
    async def run() -> None:
        opened = Connection(Endpoint(url, concurrency=1))
        async with opened.slot(time.monotonic() + 9):
            with pytest.raises(Unanswered, match="all 1 requests at once were taken until the deadline") as failure:
                async with opened.slot(time.monotonic() + 0.1):
                    pass
            assert failure.value.kind == "timeout"
        async with opened.slot(time.monotonic() + 9):  # it was given back
            pass
        await opened.close()

    asyncio.run(run())


@pytest.mark.parametrize("refusing", ["stream_options", "stream"])
def test_a_server_that_does_not_stream_or_count_is_asked_without(refusing, server, url):
    whole = json.dumps({"choices": [{"message": {"content": "seven"}, "finish_reason": "stop"}]}).encode()

    def rest(body):
        if refusing in body:
            error = json.dumps({"error": {"message": f"Unrecognized request argument supplied: {refusing}"}}).encode()
            return Script(status=400, headers=JSON, pieces=(error,))
        return streamed(whole, headers=JSON) if refusing == "stream" else streamed(event(delta("stop", content="seven")), DONE)

    server.rest = rest
    *_, last, _ = ask(url)
    assert (last.text, last.prompt_tokens) == ("seven", None)
    assert refusing not in server.sent[-1] and "stream_options" not in server.sent[-1]
    server.rest = lambda _: streamed(*said("7"))


def test_one_json_object_is_a_stream_of_one_piece(server, url):
    whole = json.dumps({"choices": [{"message": {"content": "sieben \u2260"}, "finish_reason": "stop"}]}, ensure_ascii=False)
    server.scripts[:] = [
        streamed(whole.encode("latin-1", "replace"), headers={"Content-Type": "application/json; charset=latin-1"})
    ]
    assert ask(url)[:-1] == [Delta(text="sieben ?"), Completed(text="sieben ?", ended_as="stop")]
    server.scripts[:] = [streamed(*(bytes([byte]) for byte in whole.encode()), headers=JSON)]
    assert ask(url)[:-1] == [Delta(text="sieben \u2260"), Completed(text="sieben \u2260", ended_as="stop")]


TRIED_AGAIN = {
    "reset before headers": Script(end="abort at once"),
    "429 with Retry-After": Script(status=429, headers={"Retry-After": "0.3"}, pieces=(b"slow down",)),
    "500": Script(status=500, pieces=(b"not now",)),
    "an HTML page": streamed(b"<html>gateway</html>", headers={"Content-Type": "text/html"}),
    "no JSON": streamed(b'{"choices": [{"mess', headers=JSON),
    "nothing": streamed(),
    "half an event": streamed(b'data: {"choices": [{"index": 0, "del'),
    "a reset before the first piece": streamed(event(delta(role="assistant", content="")), end="abort"),
    "an error before the first piece": streamed(event({"error": {"message": "overloaded", "code": 503}}), DONE),
    "hang before headers": Script(end="hang at once"),
    "hang before the first piece": streamed(b": wait\n\n", end="hang"),
}


@pytest.mark.parametrize("fault", TRIED_AGAIN)
def test_what_fails_before_the_first_piece_is_tried_again(fault, server, url):
    server.scripts[:] = [TRIED_AGAIN[fault]]
    began = time.monotonic()
    *pieces, last, opened = ask(url, timeout=0.4)
    assert pieces == [Delta(text="7")] and last.text == "7" and (opened.requests, opened.retries) == (2, 1)
    if "429" in fault:
        assert 0.3 < time.monotonic() - began < 0.6
    if "hang" in fault:
        assert server.gone[0] - began < 0.9  # the first connection was closed


FINAL = {
    "reset": (streamed(event(delta(content="6")), end="abort"), "unreachable", "Connection reset by peer|Response payload"),
    "hang": (streamed(event(delta(content="6")), end="hang"), "timeout", "nothing more within 0 s"),
    "half an event": (
        streamed(event(delta(content="6")), event(delta(content=" or 7"))[:30]),
        "server",
        "^the reply is a stream that was cut off: 6$",
    ),
    "no end": (streamed(event(delta(content="6"))), "server", "^the reply is a stream that was cut off: 6$"),
    "an error": (
        streamed(event(delta(content="6")), event({"error": {"message": "CUDA out of memory", "code": 500}}), DONE),
        "server",
        "^CUDA out of memory .500.$",
    ),
    "an error by its event": (
        streamed(event(delta(content="6")), b"event: error\ndata: overloaded\n\n", DONE),
        "server",
        "^overloaded$",
    ),
    "audio": (streamed(event(delta(content="6")), event(delta(audio={"id": "a"}))), "server", "understood only in part"),
    "bytes": (streamed(event(delta(content="6")), b"data: \xff\n\n"), "server", "no text in its encoding"),
    "two replies": (
        streamed(event(delta(content="6")), event({"choices": [{"index": 1, "delta": {"content": "7"}}]}), DONE),
        "server",
        "2 completions",
    ),
    "malformed": (
        streamed(event(delta(content="6")), event(delta("malformed_function_call")), DONE),
        "server",
        "ended the reply",
    ),
}


@pytest.mark.parametrize("fault", FINAL)
def test_what_fails_behind_the_first_piece_is_final(fault, server, url):
    script, kind, words = FINAL[fault]
    server.scripts[:] = [script]
    found = ask(url, timeout=0.3)
    assert found[0] == Delta(text="6")
    assert failure_of(found)[0] == kind
    assert re.search(words, failure_of(found)[1]), failure_of(found)
    assert len(server.sent) == 1


@pytest.mark.parametrize("end", ["whole", "abort", "hang"])
def test_without_its_last_word_a_reply_that_has_ended_counts(end, server, url):
    server.scripts[:] = [streamed(event(delta(content="6")), event(delta("stop")), end=end)]
    assert ask(url, timeout=0.3)[:-1] == [Delta(text="6"), Completed(text="6", ended_as="stop")]


def test_of_two_reasons_the_later_counts(server, url):
    server.scripts[:] = [streamed(event(delta("stop", content="6")), event(delta("length")), DONE)]
    assert ask(url)[-2] == Completed(text="6", finish_reason="length", ended_as="length")


def test_nobody_is_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        kind, words = failure_of(ask(f"http://127.0.0.1:{free.getsockname()[1]}/v1"))
    assert kind == "unreachable" and words.startswith("cannot connect (")


def test_a_reply_that_has_begun_may_take_longer_than_the_deadline(server, url):
    pieces = [part for text in "abcdef" for part in (event(delta(content=text)), 0.2)]
    server.scripts[:] = [streamed(*pieces, event(delta("stop")), DONE)]
    assert ask(url, timeout=0.6, deadline=0.6)[-2].text == "abcdef"


@pytest.mark.parametrize("spoken", [False, True])
def test_comments_are_no_reply(spoken, server, url):
    """They keep a connection open, and neither the deadline nor the pause that is allowed."""
    begun = [event(delta(content="six"))] if spoken else []
    server.scripts[:] = [streamed(*begun, *[b": wait\n\n", 0.05] * 100)]
    began = time.monotonic()
    kind, words = failure_of(ask(url, timeout=0.5, deadline=60 if spoken else 0.5))
    assert kind == "timeout" and "-0" not in words and time.monotonic() - began < 2


@pytest.mark.parametrize("form", ["text", "one event", "a page"])
def test_more_than_a_megabyte_is_refused(form, server, url):
    piece = {"text": event(delta(content="x" * 1000)), "one event": b"data: " + b"x" * 1000, "a page": b"x" * 1000}[form]
    server.scripts[:] = [
        streamed(*([piece * 50] * 30 if form != "one event" else [piece[:6], *[b"x" * 50_000] * 30]), end="hang")
    ]
    assert failure_of(ask(url, timeout=5)) == ("server", "the reply is larger than 1 MB")
    assert len(server.sent) == 1


def test_small_pieces_in_large_wrappings_are_no_large_reply(server, url):
    wrapped = event(delta(content="x") | {"id": "y" * 1000}) * 50
    server.scripts[:] = [streamed(*[wrapped] * 40, event(delta("stop")), DONE)]
    assert ask(url, timeout=5)[-2].text == "x" * 2000


def gone(server, count: int = 1) -> float:
    """When the last of so many clients was seen to have gone."""
    end = time.monotonic() + 2
    while len(server.gone) < count and time.monotonic() < end:
        time.sleep(0.01)
    return server.gone[count - 1]


def test_closing_closes_the_connection(server, url):
    server.scripts[:] = [streamed(event(delta(content="6")), end="hang")]
    found = ask(url, most=1)
    left = time.monotonic()
    assert found[0] == Delta(text="6") and gone(server) - left < 0.5 and server.open == 0


@pytest.mark.parametrize("script", [Script(end="hang at once"), streamed(event(delta(content="6")), end="hang")])
def test_cancelling_closes_the_connection(script, server, url):
    server.scripts[:] = [script]

    async def run() -> float:
        opened = Connection(Endpoint(url, model="m"))

        async def consume() -> None:
            async for _ in opened.stream({"messages": []}, time.monotonic() + 60):
                pass

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.2)
        task.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not server.gone and time.monotonic() < began + 2:
            await asyncio.sleep(0.01)  # the session is still open: it is this request that was ended
        await opened.close()
        return server.gone[0] - began

    assert asyncio.run(run()) < 0.5


def test_a_connection_is_used_again_when_a_reply_was_read_to_its_end(server, url):
    server.connections.clear()

    async def run() -> None:
        opened = Connection(Endpoint(url, model="m"))
        for _ in range(5):
            async for _ in opened.stream({"messages": []}, time.monotonic() + 60):
                pass
        await opened.close()

    asyncio.run(run())
    assert len(server.connections) == 1


# ------------------------------------------------------------------------------------------------ many faults

FAULTS = [*TRIED_AGAIN.values(), *(script for script, _, _ in FINAL.values())]


def check_many(server, url: str, count: int) -> None:
    """Every request ends in an answer or one failure, within its deadline; no connection and no task is left."""
    numbers = iter(range(1 << 30))

    def rest(_) -> Script:
        n = next(numbers)
        return FAULTS[n % len(FAULTS)] if n % 3 else streamed(*said("7"))

    async def one(opened: Connection, n: int) -> str:
        reply: AsyncGenerator = opened.stream({"messages": []}, time.monotonic() + 2)
        try:
            async for item in reply:
                if n % 10 == 0:
                    return "left"
                if isinstance(item, Completed):
                    return item.text
        except Unanswered as failure:
            return f"failed: {failure.kind}"
        finally:
            await reply.aclose()
        return "nothing"

    async def run() -> tuple[list[str], int, int]:
        opened = Connection(Endpoint(url, model="m", concurrency=64, timeout=0.2, deadline=600))

        async def slotted(n: int) -> str:
            async with opened.slots:
                return await one(opened, n)

        found = await asyncio.gather(*map(slotted, range(count)))
        await asyncio.sleep(0.1)
        tasks = len(asyncio.all_tasks()) - 1
        held = len(opened._session.connector._acquired)  # type: ignore[union-attr]
        await opened.close()
        return found, tasks, held

    server.rest = rest
    server.open = 0
    found, tasks, held = asyncio.run(run())
    server.rest = lambda _: streamed(*said("7"))
    assert (len(found), tasks, held) == (count, 0, 0)
    kinds = {kind: found.count(kind) for kind in set(found)}
    assert "nothing" not in kinds and kinds["7"] > count * 0.3 and kinds["failed: server"] > count * 0.1, kinds
    end = time.monotonic() + 2
    while server.open and time.monotonic() < end:
        time.sleep(0.02)
    assert server.open == 0


def test_many_faults_leave_nothing(server, url):
    check_many(server, url, 1000)


@pytest.mark.slow
def test_ten_thousand_faults_leave_nothing(server, url):
    check_many(server, url, 10_000)
