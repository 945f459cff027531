"""Thousands of requests while the endpoint fails in every way: each gets its answer or one clear error, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import os
import re
import resource
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from gateway import asking, before, data_url, events, serving
from PIL import Image
from upstream import FAULTS, Script, delta, event, said, streamed, upstream

from visionthink import Protocol
from visionthink.endpoint import breaker, connection
from visionthink.serve.memory import Memory

REQUESTS = int(os.environ.get("VISIONTHINK_FAULTY_REQUESTS", "3000"))
"""10,000 take less than two minutes of one core."""
AT_ONCE = 64
PATIENT, HASTY = 5.0, 0.5
"""Seconds that a gateway waits for a piece of a reply; it gives up after three times as long."""
PHOTO = data_url(Image.linear_gradient("L").resize((224, 168)).convert("RGB"))
REQUEST = Protocol("agent").request()
GUESS = "a guess"


def sure(text: str, logprob: float) -> bytes:
    tokens = {"content": [{"token": text, "logprob": logprob, "top_logprobs": []}]}
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None, "logprobs": tokens}]})


@dataclass(frozen=True, kw_only=True)
class Case:
    """A way to fail, and what the client is to be told: these codes, or where there are none the answer."""

    script: Script | None = None
    codes: tuple[str, ...] = ()
    patience: float = PATIENT
    gate: bool = False
    """The fault comes after an answer from the low view that was not sure enough."""
    left: bool = False
    """The client goes away before the end."""


def later(status: int) -> Script:
    return Script(status=status, headers={"Retry-After": "600"}, pieces=[b'{"error": {"message": "come back later"}}'])


CASES = {name: Case(script=script) for name, (script, code) in FAULTS.items() if code is None}
CASES |= {  # those that are tried again to the end
    name: Case(script=script, codes=(code, "upstream_timeout"), patience=HASTY) for name, (script, code) in FAULTS.items() if code
}
CASES |= {
    "none": Case(),
    "cut anywhere": Case(),
    "refused": Case(codes=("upstream_unreachable",), patience=0),
    "429 later": Case(script=later(429), codes=("rate_limit_exceeded",)),
    "503 later": Case(script=later(503), codes=("upstream_error",)),
    "reset in the answer": Case(
        script=streamed(event(delta(content="<think>ok</think><answer>a")), end="abort"), codes=("upstream_unreachable",)
    ),
    "comments only": Case(script=streamed(*[b": hm\n\n", 0.1] * 100), codes=("upstream_timeout",), patience=HASTY),
    "gate": Case(gate=True),
    "gate, then later": Case(script=later(503), codes=("upstream_error",), gate=True),
    "gate, then reset": Case(script=FAULTS["reset"][0], gate=True),
    "left": Case(script=streamed(event(delta(content="<think>a")), end="hang"), left=True),
    "left in silence": Case(script=streamed(end="hang at once"), left=True),
}


def spoken(number: int) -> bytes:
    """A whole reply in which the answer is the number."""
    return b"".join(said("<think>ok</think>", "<answer>a", f"{number}</answer>"))


class Endpoint:
    """What the endpoint says to each request; the number and the case of a request stand in its question."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[int, int]] = Counter()

    def __call__(self, body: dict[str, Any]) -> Script:
        text = json.dumps(body["messages"])
        number, name = re.search(r"Number (\d+): ([\w ,]+)\?", text).groups()
        number, case = int(number), CASES[name]
        round_ = 1 + any(message["role"] == "assistant" for message in body["messages"])
        self.asked[number, round_] += 1
        times = self.asked[number, round_] - case.gate
        if times == 0:
            return streamed(sure(GUESS, -3.0), *said("")[-3:])
        failing = 1 if case.gate or case.left else 1 + number // len(CASES) % 2
        if case.script is not None and round_ == failing and (times <= 2 or case.codes or case.left):
            return case.script
        if case.gate or round_ == 2:
            return streamed(*cut(spoken(number), number, name))
        text = REQUEST if name != "cut anywhere" else REQUEST[: number % len(REQUEST)]
        wire = b"".join(said("<think>small</think>", text, REQUEST.removeprefix(text)))
        return streamed(*cut(wire, number, name))


def cut(wire: bytes, number: int, name: str) -> tuple[bytes | float, ...]:
    """The bytes of a reply, of which another place is cut for each number."""
    at = number % len(wire)
    return (wire[:at], 0.002, wire[at:]) if name == "cut anywhere" and at else (wire,)


def body_of(number: int, name: str, api: str, stream: bool) -> dict[str, Any]:
    question = f"Number {number}: {name}?"
    common = {"model": "m", "stream": stream, "visionthink": {"rule": "gate" if CASES[name].gate else "model"}}
    if api == "responses":
        content = [{"type": "input_text", "text": question}, {"type": "input_image", "image_url": PHOTO}]
        return common | {"input": [{"role": "user", "content": content}]}
    content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": PHOTO}}]
    return common | {"messages": [{"role": "user", "content": content}]}


def error_in(record: dict[str, Any]) -> str:
    """The code of an error that is one clear line."""
    assert record.keys() == {"error"} and record["error"].keys() == {"message", "type", "param", "code"}, record
    message = record["error"]["message"]
    assert 0 < len(message) <= 300 and message.isprintable(), message
    return record["error"]["code"]


def heard(api: str, stream: bool, status: int, content: str) -> tuple[str, str]:
    """The text of an answer, and the code of the error that came instead of it or after its beginning."""
    if status != 200:
        return "", error_in(json.loads(content))
    if api == "chat" and not stream:
        (choice,) = json.loads(content)["choices"]
        assert choice["finish_reason"] == "stop"
        return choice["message"]["content"], ""
    if api == "chat":
        *records, done = events(content)
        assert done == "[DONE]"
        text = "".join(c["delta"].get("content") or "" for r in records for c in r.get("choices", ()))
        reasons = [c["finish_reason"] for r in records for c in r.get("choices", ()) if c["finish_reason"]]
        errors = [record for record in records if "error" in record]
        assert (reasons, errors) in ((["stop"], []), ([], records[-1:])), content
        return text, error_in(errors[0]) if errors else ""
    if not stream:
        record = json.loads(content)
        assert record["status"] == "completed" and record["error"] is None
        return output_text(record), ""
    records = [record for record in events(content) if record != "[DONE]"]
    ends = [r for r in records if r["type"] in ("response.completed", "response.failed", "error")]
    assert ends == records[-1:], content
    if ends[0]["type"] == "response.completed":
        return output_text(ends[0]["response"]), ""
    text = "".join(record["delta"] for record in records if record["type"] == "response.output_text.delta")
    error = ends[0]["response"]["error"]
    assert error["message"].isprintable() and error["code"] in ("server_error", "rate_limit_exceeded")  # it has few codes
    return text, {"server_error": "upstream"}.get(error["code"], error["code"])


def output_text(response: dict[str, Any]) -> str:
    return "".join(p["text"] for item in response["output"] if item["type"] == "message" for p in item["content"])


async def ask(session: aiohttp.ClientSession, addresses: dict[float, str], number: int, name: str) -> float:
    """Send a request, look at what comes, and say how many seconds it took."""
    case, turn = CASES[name], number // len(CASES)  # the round that fails alternates as well
    api, stream = ("chat", "responses")[turn // 2 % 2], turn // 4 % 2 == 1 or name == "left"
    path = "/v1/chat/completions" if api == "chat" else "/v1/responses"
    body, started = body_of(number, name, api, stream), time.monotonic()
    sending = session.post(addresses[case.patience] + path, json=body)
    if case.left:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3), sending as response:
                await response.content.readany()
        return 0.0
    async with sending as response:
        content = await response.text()
    seconds = time.monotonic() - started
    text, code = heard(api, stream, response.status, content)
    answer = f"a{number}"
    assert GUESS not in content
    if case.codes:
        assert code in case.codes or (code == "upstream" and "rate_limit_exceeded" not in case.codes), (name, content)
        assert answer.startswith(text) and (not text or name == "reset in the answer"), (name, content)
    else:
        assert (text, code) == (answer, ""), (name, content)
    return seconds


def left_over(addresses: dict[float, str], seconds: float = 10) -> Counter[str]:
    """What still runs, waits or is held in the gateways, once it has come to rest."""

    async def measured() -> Counter[str]:
        found: Counter[str] = Counter()
        async with aiohttp.ClientSession() as session:
            for address in addresses.values():
                async with session.get(f"{address}/metrics") as response:
                    page = await response.text()
                for name in ("requests_running", "requests_waiting", "image_memory_bytes"):
                    found[name] += float(re.search(rf"^visionthink_{name} (\S+)$", page, re.MULTILINE)[1])
        found["memory"] = sum(each.total - each.free for each in gc.get_objects() if isinstance(each, Memory))
        found["tasks"] = sum(not task.done() for task in gc.get_objects() if isinstance(task, asyncio.Task)) - 1
        return found

    end = time.monotonic() + seconds
    while True:
        found = asyncio.run(measured())
        if time.monotonic() > end or found == (now := asyncio.run(measured())):
            return found
        found = now


@pytest.mark.slow
def test_faults_by_the_thousand_leave_nothing_behind(monkeypatch, caplog):
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(breaker, "_ENOUGH", 10**9)  # an endpoint that is down is not asked for a while
    caplog.set_level("CRITICAL", "aiohttp.server")  # the endpoint is left in the middle of replies
    with contextlib.ExitStack() as held:
        free = held.enter_context(socket.socket())
        free.bind(("127.0.0.1", 0))  # nobody listens
        server, url = held.enter_context(upstream())
        server.rest = Endpoint()
        urls = {PATIENT: url, HASTY: url, 0: f"http://127.0.0.1:{free.getsockname()[1]}/v1"}
        addresses = {
            patience: held.enter_context(serving(before(url, patience=patience or 5.0))) for patience, url in urls.items()
        }
        names, numbers = list(CASES), itertools.count()

        async def run(count: int) -> list[float]:
            left, seconds = iter(range(count)), list[float]()

            async def one_by_one(session: aiohttp.ClientSession) -> None:
                for _ in left:
                    number = next(numbers)
                    name = names[number % len(names)]
                    seconds.append(await ask(session, addresses, number, name))
                    server.sent.clear()

            connector = aiohttp.TCPConnector(limit=AT_ONCE)
            async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(one_by_one(session))
            return seconds

        def rest() -> tuple[Counter[str], int, float]:
            """What is left over, how many objects there are, and how many MB this process has held at once."""
            end = time.monotonic() + 10
            while (server.open or server.connected) and time.monotonic() < end:
                time.sleep(0.1)  # idle connections are dropped after 2 s
            assert (server.open, server.connected) == (0, 0)
            server.rest.asked.clear()
            server.gone.clear()
            server.connections.clear()
            found = left_over(addresses)
            gc.collect()
            return found, len(gc.get_objects()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

        asyncio.run(run(max(8 * len(names), REQUESTS // 5)))  # until caches are full
        before_it, objects, megabytes = rest()
        seconds = asyncio.run(run(REQUESTS))
        after_it, more_objects, more_megabytes = rest()
        assert len(seconds) == REQUESTS and max(seconds) < 3 * PATIENT
        assert after_it == before_it and not any(after_it[name] for name in after_it if name != "tasks")
        assert more_objects - objects < REQUESTS / 20 and more_megabytes - megabytes < 20
        assert asyncio.run(at_once(addresses[PATIENT], server)) == AT_ONCE  # none of its places is lost
    assert not [record for record in caplog.records if record.levelname == "ERROR" and record.name == "asyncio"]


async def at_once(address: str, server: Any) -> int:
    """How many requests a gateway has the endpoint answer at once; all of them are answered."""
    server.rest = lambda _: streamed(1.0, *said("<answer>7</answer>"))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=2 * AT_ONCE)) as session:

        async def one() -> str:
            async with session.post(f"{address}/v1/chat/completions", json=asking("How many?", model="m")) as response:
                return (await response.json())["choices"][0]["message"]["content"]

        waiting, most = [asyncio.create_task(one()) for _ in range(AT_ONCE + 8)], 0
        while not all(task.done() for task in waiting):
            most = max(most, server.open)
            await asyncio.sleep(0.01)
        assert [await task for task in waiting] == ["7"] * len(waiting)
        return most
