"""The gateway before real servers that serve the embedded model: `transformers serve`, and vLLM on a CPU."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from gateway import asking, data_url, serving
from servers import serving as process
from servers import transformers_serve
from vllm_environment import environment, vllm_python
from wide_heads import widened

import visionthink
from visionthink import run_batch
from visionthink.data import synth
from visionthink.policies.checkpoint import resolve
from visionthink.serve.answering import Answering
from visionthink.serve.app import Gateway
from visionthink.serve.limits import Limits
from visionthink.serve.sources import Images
from visionthink.serve.upstreams import RemoteUpstream

pytestmark = [pytest.mark.slow, pytest.mark.network]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def expected():
    """Transcripts of 50 questions by the engine of this process."""
    model = visionthink.load("tiny", max_new_tokens=16)
    return run_batch([model.episode(example) for example in synth.suite(50)], model.policy)


def answered(url: str, model: str, bodies: list[dict], **options) -> list[dict]:
    """What a gateway before an endpoint answers."""
    opened = visionthink.load(f"{url}#{model}", checkpoint="tiny", max_new_tokens=16, concurrency=8, timeout=60)
    gateway = Gateway(answering=Answering(RemoteUpstream(opened, "m", **options), Images(Limits())))

    async def one(session, address, body):
        async with session.post(f"{address}/v1/chat/completions", json=body) as response:
            return json.loads(await response.text())

    async def run(address):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=8)) as session:
            return await asyncio.gather(*(one(session, address, body) for body in bodies))

    with serving(gateway) as address:
        return asyncio.run(run(address))


def questions() -> list[dict]:
    return [asking(example.question, data_url(example.image)) for example in synth.suite(50)]


def prefaced(number: int, example) -> dict:
    """A question after a system message of its own: without it a prompt is shorter than the 32 tokens of a block of the cache."""
    body = asking(example.question, data_url(example.image))
    body["messages"].insert(0, {"role": "system", "content": f"{number} " * 8})
    return body


def check(records, expected):
    for record, transcript in zip(records, expected, strict=True):
        assert "error" not in record, record
        assert record["choices"][0]["message"]["content"] == transcript.answer
        bill = record["visionthink"]
        assert (bill["looks"], bill["image_tokens"]) == (transcript.looks, transcript.visual_tokens)


def test_before_transformers_serve(expected, tmp_path):
    folder = resolve("tiny")
    command = [sys.executable, str(HERE / "serve_tiny.py"), str(folder)]
    with transformers_serve(command, tmp_path) as url:
        records = answered(url, str(folder), questions())
    check(records, expected)
    assert not any(record["visionthink"]["measured"] for record in records)  # it counts no image tokens


def test_before_vllm(expected, tmp_path):
    """Its own counts of image tokens are those of the bill, and the second round finds the first in its cache."""
    wide = widened(Path(resolve("tiny")), tmp_path / "tiny")
    options = "--served-model-name tiny --dtype float32 --max-model-len 4096 --enforce-eager --max-num-seqs 8 --block-size 32"
    options += ' --enable-prefix-caching --enable-prompt-tokens-details --limit-mm-per-prompt {"image":4,"video":0}'
    command = [str(vllm_python()), str(HERE / "vllm_server.py"), "--model", str(wide), *options.split()]
    with process(command, environment(), seconds=300) as url:
        records = answered(f"{url}/v1", "tiny", questions(), salted=True)
        hard = [example for example in synth.suite(50) if example.need == "hard"]
        again = answered(f"{url}/v1", "tiny", [prefaced(i, e) for i, e in enumerate(hard)], salted=True)
    check(records, expected)
    assert all(record["visionthink"]["measured"] for record in records)
    # the model has never seen a system message, and does not answer every time
    looked = [record for record in again if "error" not in record and record["visionthink"]["looks"]]
    cached = [record["usage"]["prompt_tokens_details"]["cached_tokens"] for record in looked]
    assert cached and min(cached) > 0, cached
