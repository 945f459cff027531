"""What the gateway adds to an endpoint: ours, a plain reverse proxy and LiteLLM's proxy before the same one, in one run.

The endpoint speaks at the pace of a model (20 ms to the first token, 40 tokens in 215 ms), so that its own throughput at a
concurrency is known: the bound. Each proxy runs alone on one core, the endpoint and the clients on another; requests are streamed
and hold no image. Closed loop: so many clients, each asking again at once; open loop: requests at random times, whatever the
answers do. Seconds to the first token are those of the client; CPU seconds are the proxy's.

The embedded model behind the gateway: questions about images by 8 clients, whose requests are put into one call of the model,
and by one client after the other, in turns; the answers must be the same.

Run: python benchmarks/serving.py [--quick] [--json] [--litellm PYTHON] [--soak N]
--litellm names an interpreter that has `litellm[proxy]`, in an environment of its own; without it that row says "not run".
--soak asks N more times and shows the memory of ours before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table
from serving_parts import SECONDS, TOKENS

from visionthink.data import synth
from visionthink.types import Example

PARTS = Path(__file__).with_name("serving_parts.py")
BODY = {"model": "m", "messages": [{"role": "user", "content": "What is shown?"}], "stream": True}
CORES = sorted(os.sched_getaffinity(0))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def process(command: Sequence[str], port: int, core: int, path: str = "/v1/models") -> Iterator[psutil.Process]:
    """A server on one core, from the moment it answers until the end of the block."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    env |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    log = subprocess.DEVNULL
    running = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        os.sched_setaffinity(running.pid, {core})
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2).read()
                break
            if running.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{command[0]}: did not start")
            time.sleep(0.1)
        yield psutil.Process(running.pid)
    finally:
        running.terminate()
        running.wait(20)


async def asked(session: aiohttp.ClientSession, address: str) -> float:
    """Seconds to the first token of one answer, which is read to its end."""
    begun = time.perf_counter()
    first, content = 0.0, bytearray()
    async with session.post(f"{address}/v1/chat/completions", json=BODY) as response:
        async for chunk in response.content.iter_any():
            content += chunk
            if not first and b"word0" in content:
                first = time.perf_counter() - begun
    if response.status != 200 or content.count(b"word") != TOKENS or not first:
        raise SystemExit(f"{address}: not the whole answer: {response.status} {bytes(content[:300])!r}")
    return first


async def closed(address: str, clients: int, seconds: float) -> dict[str, float]:
    firsts: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        end = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                firsts.append(await asked(session, address))

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return figures(firsts, time.perf_counter() - begun)


async def open_loop(address: str, rate: float, seconds: float) -> dict[str, float]:
    draw, firsts = random.Random(0), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        begun, at, tasks = time.perf_counter(), 0.0, []
        while at < seconds:
            await asyncio.sleep(max(0.0, begun + at - time.perf_counter()))
            tasks.append(asyncio.create_task(asked(session, address)))
            at += draw.expovariate(rate)
        firsts = await asyncio.gather(*tasks)
        return figures(firsts, time.perf_counter() - begun)


def figures(firsts: Sequence[float], seconds: float) -> dict[str, float]:
    ranked = sorted(firsts)
    return {
        "requests_per_second": round(len(firsts) / seconds, 2),
        "first_token_ms_p50": round(1000 * statistics.median(ranked), 2),
        "first_token_ms_p99": round(1000 * ranked[int(0.99 * (len(ranked) - 1))], 2),
    }


def measured(address: str, server: psutil.Process | None, quick: bool) -> dict[str, Any]:
    """All loads on one server, `server` being what is between; CPU milliseconds of it for each request at 32 clients."""
    seconds, found = (2.0 if quick else 10.0), {}
    asyncio.run(closed(address, 4, 0.5))  # connections, caches
    found["closed 1"] = asyncio.run(closed(address, 1, seconds / 2))
    before = sum(server.cpu_times()[:2]) if server else 0.0
    found["closed 32"] = asyncio.run(closed(address, 32, seconds))
    if server:
        spent = sum(server.cpu_times()[:2]) - before
        found["closed 32"]["cpu_ms"] = round(1000 * spent / (found["closed 32"]["requests_per_second"] * seconds), 2)
    found["open 50"] = asyncio.run(open_loop(address, 50, seconds))
    return found


def ways(upstream: str, litellm: str | None) -> dict[str, tuple[list[str], int, str] | None]:
    """How each proxy is started: command, port, and a path that answers once it is ready."""
    ports = [free_port() for _ in range(3)]
    ours = [sys.executable, "-m", "visionthink", "serve", "--upstream", f"{upstream}/v1#m", "--port", str(ports[0])]
    found: dict[str, tuple[list[str], int, str] | None] = {
        "ours": (ours, ports[0], "/v1/models"),
        "reverse proxy": ([sys.executable, str(PARTS), "proxy", str(ports[1]), upstream], ports[1], "/v1/models"),
        "litellm": None,
    }
    if litellm:
        config = Path(tempfile.mkdtemp()) / "config.yaml"
        params = {"model": "openai/m", "api_base": f"{upstream}/v1", "api_key": "none"}
        config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": params}]}))
        command = [
            str(Path(litellm).with_name("litellm")),
            "--config",
            str(config),
            "--port",
            str(ports[2]),
            "--host",
            "127.0.0.1",
        ]
        found["litellm"] = (command, ports[2], "/health/liveliness")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seconds a load")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--litellm", metavar="PYTHON", help="interpreter that has litellm[proxy]")
    parser.add_argument("--soak", type=int, default=0, metavar="N", help="requests to ours between two looks at its memory")
    options = parser.parse_args()
    os.sched_setaffinity(0, {CORES[0]})
    found: dict[str, Any] = {}
    port = free_port()
    with process([sys.executable, str(PARTS), "endpoint", str(port)], port, CORES[0]):
        upstream = f"http://127.0.0.1:{port}"
        found["direct"] = measured(upstream, None, options.quick)
        for name, way in ways(upstream, options.litellm).items():
            if way is None:
                found[name] = None
                continue
            command, at, path = way
            with process(command, at, CORES[-1], path) as server:
                found[name] = measured(f"http://127.0.0.1:{at}", server, options.quick)
                if name == "ours" and options.soak:
                    found["memory"] = soaked(f"http://127.0.0.1:{at}", server, options.soak)
    report(found, embedded(options.quick), as_json=options.json)


def soaked(address: str, server: psutil.Process, requests: int) -> dict[str, float]:
    async def run(count: int) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
            left = iter(range(count))

            async def client() -> None:
                for _ in left:
                    await asked(session, address)

            await asyncio.gather(*(client() for _ in range(64)))

    asyncio.run(run(min(2000, requests)))
    before = server.memory_info().rss
    asyncio.run(run(requests))
    return {"requests": requests, "before_mb": round(before / 1e6, 1), "after_mb": round(server.memory_info().rss / 1e6, 1)}


def embedded(quick: bool) -> dict[str, Any]:
    """Seconds by the clock and of the CPU for one answer, by one client and by several, and how many replies a call had."""
    port, questions = free_port(), [question(example) for example in synth.suite(40 if quick else 200)]
    address, orders = f"http://127.0.0.1:{port}", [(1, 8), (8, 1)] * (1 if quick else 3)
    spent: dict[int, list[tuple[float, float]]] = {1: [], 8: []}
    calls: dict[int, Counter[int]] = {1: Counter(), 8: Counter()}
    answers = set()
    with process([sys.executable, str(PARTS), "embedded", str(port)], port, CORES[-1]) as server:

        def counted() -> Counter[int]:
            return Counter(dict(json.loads(urllib.request.urlopen(f"{address}/calls").read())))

        asyncio.run(answered(address, questions[:16], 8))  # what is compiled or allocated once
        for clients in (clients for order in orders for clients in order):
            known, begun, before = counted(), time.perf_counter(), sum(server.cpu_times()[:2])
            answers.add(tuple(asyncio.run(answered(address, questions, clients))))
            spent[clients].append((time.perf_counter() - begun, sum(server.cpu_times()[:2]) - before))
            calls[clients] += counted() - known
    if len(answers) > 1:
        raise SystemExit("embedded: the answers depend on how many clients ask")
    found: dict[str, Any] = {}
    for clients, passes in spent.items():
        clock, cpu = (1000 * statistics.median(each) / len(questions) for each in zip(*passes, strict=True))
        replies = sum(size * count for size, count in calls[clients].items())
        found[f"clients {clients}"] = {
            "ms": round(clock, 2),
            "cpu_ms": round(cpu, 2),
            "batches": calls[clients].total(),
            "mean_batch": round(replies / calls[clients].total(), 2),
        }
    one, many = found["clients 1"], found["clients 8"]
    return found | {"ratio": round(one["ms"] / many["ms"], 2), "ratio_cpu": round(one["cpu_ms"] / many["cpu_ms"], 2)}


def question(example: Example) -> dict[str, Any]:
    """The body of a request."""
    file = io.BytesIO()
    example.image.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": example.question}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


async def answered(address: str, bodies: Sequence[dict[str, Any]], clients: int) -> list[str]:
    """The answers to all of them, in order."""
    answers, left = [""] * len(bodies), iter(range(len(bodies)))
    async with aiohttp.ClientSession() as session:

        async def client() -> None:
            for i in left:
                async with session.post(f"{address}/v1/chat/completions", json=bodies[i]) as response:
                    record = await response.json()
                if response.status != 200:
                    raise SystemExit(f"{address}: {record}")
                answers[i] = record["choices"][0]["message"]["content"]

        await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def report(found: dict[str, Any], batched: dict[str, Any], *, as_json: bool) -> None:
    rate = {name: loads["closed 32"]["requests_per_second"] for name, loads in found.items() if loads and "closed 32" in loads}
    ratio = {f"ours to {name}": round(rate["ours"] / value, 2) for name, value in rate.items() if name != "ours"}
    added = found["ours"]["closed 32"]["first_token_ms_p50"] - found["direct"]["closed 32"]["first_token_ms_p50"]
    ratio["first token, ms more than direct"] = round(added, 2)
    ratio |= {"embedded, 8 clients to 1": batched["ratio"], "embedded, by CPU seconds": batched["ratio_cpu"]}
    if as_json:
        peers = {name: value for name, value in found.items() if name not in ("ours", "memory")}
        record = {"ratio": ratio, "ours": found["ours"], "peer": peers, "bound": {"requests_per_second": round(32 / SECONDS, 1)}}
        record["embedded"] = batched
        sys.stdout.write(json.dumps(record | ({"memory": found["memory"]} if "memory" in found else {})) + "\n")
        return
    table = Table(title=f"bound at 32 clients: {32 / SECONDS:.1f} requests/s (the pace of the endpoint)")
    for column in ("before the endpoint", "load", "requests/s", "first token p50 ms", "p99 ms", "CPU ms"):
        table.add_column(column)
    for name, loads in found.items():
        if name == "memory":
            continue
        for load, row in (loads or {"not run": {}}).items():
            table.add_row(name, load, *(str(value) for value in row.values()))
    console = Console()
    console.print(table)
    console.print(ratio, batched, found.get("memory", ""))


if __name__ == "__main__":
    main()
