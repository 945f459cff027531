"""Servers for tests: one that is not ours, as a process on a free port, and one in this process that says what it is told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that wait to be accepted; with the usual 5 some are made again a second later


class Replying:
    """A server on this machine. `replies` holds the next (status, body), `rest` says what follows them, given a request."""

    def __init__(self, rest: Callable[[dict[str, Any]], tuple[int, Any]]):
        self.rest, self.replies, self.sent = rest, list[tuple[int, Any]](), list[dict[str, Any]]()
        self.headers: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.sent.append(body)
                status, reply = outer.replies.pop(0) if outer.replies else outer.rest(body)
                data = reply if isinstance(reply, bytes) else (reply if isinstance(reply, str) else json.dumps(reply)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}/v1#model"


@contextlib.contextmanager
def replying(rest: Callable[[dict[str, Any]], tuple[int, Any]]) -> Iterator[Replying]:
    """The server, until the end of the block."""
    replying = Replying(rest)
    thread = threading.Thread(target=replying.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield replying
    finally:
        replying.server.shutdown()
        thread.join()
        replying.server.server_close()


def said(message: dict[str, Any], reason: Any = "stop") -> dict[str, Any]:
    """A reply of chat completions."""
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}


@dataclass(frozen=True)
class Response:
    status: int
    headers: Message
    text: str


def fetched(url: str, body: Any = None, *, headers: Mapping[str, str] | None = None, timeout: float = 10) -> Response:
    """What the server says to a GET, or to a POST of `body` as JSON; also where that is a refusal."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | dict(headers or {}))
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as refused:
        response = refused
    with response:
        return Response(response.status, response.headers, response.read().decode())


@contextlib.contextmanager
def transformers_serve(command: Sequence[str], home: Path) -> Iterator[str]:
    """Address of `transformers serve`, started by `command`, with an empty hub cache below `home`."""
    (home / "hub").mkdir(exist_ok=True)
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with serving([*command, "--device", "cpu", "--dtype", "float32"], os.environ | own, seconds=120) as url:
        yield f"{url}/v1"


@contextlib.contextmanager
def serving(command: Sequence[str], env: Mapping[str, str], *, seconds: float, ready: str = "/health") -> Iterator[str]:
    """Address of a server that takes a host and a port and answers at `ready`, as a process; it may take so long to start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            try:
                urllib.request.urlopen(f"{url}{ready}", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        assert process.poll() is None, "the server did not start"
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        process.wait()
