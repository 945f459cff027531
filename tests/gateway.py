"""The gateway on this machine, in a thread, for tests; and what its clients send."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from PIL import Image

from visionthink import load
from visionthink.model import Model
from visionthink.serve.answering import Answering
from visionthink.serve.app import Gateway
from visionthink.serve.connections import server_options
from visionthink.serve.limits import Limits
from visionthink.serve.local_upstream import LocalUpstream
from visionthink.serve.sources import Images
from visionthink.serve.upstreams import RemoteUpstream


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def asking(question: str, *images: str, model: str = "m", detail: str | None = None, **fields: Any) -> dict[str, Any]:
    """The body of a request; the images are data URLs."""
    shown = [{"url": url} | ({"detail": detail} if detail else {}) for url in images]
    content = [{"type": "text", "text": question}, *({"type": "image_url", "image_url": image} for image in shown)]
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


def before(url: str, *, dialect: str = "agent", limits: Limits | None = None, patience: float = 0.5, **options: Any) -> Gateway:
    """A gateway in front of an endpoint, whose model is called `m`. It waits `patience` seconds for a piece of a reply."""
    model = load(f"{url}#m", dialect=dialect, timeout=patience, deadline=3 * patience, concurrency=64, max_new_tokens=64)
    return Gateway(answering=Answering(RemoteUpstream(model, "m"), Images(limits or Limits()), **options))


def local(model: Model, **options: Any) -> Gateway:
    """A gateway with a model of this process, which is called `m`."""
    return Gateway(answering=Answering(LocalUpstream(model, "m"), Images(Limits()), **options))


@contextlib.contextmanager
def serving(gateway: Gateway) -> Iterator[str]:
    """Its address, until the end of the block. It is served as the command serves it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(gateway.app(), log_level="critical", timeout_graceful_shutdown=5, **server_options())
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def events(content: str) -> list[Any]:
    """The records of a stream, `[DONE]` as text."""
    said = [line.removeprefix("data: ") for line in content.splitlines() if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in said]


def text_of(records: list[Any]) -> str:
    deltas = [choice["delta"] for record in records if record != "[DONE]" for choice in record.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)
