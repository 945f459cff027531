"""A small application behind everything that guards the gateway, as a process: `python serving_app.py PORT OPTIONS`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from visionthink.serve import connections
from visionthink.serve.admission import Admission, Slots
from visionthink.serve.keys import Keys, RequireKey
from visionthink.serve.limits import Limits

seen = {"begun": 0, "ended": 0, "cancelled": 0}


async def echo(request: Request) -> JSONResponse:
    seen["begun"] += 1
    body = await request.body()
    seen["ended"] += 1
    return JSONResponse({"bytes": len(body), "key": request.state.key})


async def sleeping(request: Request) -> JSONResponse:
    """Knows nothing of clients that leave."""
    seen["begun"] += 1
    try:
        await asyncio.sleep((await request.json())["seconds"])
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise
    seen["ended"] += 1
    return JSONResponse({})


async def stream(request: Request) -> StreamingResponse:
    size = (await request.json())["size"]

    async def pieces() -> AsyncIterator[bytes]:
        seen["begun"] += 1
        try:
            while True:
                yield b"x" * size
                await asyncio.sleep(0.01)
        finally:
            seen["cancelled"] += 1

    return StreamingResponse(pieces())


async def state(request: Request) -> JSONResponse:
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
    return JSONResponse({**seen, "running": slots.running, "waiting": slots.waiting, "peak_mb": peak})


routes = [
    Route("/echo", echo, methods=["POST"]),
    Route("/sleep", sleeping, methods=["POST"]),
    Route("/stream", stream, methods=["POST"]),
    Route("/health", state, methods=["GET", "POST"]),
    Route("/metrics", state),
]
options = json.loads(sys.argv[2])
connections.HEADER_SECONDS = options.pop("header_seconds", 10)
connections.UNREAD_SECONDS = options.pop("unread_seconds", 30)
keys = Keys.read(Path(options.pop("keys"))) if "keys" in options else None
limits = Limits(**options)
slots = Slots(limits)
app = RequireKey(Admission(Starlette(routes=routes), limits=limits, slots=slots), keys=keys)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", **connections.server_options())
