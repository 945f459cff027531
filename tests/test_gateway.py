"""The gateway with the embedded model, and its life: start, many clients, clients that leave, a stop, a kill."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time

import aiohttp
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from gateway import asking, before, data_url, events, local, serving, text_of
from PIL import Image
from servers import fetched
from upstream import delta, event, said, streamed, upstream

import visionthink
from visionthink import Protocol, run_batch
from visionthink.data import synth
from visionthink.serve.limits import Limits

PHOTO = data_url(Image.linear_gradient("L").resize((1344, 1008)).convert("RGB"))


def question(example, **fields):
    return asking(example.question, data_url(example.image), **fields)


async def post(session, address, body):
    async with session.post(f"{address}/v1/chat/completions", json=body) as response:
        return response.status, await response.text()


def all_at_once(address, bodies, *, most=64):
    """Status and text of each response."""

    async def run():
        places = asyncio.Semaphore(most)

        async def one(session, body):
            async with places:
                return await post(session, address, body)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(one(session, body) for body in bodies))

    return asyncio.run(run())


@pytest.fixture(scope="module")
def model():
    return visionthink.load("tiny", max_new_tokens=16)


def test_answers_and_looks_are_those_of_episodes_and_clients_are_batched(model):
    examples = synth.suite(24)
    expected = run_batch([model.episode(example) for example in examples], model.policy)
    gateway = local(model)
    with serving(gateway) as address:
        answers = all_at_once(address, [question(example) for example in examples])
        calls = dict(gateway.answering.upstream.batcher.calls)
        metrics = fetched(f"{address}/metrics").text
    for (status, content), transcript in zip(answers, expected, strict=True):
        record = json.loads(content)
        assert status == 200 and record["choices"][0]["message"]["content"] == transcript.answer
        bill = record["visionthink"]
        assert (bill["looks"], bill["image_tokens"]) == (transcript.looks, transcript.visual_tokens)
    assert sum(n * count for n, count in calls.items()) == sum(len(t.turns) for t in expected)
    assert sum(calls.values()) <= 12 and max(calls) >= 8, calls
    assert 'visionthink_answers_total{api="chat",outcome="stop"} 24.0' in metrics
    assert f"visionthink_image_tokens_total {sum(t.visual_tokens for t in expected):.1f}" in metrics


def test_what_a_model_of_this_process_does_not_have_is_refused_by_name(model):
    [example] = synth.suite(1)
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    refused = {"top_p": 0.5, "stop": ["x"], "tool_choice": "required", "presence_penalty": 1.0, "model": "other"}
    with serving(local(model)) as address:
        bodies = [question(example, tools=[tool]) | {name: value} for name, value in refused.items()]
        answers = all_at_once(address, bodies)
        assert [(s, json.loads(c)["error"]["param"]) for s, c in answers[:-1]] == [(400, n) for n in list(refused)[:-1]]
        status, content = answers[-1]
        assert (status, json.loads(content)["error"]["code"]) == (404, "model_not_found")
        [(status, content)] = all_at_once(
            address, [question(example, max_tokens=1, tools=[tool])]
        )  # which it may call, and never does
        assert (status, json.loads(content)["choices"][0]["finish_reason"]) == (200, "length")


def test_a_conversation_goes_on_and_text_alone_is_answered(model):
    [first, second] = synth.suite(2)
    messages = [
        *question(first)["messages"],
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(second.image)}}]},
        {"role": "user", "content": second.question},
    ]
    with serving(local(model)) as address:
        told, alone = all_at_once(
            address, [{"model": "m", "messages": messages}, {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}]
        )
    assert told[0] == 200 and json.loads(told[1])["visionthink"]["image_tokens_full"] == 32
    assert alone[0] in (200, 502) and "tool_call" not in alone[1]


@pytest.mark.slow
def test_the_gate_beats_a_random_mix_on_a_model_that_never_asks():
    """300 questions, each answered through the server by low views, by full views and with the gate, whose default threshold
    comes from other questions."""
    base = visionthink.load("tiny-base", max_new_tokens=16)

    def right(bodies, examples, address):
        records = [json.loads(content) for _, content in all_at_once(address, bodies)]
        answers = [r["choices"][0]["message"]["content"].strip().lower() for r in records]
        hits = [a in (e.answer.lower(), *e.aliases) for a, e in zip(answers, examples, strict=True)]
        return sum(hits) / len(hits), sum(r["visionthink"]["image_tokens"] for r in records)

    examples = synth.suite(300, split="test", seed=99)
    with serving(local(base)) as address:
        gate, gate_tokens = right([question(e, visionthink={"rule": "gate"}) for e in examples], examples, address)
        low, low_tokens = right([question(e, visionthink={"mode": "low"}) for e in examples], examples, address)
        full, full_tokens = right([question(e, visionthink={"mode": "high"}) for e in examples], examples, address)
    mix = low + (full - low) * (gate_tokens - low_tokens) / (full_tokens - low_tokens)
    assert gate - mix >= 0.10, f"low {low}, full {full}, gate {gate} at {gate_tokens / full_tokens}, mix {mix}"


@pytest.mark.network
def test_two_hundred_streams_of_which_a_third_leave():
    """All others complete, and the endpoint answers nobody any more. The model asks where it can: after 20 requests in a row it
    cannot, since looking twice does not pay."""
    request, answer = Protocol("agent").request(), "<answer>" + "word " * 20 + "</answer>"

    def reply(body):
        asks = len(body["messages"]) == 2 and "resize_image" in json.dumps(body["messages"][0])
        text = f"<think>small</think>{request}" if asks else f"<think>ok</think>{answer}"
        pieces = [event(delta(content=text[i : i + 6])) for i in range(0, len(text), 6)]
        return streamed(*(x for piece in pieces for x in (piece, 0.02)), *said()[-3:])

    draw = random.Random(5)
    leaving = [draw.random() < 0.3 for _ in range(200)]

    async def client(session, address, leaves):
        async with session.post(f"{address}/v1/chat/completions", json=asking("What?", PHOTO, stream=True)) as response:
            content = b""
            async for chunk in response.content.iter_any():
                content += chunk
                if leaves and len(content) > 600:
                    return None
            return content.decode()

    async def run(address):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(*(client(session, address, leaves) for leaves in leaving))

    with upstream() as (server, url):
        server.rest = reply
        gateway = before(url, limits=Limits(waiting=200), patience=10)
        with serving(gateway) as address:
            streams = asyncio.run(run(address))
            end = time.monotonic() + 5
            while server.open and time.monotonic() < end:
                time.sleep(0.01)
            assert server.open == 0
    complete = [text_of(events(content)) for content in streams if content is not None]
    assert len(complete) == leaving.count(False) and set(complete) == {("word " * 20).strip()}
    assert gateway.answering.images.memory.free == gateway.answering.images.memory.total


@pytest.fixture
def command(tmp_path):
    """Starts `visionthink serve` with further options on a free port; the process, and its address once it answers."""
    started: list[subprocess.Popen[str]] = []

    def start(*options):
        process = subprocess.Popen(
            [sys.executable, "-m", "visionthink", "serve", "--port", "0", *options],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        address = process.stderr.readline().split(" at ")[1].split("/v1")[0]
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                if fetched(f"{address}/ready", timeout=2).status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.05)
        return process, address

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.network
def test_one_command_serves_the_official_client(command):
    openai = pytest.importorskip("openai")
    _, address = command()
    example = synth.suite(1)[0]
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    messages = question(example)["messages"]
    whole = client.chat.completions.create(model="tiny", messages=messages)
    stream = client.chat.completions.create(model="tiny", messages=messages, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert whole.choices[0].message.content == text == example.answer
    assert whole.usage.model_extra["visionthink"]["looks"] == 1


@pytest.mark.network
def test_a_stop_lets_requests_end_and_a_kill_leaves_none_at_the_endpoint(command):
    slow = [event(delta(content="<think>a")), 1.5, *said("</think><answer>7</answer>")]
    body = asking("What?", PHOTO, model="m", visionthink={"mode": "low"})

    async def stopped(process, address, server, how):
        async with aiohttp.ClientSession() as session:
            asked = asyncio.create_task(post(session, address, body))
            while not server.open:
                await asyncio.sleep(0.01)
            process.send_signal(how)
            return await asyncio.gather(asked, return_exceptions=True)

    with upstream() as (server, url):
        server.rest = lambda _: streamed(*slow)
        process, address = command("--upstream", f"{url}#m", "--dialect", "agent")
        [(status, content)] = asyncio.run(stopped(process, address, server, signal.SIGTERM))
        assert (status, json.loads(content)["choices"][0]["message"]["content"]) == (200, "7")
        assert process.wait(10) is not None
        process, address = command("--upstream", f"{url}#m", "--dialect", "agent")
        [failure] = asyncio.run(stopped(process, address, server, signal.SIGKILL))
        assert isinstance(failure, aiohttp.ClientError)
        end = time.monotonic() + 2
        while server.open and time.monotonic() < end:
            time.sleep(0.01)
        assert server.open == 0
