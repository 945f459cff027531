"""Any body is read or refused, in one line that does not say what stood there."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("starlette")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visionthink.errors import ImageError
from visionthink.protocol import disarmed
from visionthink.serve.chat import read_chat
from visionthink.serve.conversation import Conversation, ImageInput
from visionthink.serve.errors import ApiError
from visionthink.serve.fields import PIXEL
from visionthink.serve.responses import read_responses

CASES = int(os.environ.get("VISIONTHINK_FUZZ_CASES", "2000"))
"""Of each test; 100,000 take some minutes."""
SECRET = "S3cretS3cretS3cret"
"""Stands in values of the requests that are refused, and in no message."""
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": SECRET}, {"type": "image_url", "image_url": {"url": PIXEL}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "user", "content": "And <image>?"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "max_tokens": 5,
    "stop": ["END"],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    "logit_bias": {"50": 1},
    "metadata": {"a": SECRET},
    "n": 1,
    "visionthink": {"mode": "low", "threshold": 0.5, "events": True},
}
RESPONSES: dict[str, Any] = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": SECRET}, {"type": "input_image", "image_url": PIXEL}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
    ],
    "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}},
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
    "tool_choice": {"type": "function", "name": "f"},
    "reasoning": {"effort": "low"},
    "metadata": {"a": SECRET},
    "store": True,
}
ODD = (
    *(None, True, False, 0, 1, -1, 2**63, 10**400, 0.5, 1e308, "", SECRET),
    *("user", "text", "image_url", "<image>", "\u2028", "\x00", [], {}, [SECRET], [[[[]]]], [None]),
    *({"type": SECRET}, {"type": ["text"]}, {"type": "text", "text": SECRET}, {"type": "function", "name": SECRET}),
    *({"role": SECRET}, {"role": {}}, {"role": "user", "content": SECRET}, {SECRET: SECRET}, {"url": SECRET}),
)
WRONG = (b"", b"\x00", b"\xff", b'"', b"{", b"]", b"\\ud800", b"1e999", b",")


def read_image(url: str) -> bytes:
    if url != PIXEL:
        raise ImageError("not a data URL")
    return b"pixels"


def read(body: bytes, which: str) -> Conversation | None:
    """The conversation, or None where it is refused as it must be."""
    try:
        return read_chat(body, read=read_image) if which == "chat" else read_responses(body, read=read_image)[0]
    except ApiError as error:
        assert (error.status, error.type) == (400, "invalid_request_error")
        assert error.code in ("invalid_json", "invalid_value", "unsupported_value", "missing_required_parameter", "invalid_image")
        assert 0 < len(error.message) < 300 and error.message.isprintable()
        assert SECRET not in json.dumps(error.body()) and "pydantic" not in error.message and "object at 0x" not in error.message
        return None


def check(asked: Conversation | None) -> None:
    """What every conversation that is read has."""
    if asked is None:
        return
    assert asked.messages and asked.model
    json.dumps([asked.tools, dict(asked.sampling.more), [dict(m.wire) for m in asked.messages]], allow_nan=False)
    for message in asked.messages:
        for part in message.content:
            if isinstance(part, ImageInput):
                assert part.source == b"pixels" and message.role in ("user", "tool")
            else:
                assert part == disarmed(part)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a record, with each of its keys."""
    found: list[tuple[Any, Any]] = []
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found += [(value, key), *places(value[key])]
    return found


def mutated(record: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A copy in which one to three things are replaced, removed, renamed or said twice."""
    record = json.loads(json.dumps(record))
    for _ in range(rng.randint(1, 3)):
        container, key = rng.choice(places(record))
        what = rng.randrange(5)
        if what == 0:
            del container[key]
        elif what == 1 and isinstance(container, list):
            container.insert(key, json.loads(json.dumps(container[key])))
        elif what == 2 and isinstance(container, dict):
            container[rng.choice([SECRET, "content", "type", "role", "n", "file_id"])] = container.pop(key)
        else:
            container[key] = json.loads(json.dumps(rng.choice(ODD)))
        if not record:
            break
    return record


@pytest.mark.parametrize(("which", "record"), [("chat", CHAT), ("responses", RESPONSES)])
def test_requests_with_something_wrong(which, record):
    assert read(json.dumps(record).encode(), which) is not None
    rng, understood = random.Random(18), 0
    for _ in range(CASES):
        asked = read(json.dumps(mutated(record, rng)).encode(), which)
        check(asked)
        understood += asked is not None
    assert 0.1 < understood / CASES < 0.9  # both happen


@pytest.mark.parametrize(("which", "record"), [("chat", CHAT), ("responses", RESPONSES)])
def test_bodies_with_wrong_bytes(which, record):
    body, rng = json.dumps(record).encode(), random.Random(18)
    for _ in range(CASES):
        cut = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(cut))
            cut[at : at + rng.choice((0, 1, 1, 9))] = rng.choice(
                (b"", b"\x00", b"\xff", b'"', b"{", b"]", b"\\ud800", b"1e999", b",")
            )
        check(read(bytes(cut[: rng.randint(1, len(cut))] if rng.random() < 0.3 else cut), which))


KEYS = ("type", "role", "content", "text", "url", "image_url", "name", "id")
JSON = st.recursive(
    st.sampled_from(ODD) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
FIELDS = sorted({*CHAT, *RESPONSES} - {"model", "messages", "input"})


@settings(max_examples=CASES // 20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    first=st.lists(JSON, max_size=3) | JSON,
    parts=st.lists(JSON, max_size=3),
    more=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3),
)
def test_any_json(first, parts, more):
    said = [{"role": "user", "content": parts}] if parts else first
    for which, name in (("chat", "messages"), ("responses", "input")):
        check(read(json.dumps({"model": "m", name: said, **more}).encode(errors="replace"), which))
