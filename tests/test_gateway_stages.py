"""Where the time of a request goes: the histogram of stages, and traces."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from environments import ROOT, clean, traced_python
from gateway import asking, before, data_url, serving
from PIL import Image
from servers import fetched
from upstream import Script, delta, event, said, streamed, upstream

from visionthink.serve.keys import new_key

PHOTO = data_url(Image.linear_gradient("L").resize((1024, 768)).convert("RGB"))
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "resize_image", "arguments": '{"action": "resize"}'}}
ASKS = [event(delta(tool_calls=[CALL])), event(delta("tool_calls")), *said()[-2:]]
LOOKS_TWICE = asking("Which secret word?", PHOTO) | {"visionthink": {"rule": "model"}}
CHAT = "/v1/chat/completions"


def posted(url: str, body: Any, headers: dict[str, str] | None = None) -> int:
    return fetched(url, body, headers=headers, timeout=30).status


def stages(address: str) -> dict[str, tuple[int, float]]:
    """Of each stage how often it was seen, and its seconds."""
    text = fetched(f"{address}/metrics").text
    found = re.findall(r'visionthink_stage_seconds_(count|sum)\{stage="(\w+)"\} (\S+)', text)
    seen = {stage: [float(value) for kind, of, value in found if of == stage] for _, stage, _ in found}
    return {stage: (int(count), seconds) for stage, (count, seconds) in seen.items()}


def test_each_stage_is_counted_once_a_request():
    """The endpoint takes 0.2 s to its first piece, and 0.3 s more in the second round."""
    with upstream() as (server, url), serving(before(url, dialect="native", patience=5)) as address:
        assert set(stages(address).values()) == {(0, 0.0)}
        server.scripts = [streamed(0.2, *ASKS), streamed(0.3, *said("red"))]
        assert posted(f"{address}{CHAT}", LOOKS_TWICE) == 200
        found = stages(address)
        assert {stage: count for stage, (count, _) in found.items()} == dict.fromkeys(
            ("queue", "body", "read", "files", "decode", "views", "first_piece", "upstream"), 1
        )
        assert 0.5 <= found["upstream"][1] < 1.5 and 0.2 <= found["first_piece"][1] < 0.5
        assert 0 < found["decode"][1] < 0.5 and 0 < found["views"][1] < 0.5
        # what is refused has the stages that it came to
        assert posted(f"{address}{CHAT}", {"model": "m"}) == 400
        counts = {stage: count for stage, (count, _) in stages(address).items()}
        assert counts == dict.fromkeys(found, 1) | {"queue": 2, "body": 2, "read": 2}
        # and a question without images no others
        server.scripts = [streamed(*said("red"))]
        assert posted(f"{address}{CHAT}", asking("Which?")) == 200
        counts = {stage: count for stage, (count, _) in stages(address).items()}
        assert (counts["upstream"], counts["decode"], counts["views"]) == (2, 1, 1)


def test_opentelemetry_is_not_imported_unless_traces_are_sent():
    code = "import sys, visionthink.serve.app, visionthink.cli.serving; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_traces_without_the_extra_are_refused_with_its_name():
    code = (
        "import sys; sys.modules['opentelemetry'] = None; from visionthink.cli import main; sys.exit(main(['serve', '--traces']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --traces needs opentelemetry: pip install 'visionthink[otel]'\n"


# ------------------------------------------------------------------------------------------------ real OTLP over HTTP

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FROM_CLIENT = {"traceparent": f"00-{TRACE}-{CLIENT}-01", "tracestate": "vendor=1", "baggage": "of=the-client"}


class Collector:
    """Takes what is sent by OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[dict[str, Any]]:
        lines = "\n".join(base64.b64encode(body).decode() for body in self.bodies)
        script = Path(__file__).with_name("otlp_spans.py")
        done = subprocess.run([str(traced_python()), str(script)], input=lines, capture_output=True, text=True, env=clean())
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextlib.contextmanager
def tracing(url: str, *options: str, **variables: str) -> Iterator[tuple[str, Collector]]:
    """A gateway before an endpoint that sends traces, as a process; a stop lets it send what it has left."""
    collector = Collector()
    where = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}"}
    command = [str(traced_python()), "-m", "visionthink", "serve", "--upstream", f"{url}#m", "--port", "0", "--traces", *options]
    own = clean() | where | variables | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=own)
    try:
        line = next(line for line in process.stderr if " at http" in line)
        yield line.split(" at ")[1].split("/v1")[0], collector
        process.terminate()
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        collector.server.shutdown()
        collector.server.server_close()


@pytest.mark.slow
@pytest.mark.network
def test_the_spans_of_a_request(tmp_path):
    key, line = new_key("somebody")
    (tmp_path / "keys").write_text(line + "\n")
    (tmp_path / "keys").chmod(0o600)
    known = {"Authorization": f"Bearer {key}"}
    failing = Script(status=400, headers={"Content-Type": "application/json"}, pieces=[b'{"error": {"message": "no"}}'])
    with upstream() as (server, url):
        server.scripts = [streamed(*ASKS), streamed(0.2, *said("a password")), streamed(*said("red")), failing]
        with tracing(url, "--api-key-file", str(tmp_path / "keys"), OTEL_SERVICE_NAME="eyes") as (address, collector):
            assert posted(f"{address}{CHAT}", LOOKS_TWICE, known | FROM_CLIENT) == 200
            assert posted(f"{address}{CHAT}", asking("Which?"), known) == 200
            assert posted(f"{address}{CHAT}", asking("Which?"), known) == 400
            assert posted(f"{address}{CHAT}", asking("Which?"), FROM_CLIENT) == 401
        told = [headers["traceparent"] for headers in server.headers]
        states = [headers.get("tracestate") for headers in server.headers]
        assert not any("baggage" in headers for headers in server.headers)
    spans = collector.spans()
    assert {span["service"] for span in spans} == {"eyes"}
    of = [span for span in spans if span["trace"] == TRACE]
    [request] = [span for span in of if span["kind"] == 2]
    assert (request["name"], request["parent"], request["failed"]) == (f"POST {CHAT}", CLIENT, False)
    assert all(span["parent"] == request["id"] for span in of if span is not request)
    inside = [span["name"] for span in of if span["kind"] == 1]
    assert sorted(set(inside)) == ["body", "decode", "files", "queue", "read", "views"]
    rounds = sorted((span for span in of if span["kind"] == 3), key=lambda span: span["attributes"]["visionthink.round"])
    assert [span["name"] for span in rounds] == ["chat m", "chat m"]
    # the endpoint is told which span it is asked in, and nothing else of the client's
    assert told[:2] == [f"00-{TRACE}-{span['id']}-01" for span in rounds] and states[:2] == ["vendor=1", "vendor=1"]
    assert rounds[0]["attributes"] | {"gen_ai.response.time_to_first_chunk": 0} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "visionthink",
        "gen_ai.request.model": "m",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0,
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "visionthink.image_tokens": 5,
        "visionthink.round": 1,
    }
    assert rounds[1]["seconds"] >= rounds[1]["attributes"]["gen_ai.response.time_to_first_chunk"] >= 0.2
    said_of_it = request["attributes"]
    assert (said_of_it["http.response.status_code"], said_of_it["http.route"], said_of_it["visionthink.looks"]) == (200, CHAT, 1)
    assert said_of_it["visionthink.outcome"] == "stop" and said_of_it["visionthink.rounds"] == 2
    assert said_of_it["gen_ai.response.id"].startswith("chatcmpl-")
    # others: each a trace of its own; nobody without a key has one
    others = [span for span in spans if span["trace"] != TRACE and span["kind"] == 2]
    assert [span["attributes"]["http.response.status_code"] for span in others] == [200, 400] and len(of) == len(inside) + 3
    assert len({span["trace"] for span in others}) == 2 and not any(span["parent"] for span in others)
    [refused] = [span for span in spans if span["failed"]]
    assert refused["kind"] == 3 and refused["attributes"]["error.type"] == "bad_request"
    content = b"".join(collector.bodies)
    for secret in (b"secret", b"password", b"base64", PHOTO[40:60].encode(), url.encode(), b"somebody", key.encode()):
        assert secret not in content


@pytest.mark.slow
@pytest.mark.network
def test_the_environment_says_how_many_traces_are_sent():
    with upstream() as (server, url):
        server.rest = lambda _: streamed(*said("red"))
        with tracing(url, OTEL_TRACES_SAMPLER="always_off") as (address, collector):
            assert posted(f"{address}{CHAT}", asking("Which?")) == 200
        assert collector.bodies == []
        assert int(server.headers[-1]["traceparent"].rpartition("-")[2], 16) & 1 == 0  # the endpoint need not record it either
        with tracing(url, OTEL_SDK_DISABLED="true") as (address, collector):
            assert posted(f"{address}{CHAT}", asking("Which?")) == 200
        assert collector.bodies == [] and "traceparent" not in server.headers[-1]


@pytest.mark.slow
@pytest.mark.network
def test_a_collector_that_is_not_there_holds_up_nobody():
    with upstream() as (server, url):
        server.rest = lambda _: streamed(*said("red"))
        nobody = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces", "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with tracing(url, **nobody, OTEL_EXPORTER_OTLP_TIMEOUT="2") as (address, _):
            started = time.monotonic()
            assert [posted(f"{address}{CHAT}", asking("Which?")) for _ in range(20)] == [200] * 20
            assert time.monotonic() - started < 10


@pytest.mark.slow
@pytest.mark.network
def test_another_way_to_send_traces_is_refused():
    own = clean() | {"PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    command = [str(traced_python()), "-m", "visionthink", "serve", "--traces"]
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    assert done.returncode == 2
    words = "traces are sent as http/protobuf only; leave the variable out"
    assert done.stderr == f"error: --traces: OTEL_EXPORTER_OTLP_PROTOCOL=grpc: {words}\n"
