"""The gateway before an endpoint that fails: a correct answer, or one clear error within the deadline, and never a guess."""

from __future__ import annotations

import json
import socket
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from gateway import asking, before, data_url, events, serving, text_of
from PIL import Image
from servers import fetched
from upstream import FAULTS, Script, delta, event, said, streamed, upstream

from visionthink import Protocol
from visionthink.endpoint import breaker, connection

PHOTO = data_url(Image.linear_gradient("L").resize((1344, 1008)).convert("RGB"))
REQUEST = said("<think>small</think>", Protocol("agent").request())
ANSWER = said("<think>ok</think>", "<answer>4", "2</answer>")


@pytest.fixture(scope="module")
def endpoint():
    with upstream() as (server, url):
        yield server, url


@pytest.fixture
def gateway(endpoint):
    with serving(before(endpoint[1])) as address:
        yield address


@pytest.fixture
def server(endpoint, monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(breaker, "_ENOUGH", 10**9)  # an endpoint that is down is not asked for a while
    found, _ = endpoint
    found.scripts[:], found.sent[:], found.gone[:] = [], [], []
    return found


def counted(pieces, prompt, image, cached):
    """A reply with other counts of prompt tokens, image tokens and cached tokens."""
    details = {"cached_tokens": cached, "multimodal_tokens": {"image": image}}
    usage = {"prompt_tokens": prompt, "completion_tokens": 2, "prompt_tokens_details": details}
    return [event({"choices": [], "usage": usage}) if b'"usage"' in piece else piece for piece in pieces]


def post(address, body, seconds=10, path="/v1/chat/completions"):
    """Status and text of the response."""
    response = fetched(address + path, body, timeout=seconds)
    return response.status, response.text


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("round_", [1, 2])
def test_a_fault_in_either_round_is_repaired_or_told(gateway, server, fault, round_):
    script, code = FAULTS[fault]
    server.rest = lambda _: script  # as often as it is asked
    server.scripts[:] = [streamed(*REQUEST)] if round_ == 2 else []
    if code is None:  # asking again helps
        server.scripts += [script, *([streamed(*REQUEST)] if round_ == 1 else []), streamed(*ANSWER)]
    started = time.monotonic()
    status, content = post(gateway, asking("How many?", PHOTO))
    assert time.monotonic() - started < 6
    record = json.loads(content)
    if code is None:
        assert (status, record["choices"][0]["message"]["content"]) == (200, "42")
    else:
        assert status >= 400 and record["error"]["code"] == code, record
        assert "choices" not in record and "\n" not in record["error"]["message"]


@pytest.mark.parametrize("fault", [name for name, (_, code) in FAULTS.items() if code])
def test_a_stream_tells_a_fault_and_ends(gateway, server, fault):
    """A thought was sent before the second round fails, so that the status can no longer tell."""
    server.scripts[:] = [streamed(*REQUEST)]
    server.rest = lambda _: FAULTS[fault][0]
    status, content = post(gateway, asking("How many?", PHOTO, stream=True))
    *_, failure, end = events(content)
    assert (status, failure["error"]["code"], end) == (200, FAULTS[fault][1], "[DONE]")
    assert text_of(events(content)[:-2]) == ""


@pytest.mark.parametrize(
    ("theirs", "said", "ours", "passed_on"),
    [(429, "600.5", 429, "601"), (503, "600.5", 502, "601"), (503, "inf", 502, "86400"), (429, "nan", 429, None)],
)
@pytest.mark.parametrize("stream", [False, True])
def test_when_to_ask_again_is_passed_on(gateway, server, theirs, said, ours, passed_on, stream):
    server.rest = lambda _: Script(status=theirs, headers={"Retry-After": said}, pieces=[b"not now"])
    refused = fetched(gateway + "/v1/chat/completions", asking("How many?", PHOTO, stream=stream))
    assert (refused.status, refused.headers.get("Retry-After")) == (ours, passed_on)


def test_nobody_listens_at_the_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with serving(before(address)) as gateway:
            status, content = post(gateway, asking("How many?", PHOTO))
            assert (status, json.loads(content)["error"]["code"]) == (502, "upstream_unreachable")
            assert fetched(gateway + "/ready").status == 503
            assert fetched(gateway + "/health").status == 200


def test_two_rounds_are_billed_and_the_same_bytes_are_sent_again(gateway, server):
    # 1344x1008 px are 1,728 visual tokens, and a quarter of them 432
    server.scripts[:] = [streamed(*counted(REQUEST, 700, 432, 0)), streamed(*counted(ANSWER, 2500, 2160, 690))]
    status, content = post(gateway, asking("How many?", PHOTO))
    record = json.loads(content)
    assert (status, record["choices"][0]["message"]["content"]) == (200, "42")
    assert record["choices"][0]["message"]["reasoning_content"] == "small\n\nok"
    assert (record["usage"]["prompt_tokens"], record["usage"]["completion_tokens"]) == (3200, 4)
    assert record["usage"]["prompt_tokens_details"] == {"image_tokens": 2592, "cached_tokens": 690}
    bill = {name: record["visionthink"][name] for name in ("looks", "rounds", "image_tokens_full", "saved", "measured")}
    assert bill == {"looks": 1, "rounds": 2, "image_tokens_full": 1728, "saved": -432, "measured": True}
    first, second = server.sent

    def images(body):
        parts = [p for m in body["messages"] if isinstance(m["content"], list) for p in m["content"]]
        return [p["image_url"]["url"] for p in parts if p["type"] == "image_url"]

    assert images(second)[:1] == images(first) and images(second)[1] == PHOTO  # the full view is the client's own bytes
    assert "tool_call" not in content


def test_a_request_in_pieces_of_any_size_never_shows(endpoint, server):
    """Every cut was tried once; those in the tags and in the words stay."""
    text = Protocol("agent").request()
    for begin in (1, 61):  # after 20 requests in a row the images are shown in full at once
        with serving(before(endpoint[1])) as gateway:
            for cut in range(begin, begin + 19):
                server.scripts[:] = [streamed(*said("<think>s</think>", text[:cut], text[cut:])), streamed(*ANSWER)]
                status, content = post(gateway, asking("How many?", PHOTO, stream=True))
                assert (status, text_of(events(content))) == (200, "42")


def test_details_of_images_are_kept_each_by_itself(gateway, server):
    server.rest = lambda _: streamed(*ANSWER)
    small = data_url(Image.new("RGB", (56, 56), "red"))
    for detail in ("low", "high", "original"):
        server.sent.clear()
        status, content = post(gateway, asking("How many?", PHOTO, detail=detail))
        bill = json.loads(content)["visionthink"]
        assert (status, bill["rule"], len(server.sent)) == (200, "fixed", 1)
        assert "resize_image" not in json.dumps(server.sent[0])
        assert (PHOTO in json.dumps(server.sent[0])) is (detail != "low")
    status, content = post(gateway, asking("How many?", small))
    assert json.loads(content)["visionthink"]["rule"] == "skipped"


def test_a_client_that_leaves_stops_the_endpoint(gateway, server):
    server.rest = lambda _: streamed(event(delta(content="<think>a")), end="hang")
    body = json.dumps(asking("How many?", PHOTO, stream=True)).encode()
    host, port = gateway.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while b'"a"' not in client.recv(65536):
            pass
        left = time.monotonic()
    while not server.gone:
        assert time.monotonic() - left < 0.5
        time.sleep(0.01)
