"""Requests that are let in, wait or are refused, by a real server; and what no client may do to it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from visionthink.serve.admission import Admission, Slots
from visionthink.serve.limits import Limits

# ---------------------------------------------------------------------------------------------------------- slots


def slots(**limits: int) -> Slots:
    return Slots(Limits(**limits))


def test_places_in_all_and_of_a_key():
    async def run() -> None:
        places = slots(requests=3, requests_per_key=2, waiting=3)
        first, second = places.ask("anna"), places.ask("anna")
        assert first.done() and second.done() and places.running == 2
        third, ben = places.ask("anna"), places.ask("ben")
        assert not third.done() and ben.done()  # a key that has no place left holds up nobody else
        eve = places.ask("eve")
        assert not eve.done() and (places.running, places.waiting) == (3, 2)
        places.give_back("ben")
        assert eve.done() and not third.done()
        places.give_back("anna")
        assert third.done() and (places.running, places.waiting) == (3, 0)
        for key in ("anna", "anna", "eve"):
            places.give_back(key)
        assert places.running == 0 and not places.taken

    asyncio.run(run())


def test_the_line_is_bounded_in_all_and_for_a_key():
    async def run() -> None:
        places = slots(requests=1, requests_per_key=2, waiting=3)
        places.ask("anna")
        waiting = [places.ask("anna"), places.ask("anna")]
        assert None not in waiting and places.ask("anna") is None  # as many wait as may be answered
        ben = places.ask("ben")
        assert places.ask("eve") is None and places.waiting == 3
        waiting[0].cancel()
        places.give_back("anna")
        assert waiting[1].done() and not ben.done()
        await asyncio.sleep(0)
        assert places.waiting == 1

    asyncio.run(run())


def test_without_keys_only_all_together_count():
    async def run() -> None:
        places = slots(requests=5, requests_per_key=1, waiting=0)
        assert all(places.ask(None).done() for _ in range(5)) and places.ask(None) is None

    asyncio.run(run())


def test_a_place_that_is_given_in_the_moment_in_which_the_request_ends_is_not_lost():
    async def unreached(*_: Any) -> None:
        raise AssertionError

    async def run() -> None:
        places = slots(requests=1)
        places.ask(None)
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
        admission = Admission(unreached, limits=places.limits, slots=places)
        waiting = asyncio.create_task(admission(scope, asyncio.Event().wait, unreached))
        await asyncio.sleep(0.01)
        assert (places.running, places.waiting) == (1, 1)
        places.give_back(None)
        assert (places.running, places.waiting) == (1, 0)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled() and places.running == 0

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------ a server


class Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int):
        self.process, self.port = process, port

    def connection(self, timeout: float = 10) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        connection = self.connection()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if method == "POST":
            headers = {"Content-Type": "application/json", **headers}
        connection.request(method, path, body, headers)
        return answer(connection)

    @property
    def state(self) -> dict[str, int]:
        return self.ask("GET", "/health")[2]

    def until(self, **expected: int) -> None:
        """Wait until the state is as expected."""
        end = time.monotonic() + 3
        while any((state := self.state)[name] != value for name, value in expected.items()):
            assert time.monotonic() < end, (state, expected)
            time.sleep(0.02)

    def raw(self, data: bytes, seconds: float = 3) -> tuple[bytes, bool]:
        """What is answered to bytes, and whether the connection is closed then."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as sent:
            with contextlib.suppress(ConnectionError):
                sent.sendall(data)
            got = b""
            try:
                while piece := sent.recv(65536):
                    got += piece
            except ConnectionError:
                pass
            except TimeoutError:
                return got, False
            return got, True


def answer(connection: http.client.HTTPConnection) -> tuple[int, dict[str, str], Any]:
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, json.loads(content)


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = Path(__file__).parent / "serving_app.py"
    environment = {**os.environ, "PYTHONPATH": str(app.parent.parent)}
    process = subprocess.Popen([sys.executable, app, str(port), json.dumps(options)], env=environment)
    try:
        server, end = Server(process, port), time.monotonic() + 20
        while True:
            try:
                assert server.state["begun"] == 0
                break
            except ConnectionError:
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(body_bytes=2_000_000, image_bytes=1_000_000, body_seconds=0.6, header_seconds=0.6) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(tmp_path_factory) -> Iterator[Server]:
    """One request at once of each key, two in all, one waits for 0.5 s."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    names = ("anna", "ben", "eve")
    file.write_text("".join(f"{name} sha256:{hashlib.sha256(name.encode()).hexdigest()}\n" for name in names))
    file.chmod(0o600)
    with serving(keys=str(file), requests=2, requests_per_key=1, waiting=1, waiting_seconds=0.5) as running:
        yield running


def error(message: str, type: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


TOO_LARGE = error("the body is larger than the limit of 2 MB", "invalid_request_error", "body_too_large")
MEDIA = "unsupported_media_type"


@pytest.mark.network
def test_a_body_within_the_limit_comes_whole(server):
    assert server.ask("POST", "/echo", bytes(2_000_000))[::2] == (200, {"bytes": 2_000_000, "key": None})
    chunks = iter([bytes(700_000)] * 2)
    assert server.ask("POST", "/echo", chunks)[::2] == (200, {"bytes": 1_400_000, "key": None})
    connection = server.connection()
    for size in (3, 100_000, 0):  # one connection for all
        connection.request("POST", "/echo", bytes(size), {"Content-Type": "application/json; charset=UTF-8"})
        assert json.loads(connection.getresponse().read())["bytes"] == size
    connection.close()


@pytest.mark.network
def test_no_body_but_that_of_a_post(server):
    refused = error("only POST requests have a body here; leave it out", "invalid_request_error", "body_not_allowed")
    assert server.ask("GET", "/health", b"{}")[::2] == (400, refused)
    assert server.ask("DELETE", "/echo", iter([b"x"]))[::2] == (400, refused)
    begun = time.monotonic()
    got, closed = server.raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 25000000\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 400 ") and closed and time.monotonic() - begun < 3


@pytest.mark.network
def test_bodies_of_all_requests_have_a_limit_together():
    with serving(body_bytes=1_000_000, image_bytes=1_000_000, bodies_bytes=1_000_000, waiting_seconds=0.5) as server:
        first = server.connection()
        body = json.dumps({"seconds": 0.8, "more": "x" * 600_000})
        first.request("POST", "/sleep", body, {"Content-Type": "application/json"})
        server.until(running=1)
        assert server.ask("POST", "/echo", bytes(300_000))[0] == 200  # there is room for it
        status, headers, said = server.ask("POST", "/echo", bytes(500_000))
        assert (status, headers["retry-after"], said) == (429, "2", busy("no place was free within 0.5 s"))
        assert answer(first)[0] == 200
        assert server.ask("POST", "/echo", iter([bytes(500_000)]))[0] == 200  # its length is not known before


@pytest.mark.network
def test_a_length_beyond_the_limit_is_refused_before_anything_is_sent(server):
    begun = server.state["begun"]
    connection = server.connection()
    connection.putrequest("POST", "/echo")
    for name, value in (("Content-Type", "application/json"), ("Content-Length", "100000000")):
        connection.putheader(name, value)
    connection.endheaders()
    status, headers, body = answer(connection)
    assert (status, headers["connection"], body) == (413, "close", TOO_LARGE)
    assert server.ask("POST", "/echo", bytes(2_000_001))[::2] == (413, TOO_LARGE)  # the client sends all of it first
    assert server.state["begun"] == begun


@pytest.mark.network
def test_100_mb_without_a_length_are_refused_in_bounded_memory(server):
    before, sent = server.state["peak_mb"], 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"186a0\r\n" + bytes(100_000) + b"\r\n"
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000:
                connection.sendall(chunk)
                sent += 100_000
        got = connection.recv(65536) if sent < 100_000_000 else b""
    assert 2_000_000 < sent < 45_000_000 and server.state["peak_mb"] - before < 20
    assert b" 413 " in got or got == b""


@pytest.mark.network
def test_a_slow_body(server):
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        head = "POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode())
        got = b""
        connection.settimeout(0.05)
        while b"\r\n\r\n" not in got:
            assert time.monotonic() - began < 2
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                got += connection.recv(65536)
    assert got.startswith(b"HTTP/1.1 408 ") and b"the body did not come within 0.6 s" in got
    assert 0.5 < time.monotonic() - began < 1.5
    server.until(running=0)


@pytest.mark.network
@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content_Encoding": "gzip"}, "bodies that are compressed are not read; send it without Content-Encoding"),
        ({"Content_Encoding": "identity, br"}, "bodies that are compressed are not read; send it without Content-Encoding"),
        ({"Content_Type": "text/plain"}, "the body must be JSON in UTF-8; send Content-Type: application/json"),
        ({"Content_Type": ""}, "the body must be JSON in UTF-8; send Content-Type: application/json"),
        (
            {"Content_Type": "application/x-www-form-urlencoded"},
            "the body must be JSON in UTF-8; send Content-Type: application/json",
        ),
        (
            {"Content_Type": "multipart/form-data; boundary=application/json"},
            "the body must be JSON in UTF-8; send Content-Type: application/json",
        ),
        (
            {"Content_Type": "application/json; charset=utf-7"},
            "the body must be JSON in UTF-8; send Content-Type: application/json",
        ),
    ],
)
def test_bodies_that_are_not_plain_json(server, headers, message):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = server.connection()
    connection.request("POST", "/echo", b"{}", {"Content-Type": "application/json", **headers})
    assert answer(connection)[::2] == (415, error(message, "invalid_request_error", MEDIA))


# -------------------------------------------------------------------------------------------- headers and framing

REQUEST = b"POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.network
@pytest.mark.parametrize(
    "data",
    [
        REQUEST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        REQUEST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
        REQUEST + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        REQUEST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        REQUEST + b"Content-Length: 3, 3\r\n\r\nabc",
        REQUEST + b"Content-Length: +3\r\n\r\nabc",
        REQUEST + b"Content-Length: -1\r\n\r\nabc",
        REQUEST + b"Content-Length: 0x3\r\n\r\nabc",
        REQUEST + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
        REQUEST + b"X-A: b\r\n c\r\nContent-Length: 3\r\n\r\nabc",
        REQUEST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        REQUEST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        REQUEST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        REQUEST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        REQUEST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        REQUEST.replace(b"\r\n", b"\n") + b"Content-Length: 3\n\nabc",
        REQUEST + b"Content-Length: 3\n\r\nabc",
        REQUEST + b"X-A: b\rContent-Length: 9\r\nContent-Length: 3\r\n\r\nabc",
        REQUEST + b"Content-Length : 3\r\n\r\nabc",
        REQUEST + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n",
        REQUEST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
        REQUEST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        REQUEST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",
        REQUEST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
        REQUEST + b"Host: evil.example\r\nContent-Length: 0\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"CONNECT internal.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\0\xa5\1\0\0\xa1\3\3",
    ],
)
def test_requests_that_two_servers_in_a_row_may_read_differently(server, data):
    ended = server.state["ended"]
    got, closed = server.raw(data)
    assert got.startswith(b"HTTP/1.1 400 ") and got.count(b"HTTP/1.1") == 1 and closed
    assert server.state["ended"] == ended


@pytest.mark.network
@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (REQUEST, b"".join(b"X-%d: y\r\n" % i for i in range(5_000))),
        (REQUEST + b"X-A: ", b"a" * 60_000),
        (b"GET /", b"a" * 60_000),
        (REQUEST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n" * 8_000),
        (REQUEST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-A: ", b"b" * 60_000),
        (REQUEST + b"Transfer-Encoding: chunked\r\n\r\n3;a=", b"b" * 60_000),
    ],
    ids="many-headers one-header target many-trailers one-trailer chunk-extension".split(),
)
def test_a_flood_of_headers_is_cut_off(server, head, piece):
    before, sent = server.state["peak_mb"], 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(head)
        while sent < 30_000_000:
            connection.sendall(piece)
            sent += len(piece)
    assert sent < 10_000_000 and server.state["peak_mb"] - before < 10
    server.until(running=0)


@pytest.mark.network
def test_headers_of_16_kb_are_read(server):
    assert server.ask("POST", "/echo", b"{}", X_A="a" * 15_000)[0] == 200
    assert server.raw(REQUEST + b"X-A: " + b"a" * 17_000 + b"\r\nContent-Length: 0\r\n\r\n")[0].startswith(b"HTTP/1.1 400 ")


@pytest.mark.network
@pytest.mark.parametrize("data", [b"", b"\r\n", b"GET", REQUEST, REQUEST + b"X-A: b"])
def test_headers_that_do_not_come(server, data):
    began = time.monotonic()
    got, closed = server.raw(data)
    assert (got, closed) == (b"", True) and 0.4 < time.monotonic() - began < 1.5


@pytest.mark.network
@pytest.mark.parametrize("data", [b"\r\n", b"GET /health HT"])
def test_headers_of_a_second_request_that_do_not_come(server, data):
    with socket.create_connection(("127.0.0.1", server.port), timeout=3) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = b""
        while not got.endswith(b"}"):
            got += connection.recv(65536)
        began = time.monotonic()
        connection.sendall(data)
        assert connection.recv(65536) == b"" and 0.4 < time.monotonic() - began < 1.5


@pytest.mark.network
def test_a_client_that_does_not_read():
    with serving(unread_seconds=0.5) as server:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            body = b'{"size": 1000000}'
            connection.sendall(REQUEST.replace(b"/echo", b"/stream") + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            server.until(begun=1, running=1)
            began = time.monotonic()
            server.until(cancelled=1, running=0)
            assert time.monotonic() - began < 2
        assert server.state["peak_mb"] < 120


# ------------------------------------------------------------------------------------------- places and departures


def sleeping(server: Server, key: str, seconds: float) -> http.client.HTTPConnection:
    """A request that is answered after some seconds, sent."""
    connection = server.connection()
    body = json.dumps({"seconds": seconds})
    connection.request("POST", "/sleep", body, {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
    return connection


def busy(message: str) -> dict[str, Any]:
    return error(message, "rate_limit_error", "too_many_requests")


@pytest.mark.network
def test_who_waits_who_is_refused_and_who_gives_up(narrow):
    first = sleeping(narrow, "anna", 0.4)
    narrow.until(running=1)
    second = sleeping(narrow, "anna", 0)  # one of a key at once
    narrow.until(running=1, waiting=1)
    status, headers, body = answer(sleeping(narrow, "ben", 0))
    assert status == 200  # there is a place for another key
    third = sleeping(narrow, "ben", 1.5)
    narrow.until(running=2, waiting=1)
    status, headers, body = answer(sleeping(narrow, "eve", 0))
    assert (status, headers["retry-after"], body) == (429, "2", busy("too many requests are waiting"))
    assert answer(first)[0] == answer(second)[0] == 200
    narrow.until(running=1, waiting=0)
    late = sleeping(narrow, "ben", 0)
    status, headers, body = answer(late)
    assert (status, headers["retry-after"], body) == (429, "2", busy("no place was free within 0.5 s"))
    assert answer(third)[0] == 200
    narrow.until(running=0, waiting=0)


@pytest.mark.network
def test_a_client_that_leaves_frees_its_place_whether_it_is_answered_or_waits(narrow):
    cancelled = narrow.state["cancelled"]
    running = sleeping(narrow, "anna", 60)
    narrow.until(running=1)
    waiting = sleeping(narrow, "anna", 60)
    narrow.until(running=1, waiting=1)
    began = time.monotonic()
    waiting.close()
    narrow.until(running=1, waiting=0)
    running.close()
    narrow.until(running=0, cancelled=cancelled + 1)
    assert time.monotonic() - began < 0.5


@pytest.mark.network
def test_a_stream_that_is_left_ends(narrow):
    cancelled = narrow.state["cancelled"]
    connection = narrow.connection()
    connection.request("POST", "/stream", b'{"size": 10}', {"Content-Type": "application/json", "Authorization": "Bearer ben"})
    assert connection.getresponse().read(100) == b"x" * 100

    connection.close()
    narrow.until(running=0, cancelled=cancelled + 1)


@pytest.mark.network
def test_without_a_key_no_place_is_taken(narrow):
    head = b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    with contextlib.ExitStack() as slow:
        for _ in range(4):
            sent = slow.enter_context(socket.create_connection(("127.0.0.1", narrow.port)))
            sent.sendall(head)
            assert sent.recv(65536).startswith(b"HTTP/1.1 401 ")
        assert answer(sleeping(narrow, "anna", 0))[0] == 200


@pytest.mark.network
def test_a_wrong_key_is_refused_before_its_body_is_read(narrow):
    for path in ("/echo", "/metrics", "/nothing"):
        status, headers, body = narrow.ask("POST", path, b"{}", Authorization="Bearer nobody")
        assert status == 401 and body["error"]["code"] == "invalid_api_key" and headers["www-authenticate"] == "Bearer"
    assert narrow.ask("GET", "/metrics")[0] == 401 and narrow.ask("GET", "/health")[0] == 200
    assert narrow.ask("POST", "/echo", b"{}", Authorization="Bearer anna")[::2] == (200, {"bytes": 2, "key": "anna"})


@pytest.mark.network
def test_without_keys_a_foreign_name_is_refused(server):
    assert server.ask("POST", "/echo", b"{}", Host="evil.example")[2]["error"]["code"] == "host_not_allowed"
    assert server.ask("POST", "/echo", b"{}", Host="localhost")[0] == 200
