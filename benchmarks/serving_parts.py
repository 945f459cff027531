"""Processes for `serving.py`: an endpoint that speaks at the pace of a model, a plain reverse proxy before it, and a gateway with
the embedded model, which tells how many replies each call of the model had.

Run as: python serving_parts.py endpoint|proxy|embedded PORT [ADDRESS OF THE ENDPOINT]
"""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp
from aiohttp import web

FIRST, EACH, TOKENS = 0.02, 0.005, 40
"""Seconds until the first token and between tokens, and tokens of a reply."""
SECONDS = FIRST + EACH * (TOKENS - 1)


def event(record: object) -> bytes:
    return b"data: " + (record if isinstance(record, bytes) else json.dumps(record).encode()) + b"\n\n"


def piece(text: str, reason: str | None = None) -> bytes:
    delta = {"content": text} if text else {}
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return event({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices})


USAGE = {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}
END = piece("", "stop") + event(
    {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": USAGE}
)


async def complete(request: web.Request) -> web.StreamResponse:
    """Always a stream, as all clients here ask for one."""
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    begun = asyncio.get_running_loop().time()
    for i in range(TOKENS):
        await asyncio.sleep(max(0.0, begun + FIRST + i * EACH - asyncio.get_running_loop().time()))
        await response.write(piece(f"word{i} "))
    await response.write(END + event(b"[DONE]"))
    return response


async def models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})


def endpoint() -> web.Application:
    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/v1/models", models), web.get("/health", models)])
    return app


def proxy(address: str) -> web.Application:
    """Bytes in, bytes out."""
    app = web.Application()

    async def session(app: web.Application):
        app["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        yield
        await app["session"].close()

    async def passed_on(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with app["session"].request(request.method, address + request.path, data=body or None) as reply:
            response = web.StreamResponse(status=reply.status, headers={"Content-Type": reply.content_type})
            await response.prepare(request)
            async for chunk in reply.content.iter_any():
                await response.write(chunk)
            return response

    app.cleanup_ctx.append(session)
    app.add_routes([web.route("*", "/{path:.*}", passed_on)])
    return app


def embedded(port: int) -> None:
    """The gateway as `visionthink serve` starts it, and `/calls`."""
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from visionthink import load
    from visionthink.serve.answering import Answering
    from visionthink.serve.app import Gateway
    from visionthink.serve.connections import server_options
    from visionthink.serve.limits import Limits
    from visionthink.serve.local_upstream import LocalUpstream
    from visionthink.serve.sources import Images

    upstream = LocalUpstream(load("tiny"), "tiny")

    async def calls(_: Request) -> JSONResponse:
        return JSONResponse([[replies, count] for replies, count in sorted(upstream.batcher.calls.items())])

    app = Gateway(answering=Answering(upstream, Images(Limits()))).app()
    app.router.routes.append(Route("/calls", calls))
    uvicorn.run(app, port=port, log_level="warning", **server_options())


if __name__ == "__main__":
    kind, port, *rest = sys.argv[1:]
    if kind == "embedded":
        embedded(int(port))
        sys.exit()
    web.run_app(endpoint() if kind == "endpoint" else proxy(*rest), host="127.0.0.1", port=int(port), print=None)
