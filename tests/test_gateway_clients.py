"""Libraries and proxies that people reach the gateway by, in an environment of their own."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from environments import ROOT, clean, install, kept
from gateway import asking, data_url, local, serving
from servers import serving as process

import visionthink
from visionthink import run_batch
from visionthink.data import synth

CLIENTS = ("litellm[proxy]", "langchain-openai")


def python() -> Path:
    def build(folder: Path) -> None:
        subprocess.run(["python3", "-m", "venv", "--without-pip", str(folder)], check=True)
        install(folder / "bin" / "python", *CLIENTS)

    return kept("clients-venv", CLIENTS, build) / "bin" / "python"


@pytest.mark.slow
@pytest.mark.network
def test_litellm_and_langchain():
    model = visionthink.load("tiny", max_new_tokens=16)
    example = next(e for e in synth.suite(20) if e.need == "hard")
    [transcript] = run_batch([model.episode(example)], model.policy)
    assert transcript.looks == 1
    with serving(local(model)) as address:
        command = [str(python()), str(Path(__file__).with_name("client_libraries.py")), f"{address}/v1", example.question]
        own = clean() | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # or it asks GitHub for prices
        done = subprocess.run(command, input=data_url(example.image), env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found["answers"].values()) == {transcript.answer} and len(found["answers"]) == 4
    shown = [turn.usage.visual_tokens for turn in transcript.turns]
    assert found["usage"]["litellm"] == shown[0] + sum(shown)  # each round is sent the views before it
    assert found["usage"]["langchain"] == transcript.visual_tokens
    assert found["usage"]["langchain, streamed"] > sum(shown)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory) -> Iterator[Any]:
    """OpenAI's SDK, pointed at LiteLLM's proxy in front of `visionthink serve`. Models: `m`, and `named`, for which it passes on
    headers of clients."""
    openai = pytest.importorskip("openai")
    serve = [sys.executable, "-m", "visionthink", "serve", "--name", "m", "--max-new-tokens", "16"]
    with process(serve, clean() | {"PYTHONPATH": str(ROOT)}, seconds=120) as gateway:
        key = f"sk-{secrets.token_hex(24)}"
        upstream = {"model": "openai/m", "api_base": f"{gateway}/v1", "api_key": "none"}
        config = {
            "model_list": [{"model_name": name, "litellm_params": upstream} for name in ("m", "named")],
            "litellm_settings": {"model_group_settings": {"forward_client_headers_to_llm_api": ["named"]}},
            "general_settings": {"master_key": key},
        }
        file = tmp_path_factory.mktemp("litellm") / "config.yaml"
        file.write_text(json.dumps(config))
        command = [str(python().with_name("litellm")), "--config", str(file)]
        own = clean() | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with process(command, own, seconds=180, ready="/health/liveliness") as url:
            yield openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def hard():
    """A question that the model looks at twice: its answer, and the visual tokens of each turn."""
    model = visionthink.load("tiny", max_new_tokens=16)
    example = next(e for e in synth.suite(20) if e.need == "hard")
    [transcript] = run_batch([model.episode(example)], model.policy)
    return example, transcript.answer, [turn.usage.visual_tokens for turn in transcript.turns]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("detail", ["low", "auto", "high"])
def test_through_litellm_s_proxy(proxied, hard, detail):
    example, answer, (low, full) = hard
    body = asking(example.question, data_url(example.image), detail=detail)
    shown = {"low": [low], "auto": [low, low, full], "high": [full]}[detail]  # the second round is sent the first view again
    raw = proxied.chat.completions.with_raw_response.create(**body)
    whole = raw.parse()
    *pieces, last = proxied.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    streamed = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert whole.choices[0].message.content == streamed
    assert detail == "low" or streamed == answer
    for usage in (whole.usage, last.usage):
        assert usage.prompt_tokens_details.image_tokens == sum(shown)
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens > 0
    # what LiteLLM makes of our own fields
    looks = {"low": 0, "auto": 1, "high": 0}[detail]
    assert whole.visionthink["looks"] == whole.usage.visionthink["looks"] == looks
    assert raw.headers["llm_provider-x-visionthink-looks"] == str(looks)
    assert "x-visionthink-looks" not in raw.headers
    assert not any("visionthink" in (piece.model_extra or {}) for piece in (*pieces, last))
    assert "visionthink" not in (last.usage.model_extra or {})


@pytest.mark.slow
@pytest.mark.network
def test_what_a_client_of_litellm_can_set(proxied, hard):
    example, _, (low, full) = hard
    body = asking(example.question, data_url(example.image), detail="high")

    def tokens(**said: Any) -> int:
        return proxied.chat.completions.create(**body | said).usage.prompt_tokens_details.image_tokens

    header = {"x-visionthink-mode": "low"}
    assert tokens(extra_body={"visionthink": {"mode": "low"}}) == low
    assert tokens(extra_headers=header) == full  # dropped by LiteLLM
    assert tokens(model="named", extra_headers=header) == low


@pytest.mark.slow
@pytest.mark.network
def test_an_error_comes_through_litellm(proxied):
    import openai

    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].content\[1\].image_url: the image: not an image; JPEG, PNG"):
        proxied.chat.completions.create(**asking("Which?", "data:image/png;base64,aGVsbG8="))
