"""What the gateway says beside answers: errors, its document, and whether it is ready."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from gateway import asking, before, data_url, serving
from PIL import Image
from servers import fetched
from upstream import Script, upstream

from visionthink.endpoint import connection
from visionthink.errors import OptionError
from visionthink.serve import app
from visionthink.serve.app import Gateway


@pytest.fixture(scope="module")
def endpoint():
    with upstream() as (server, url):
        yield server, url


@pytest.fixture(scope="module")
def address(endpoint):
    with serving(before(endpoint[1])) as address:
        yield address


def asked(url: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    response = fetched(url, body)
    return response.status, json.loads(response.text)


def test_a_path_that_there_is_not_names_those_that_there_are(address):
    status, record = asked(f"{address}/v1/completions", {})
    assert (status, record["error"]["type"]) == (404, "not_found_error")
    assert record["error"]["message"] == (
        "there is nothing at this path; there is /v1/chat/completions, /v1/responses, /v1/models, /metrics, /health, /ready, "
        "/openapi.json"
    )
    paths = asked(f"{address}/openapi.json")[1]["paths"]
    assert {path for path in app._PATHS if path != "/openapi.json"} <= paths.keys()


def test_the_document_names_the_model_that_is_served(address):
    schemas = asked(f"{address}/openapi.json")[1]["components"]["schemas"]
    for name in ("ChatRequest", "ResponsesRequest"):
        assert schemas[name]["properties"]["model"]["enum"] == ["m"]
        assert [example["model"] for example in schemas[name]["examples"]] == ["m"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_image_that_cannot_be_used_is_the_clients_fault_and_no_line_of_the_log(address, stream, caplog):
    bad = data_url(Image.new("RGB", (64, 64)), "JPEG")[:-200]
    with caplog.at_level(logging.ERROR):
        status, record = asked(f"{address}/v1/chat/completions", asking("How many?", bad, stream=stream))
    assert (status, record["error"]["code"], record["error"]["param"]) == (
        400,
        "invalid_image",
        "messages[0].content[1].image_url",
    )
    assert record["error"]["message"] == "messages[0].content[1].image_url: damaged or truncated image (a JPEG without an end)"
    assert not caplog.records


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_endpoint_refuses_to_us_is_no_fault_of_the_clients(endpoint, address, status, monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    endpoint[0].scripts[:] = [Script(status=status, pieces=[b'{"error": {"message": "no such key"}}'])]
    said, record = asked(f"{address}/v1/chat/completions", asking("How many?"))
    assert (said, record["error"]["type"], record["error"]["code"]) == (502, "server_error", "upstream_no_access")
    assert record["error"]["message"] == f"upstream: HTTP {status} no such key"


def test_hosts_that_are_none_are_seen_before_anything_runs(endpoint):
    answering = before(endpoint[1]).answering
    with pytest.raises(OptionError, match=r"host of images 'https://a\.example'"):
        Gateway(answering=answering, image_hosts=["a.example", "https://a.example"])


def test_the_upstream_is_asked_once_whoever_asks_whether_it_is_ready(monkeypatch):
    class Slow:
        asked = 0

        async def ready(self) -> str:
            self.asked += 1
            await asyncio.sleep(0.02)
            return ""

    monkeypatch.setattr(app, "_READY_KEPT", 0.1)

    async def run() -> None:
        upstream = Slow()
        readiness = app._Readiness(upstream)
        answers = await asyncio.gather(*(readiness.answer(None) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200} and upstream.asked == 1
        await asyncio.sleep(0.15)
        await readiness.answer(None)
        assert upstream.asked == 2

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/health", "/v1/chat/completions"])
def test_a_response_to_a_mistake_of_ours_is_counted(endpoint, path, monkeypatch):
    """Starlette writes it outside of all middleware."""

    async def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(app, "_health", broken)
    monkeypatch.setattr(Gateway, "_asked", broken)
    with serving(before(endpoint[1])) as address:
        found = asked(f"{address}{path}", asking("How many?") if path.startswith("/v1") else None)
        metrics = fetched(f"{address}/metrics").text.splitlines()
        counted = [line for line in metrics if line.startswith("visionthink_responses_total")]
    internal = {"message": "internal error", "type": "server_error", "param": None, "code": "internal_error"}
    assert found == (500, {"error": internal}) and counted == ['visionthink_responses_total{status="500"} 1.0']
