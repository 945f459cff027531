"""A judge's endpoint that fails on purpose: run as a process, it prints its port.

The judgement itself is honest (the two texts are equal or not). Which request fails, and how, follows from its number.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys

from aiohttp import web

FAULTS = ("429 later", "429", "500", "503", "hang", "half", "garbage", "html", "reset", "trickle")


class FaultServer:
    def __init__(self, every: int):
        self.every, self.requests = every, 0
        self.counts = dict.fromkeys(FAULTS, 0)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests += 1
        if self.every and self.requests % self.every == 0:
            fault = FAULTS[self.requests // self.every % len(FAULTS)]
            self.counts[fault] += 1
            return await self.fail(fault, request)
        return web.json_response(completion(verdict(body["messages"][-1]["content"])))

    async def fail(self, fault: str, request: web.Request) -> web.StreamResponse:
        if fault == "429 later":
            return web.Response(status=429, headers={"Retry-After": "0.05"}, text="slow down")
        if fault in ("429", "500", "503"):
            return web.Response(status=int(fault), text="not now")
        if fault == "hang":
            await asyncio.sleep(600)
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        if fault == "garbage":
            return web.Response(text='{"choices": [{"mess', content_type="application/json")
        if fault == "html":
            return web.Response(text="<html>gateway</html>", content_type="text/html")
        whole = json.dumps(completion("Score: 1")).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(whole))})
        await response.prepare(request)
        if fault == "half":
            await response.write(whole[: len(whole) // 2])
            request.transport.abort()
            return response
        with contextlib.suppress(ConnectionError):  # the client has given up
            for byte in whole:  # a trickle that would take minutes
                await response.write(bytes([byte]))
                await asyncio.sleep(1)
        return response

    async def report(self, _: web.Request) -> web.Response:
        return web.json_response({"requests": self.requests, "faults": self.counts})

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "honest"}]})


def verdict(prompt: str) -> str:
    truth = re.search(r"\*\*Ground Truth Answer\*\*: (.*)", prompt)[1]
    said = re.search(r"\*\*Model Predicted Answer\*\*: (.*)", prompt)[1]
    return f"Score: {int(truth == said)}"


def completion(text: str) -> dict:
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
    }


async def main(every: int) -> None:
    server = FaultServer(every)
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/chat/completions", server.complete),
            web.get("/v1/models", server.models),
            web.get("/report", server.report),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{site._server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.sleep(600)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=5, help="each so manieth request fails; 0: none")
    asyncio.run(main(parser.parse_args().every))
