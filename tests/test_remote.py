"""The remote policy: against `transformers serve` with the shipped tiny model, and against a server that counts and refuses."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
from servers import replying, transformers_serve

from visionthink.data import synth
from visionthink.episode import run_async
from visionthink.errors import OptionError
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.runner import evaluate
from visionthink.model import load
from visionthink.policies.checkpoint import resolve
from visionthink.protocol import Protocol, written_out
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.types import StopReason

SERVE = Path(__file__).parent / "serve_tiny.py"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address of `transformers serve` with the shipped tiny model."""
    with transformers_serve([sys.executable, str(SERVE), resolve("tiny")], tmp_path_factory.mktemp("hub")) as url:
        yield f"{url}#{resolve('tiny')}"


@pytest.mark.slow
@pytest.mark.network
def test_fifty_examples_as_the_local_engine_has_them(served, tmp_path):
    """Answers, requests and tokens, easy and hard."""
    examples = synth.suite(50)
    assert {e.need for e in examples} == {"easy", "hard"}
    remote = load(served, checkpoint="tiny", max_new_tokens=8, concurrency=2)
    local = load("tiny", max_new_tokens=8)
    runs = {
        name: evaluate(
            examples,
            m,
            PolicySpec.parse("adaptive"),
            tmp_path / name,
            suite="mini",
            model_name=name,
            judge=RulesJudge(closed=True),
        )
        for name, m in (("remote", remote), ("local", local))
    }
    remote.policy.close()
    lines = {
        name: [json.loads(line) for line in (tmp_path / name / "transcripts.jsonl").read_text().splitlines()] for name in runs
    }
    for a, b in zip(lines["remote"], lines["local"], strict=True):
        assert a["answer"] == b["answer"] and a["stop_reason"] == b["stop_reason"] and a["verdict"] == b["verdict"]
        assert [t["text"] for t in a["turns"]] == [t["text"] for t in b["turns"]]
        for usage, other in ((x["usage"], y["usage"]) for x, y in zip(a["turns"], b["turns"], strict=True)):
            assert usage["visual_tokens"] == other["visual_tokens"]
            assert usage["text_tokens"] == other["text_tokens"]  # as the server counts the prompt, less the image tokens
    assert 0 < sum(line["stop_reason"] == "answered_after_request" for line in lines["remote"]) < 50
    assert runs["remote"]["accuracy"] == runs["local"]["accuracy"]
    assert runs["remote"]["flops"] == pytest.approx(runs["local"]["flops"], rel=0.02)  # the end of a turn is no token to a server


@pytest.mark.slow
@pytest.mark.network
def test_streamed_episodes_are_those_that_are_asked_whole(served):
    """Pieces, turns and the server's counts; `transformers serve` says them in the last chunk."""
    examples, model, pieces = synth.suite(10), load(served, checkpoint="tiny", max_new_tokens=8), []

    async def stream():
        found = [await run_async(model.episode(example), model.policy, pieces.append) for example in examples]
        await model.policy.aclose()
        return found

    streamed, whole = asyncio.run(stream()), model.run(examples)
    model.policy.close()
    said = [[(t.text, t.usage.visual_tokens, t.usage.text_tokens, t.usage.output_tokens) for t in x.turns] for x in streamed]
    assert said == [[(t.text, t.usage.visual_tokens, t.usage.text_tokens, t.usage.output_tokens) for t in x.turns] for x in whole]
    turns = [turn for transcript in streamed for turn in transcript.turns]
    assert "".join(pieces) == "".join(turn.text for turn in turns)
    assert len(pieces) > len(turns)  # of a busy server several pieces may come at once
    times = [(turn.usage.first_token_seconds, turn.usage.seconds) for turn in turns]
    assert all(0 < first <= seconds for first, seconds in times), times  # the last piece may be the first
    assert {transcript.requested for transcript in streamed} == {False, True}


def reply(message: dict, prompt: int, image: int, reason: str = "stop") -> tuple[int, dict]:
    usage = {"prompt_tokens": prompt, "completion_tokens": 7, "prompt_tokens_details": {"multimodal_tokens": {"image": image}}}
    return 200, {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}


@pytest.fixture
def counting():
    """A server that says what a test puts into `replies`, image tokens counted as vLLM does."""
    with replying(lambda _: (500, "nothing more to say")) as server:
        yield server


@pytest.mark.network
def test_what_the_server_counts_is_written_down(counting):
    call = {"function": {"name": "resize_image", "arguments": '{"action": "resize"}'}}
    counting.replies[:] = [
        reply({"content": "", "reasoning_content": "too small", "tool_calls": [call]}, 150, 30, "tool_calls"),
        reply({"content": "<think>ok</think><answer>7</answer>"}, 400, 150),
    ]
    model = load(counting.url)
    [transcript] = model.run([synth.draw("digits", 1)])
    model.policy.close()
    assert transcript.stop_reason is StopReason.ANSWERED_AFTER_REQUEST and transcript.answer == "7"
    assert transcript.turns[0].text.startswith("<think>too small</think><tool_call>\n")
    assert [t.usage.visual_tokens for t in transcript.turns] == [30, 120]
    assert [t.usage.text_tokens for t in transcript.turns] == [120, 250]
    assert transcript.output_tokens == 14
    contents = [[p for m in body["messages"] if isinstance(m["content"], list) for p in m["content"]] for body in counting.sent]
    images = [[p["image_url"]["url"] for p in parts if "image_url" in p] for parts in contents]
    assert len(images[0]) == 1 and len(images[1]) == 2 and images[0][0] == images[1][0]  # a prefix cache can find it
    assert {body["model"] for body in counting.sent} == {"model"}


@pytest.mark.network
def test_endings_and_failures(counting):
    model = load(counting.url, deadline=3)
    for answer, stop in (
        (reply({"content": "<think>long"}, 9, 4, "length"), StopReason.LENGTH),
        (reply({"content": ""}, 9, 4, "content_filter"), StopReason.REFUSED),
        ((400, {"error": "too long"}), StopReason.POLICY_ERROR),
    ):
        counting.replies[:] = [answer]
        [transcript] = model.run([synth.draw("digits", 1)])
        assert transcript.stop_reason is stop
    assert "HTTP 400" in transcript.turns[-1].note
    model.policy.close()


def test_a_call_is_written_out_as_it_was_said():
    protocol = Protocol()
    assert (
        written_out("", "", [("resize_image", '{"action": "resize"}')]) == protocol.request().rpartition("</think>")[2].lstrip()
    )
    assert "<tool_call>\nnot JSON\n</tool_call>" in written_out("", "", [("resize_image", "not JSON")])


def test_options_that_cannot_be(tmp_path):
    with pytest.raises(OptionError, match="describes what an endpoint serves"):
        load("tiny", checkpoint="tiny")
    with pytest.raises(OptionError, match="not an http address"):
        load("http://")
