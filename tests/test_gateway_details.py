"""What an upstream is told of the `detail` that a client has set on an image."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from gateway import asking, data_url, serving
from PIL import Image
from upstream import delta, event, said, streamed, upstream

import visionthink
from visionthink.providers import SIZE_RULES
from visionthink.serve.answering import Answering
from visionthink.serve.app import Gateway
from visionthink.serve.limits import Limits
from visionthink.serve.sources import Images
from visionthink.serve.upstreams import RemoteUpstream

PHOTO = data_url(Image.linear_gradient("L").resize((1024, 768)).convert("RGB"))
ARGUMENTS = '{"action": "resize"}'
ASKS = [
    event(
        delta(
            tool_calls=[{"index": 0, "id": "c", "type": "function", "function": {"name": "resize_image", "arguments": ARGUMENTS}}]
        )
    ),
    event(delta("tool_calls")),
]


def shown(profile: str, detail: str | None, *replies: list[bytes]) -> list[list[dict]]:
    """The `image_url` of each image of each request that an upstream is sent for one question."""
    with upstream() as (server, url):
        server.scripts = [streamed(*pieces) for pieces in replies]
        model = visionthink.load(f"{url}#m", dialect="native", timeout=5, deadline=5)
        model.budget = SIZE_RULES[profile]
        gateway = Gateway(answering=Answering(RemoteUpstream(model, "m"), Images(Limits())))
        with serving(gateway) as address:
            body = asking("What is it?", PHOTO, detail=detail) | {"visionthink": {"rule": "model"}}
            assert asyncio.run(posted(f"{address}/v1/chat/completions", body)) == "a gradient"
    parts = [[part for m in sent["messages"] if isinstance(m["content"], list) for part in m["content"]] for sent in server.sent]
    return [[part["image_url"] for part in each if part["type"] == "image_url"] for each in parts]


async def posted(url: str, body: dict) -> str:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return (await response.json())["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "detail, told", [(None, "high"), ("auto", "high"), ("low", "low"), ("high", "high"), ("original", "original")]
)
def test_a_vendor_with_detail_is_told_it(detail, told):
    [[image]] = shown("openai", detail, said("a gradient"))
    assert image["detail"] == told


def test_both_views_of_an_answer_that_looks_again_are_taken_as_they_are():
    first, second = shown("openai", "auto", ASKS, said("a gradient"))
    assert [image["detail"] for image in (*first, *second)] == ["high", "high", "high"]
    assert first[0] == second[0] and second[1]["url"] != second[0]["url"]


@pytest.mark.parametrize("profile", ["qwen2.5-vl", "claude", "gemini"])
def test_others_are_not_sent_the_field(profile):
    [[image]] = shown(profile, "high", said("a gradient"))
    assert image.keys() == {"url"}
