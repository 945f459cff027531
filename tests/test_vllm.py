"""The vLLM policy beside the local one: vLLM gets the same function of the same tokens with heads of 64, and what the local
policy says of the original is what it has to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from vllm_environment import environment, vllm_python
from vllm_run import examples, full_view, overlong, record, showing
from wide_heads import widened

from visionthink import StopReason, load, run_batch
from visionthink.data import synth
from visionthink.errors import ModelError, OptionError
from visionthink.policies.checkpoint import resolve
from visionthink.policies.forced import ForcedPolicy
from visionthink.policies.local import LocalPolicy

SCRIPT = Path(__file__).parent / "vllm_run.py"


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[dict, dict]:
    """What the vLLM policy did with 24 examples, and what the local one does."""
    folder = tmp_path_factory.mktemp("vllm")
    suite = synth.suite(24)
    assert {e.need for e in suite} == {"easy", "hard"}
    for i, example in enumerate(suite):
        example.image.save(folder / f"{i}.png")
    (folder / "examples.json").write_text(json.dumps([[e.id, e.question] for e in suite]), "utf-8")
    wide = widened(Path(resolve("tiny")), folder / "wide")
    run = subprocess.run(
        [str(vllm_python()), str(SCRIPT), str(folder), str(wide)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout == ""
    model, asked = load("tiny", max_new_tokens=16), examples(folder)
    forced = run_batch([model.episode(e) for e in asked], ForcedPolicy.of(model.policy, model.protocol, "direct"))
    runs = {"many": model.run(asked), "forced": forced, "overlong": model.run([overlong(), asked[0]])}
    local = {name: record(transcripts) for name, transcripts in runs.items()} | {"view": full_view(model.episode(asked[0]))}
    return json.loads((folder / "vllm.json").read_text("utf-8")), local


def without_numbers(transcripts: list[dict]) -> list[dict]:
    """All but times and log-probabilities."""
    kept = json.loads(json.dumps(transcripts))
    for turn in (turn for transcript in kept for turn in transcript["turns"]):
        del turn["logprobs"], turn["usage"]["seconds"], turn["usage"]["first_token_seconds"]
    return kept


def logprobs(transcripts: list[dict]) -> list[float]:
    return [value for transcript in transcripts for turn in transcript["turns"] for value in turn["logprobs"] or ()]


@pytest.mark.parametrize("run", ["many", "one by one"])
@pytest.mark.slow
@pytest.mark.network
def test_transcripts_of_the_local_policy(both, run):
    """Answers, requests, ids, loss mask and bills; the second time everything is found in the prefix cache."""
    vllm, local = both
    assert without_numbers(vllm[run]) == without_numbers(local["many"])
    assert logprobs(vllm[run]) == pytest.approx(logprobs(local["many"]), abs=1e-3)
    assert {t["stop_reason"] for t in vllm[run]} == {"answered", "answered_after_request"}
    assert vllm["hits"] > 0
    assert vllm["value_bytes"] == 4
    for usage in (turn["usage"] for transcript in vllm[run] for turn in transcript["turns"]):
        assert 0 < usage["first_token_seconds"] <= usage["seconds"]


@pytest.mark.slow
@pytest.mark.network
def test_a_forbidden_request(both):
    vllm, local = both
    assert without_numbers(vllm["forced"]) == without_numbers(local["forced"])
    assert logprobs(vllm["forced"]) == pytest.approx(logprobs(local["forced"]), abs=1e-3)
    assert {t["stop_reason"] for t in vllm["forced"]} == {"answered"}


@pytest.mark.slow
@pytest.mark.network
def test_one_that_cannot_be_asked_stops_no_other(both):
    vllm, local = both
    assert without_numbers(vllm["overlong"]) == without_numbers(local["overlong"])
    assert vllm["overlong"][0]["stop_reason"] == StopReason.POLICY_ERROR
    good, many_images, mistold, last = vllm["refused"]
    assert good[0] == last[0] == "stop" and good[2] == last[2] == vllm["many"][0]["turns"][0]["text"]
    assert many_images[0] == "error" and "At most 2 image(s)" in many_images[1]
    assert mistold[0] == "error" and "it sees images of other sizes" in mistold[1]


@pytest.mark.slow
@pytest.mark.network
def test_sampling_is_a_function_of_the_seed(both, tiny):
    """At temperature 2; the log-probabilities are those at temperature 1."""
    vllm, local = both
    first, again, other = [[tuple(ids) for ids, _ in drawn] for drawn in vllm["drawn"]]
    assert first == again != other
    assert len(set(first)) > 1
    policy = LocalPolicy(tiny)
    assert not {i for ids in first + other for i in ids} & set(policy.renderer.never_sampled)
    for ids, said in vllm["drawn"][0]:
        inputs = policy.model_inputs([vllm["drawn from"] + ids], [showing(local["view"])])
        with torch.inference_mode():
            scores = tiny.model(**inputs).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
        assert said == pytest.approx(scores[range(len(ids)), ids].tolist(), abs=1e-3)


def test_what_cannot_be_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"pip install 'visionthink\[vllm\]'"):
        load("tiny", engine="vllm")
    with pytest.raises(OptionError, match="choose from transformers, vllm"):
        load("tiny", engine="tensorrt")
    with pytest.raises(OptionError, match="an endpoint has its own"):
        load("http://127.0.0.1:9/v1", engine="vllm")
    for option, value in (("max_new_tokens", 0), ("batch_size", 0), ("temperature", 3)):
        with pytest.raises(OptionError, match=f"{option} {value}"):
            load("tiny", engine="vllm", **{option: value})
