"""Libraries that people reach the gateway by, in an environment of their own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from environments import clean, install, kept
from gateway import data_url, local, serving

import visionthink
from visionthink import run_batch
from visionthink.data import synth

CLIENTS = ("litellm", "langchain-openai")


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
