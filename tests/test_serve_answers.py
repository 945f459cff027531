"""Bills out of real episodes, and errors as OpenAI's API says them."""

from __future__ import annotations

import asyncio
import json
import typing
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("pydantic")
pytest.importorskip("starlette")

from visionthink.episode import Episode
from visionthink.errors import DataError, ImageError, VisionThinkError
from visionthink.menu import Menu
from visionthink.picture import Picture
from visionthink.resolution import ResolutionLadder
from visionthink.serve import chat
from visionthink.serve.bill import Bill
from visionthink.serve.conversation import Conversation, Override
from visionthink.serve.errors import FAILURES, ApiError, of_exception, of_failure
from visionthink.serve.events import CalledTools, Ended, Thought
from visionthink.serve.streaming import Envelope
from visionthink.types import Completion, Example, FailureKind

CALL = '<tool_call>\n{"name": "resize_image", "arguments": {"action": "resize"}}\n</tool_call>'


class Run:
    """An episode with scripted completions."""

    def __init__(self, *said: Completion, levels: tuple[float, ...] = (0.25, 1.0)):
        image = Image.new("RGB", (224, 224))
        episode = Episode(Example("1", "Which?", image), [Picture.open(image)], Menu(ladder=ResolutionLadder(levels)))
        for completion in said:
            episode.step(completion)
        self.transcript, self.said = episode.transcript(), said


def bill_of(*runs: Run, **more: Any) -> Bill:
    said = [completion for run in runs for completion in run.said]
    return Bill.of([run.transcript for run in runs], said, **{"rule": "model", "measured": True, "seconds": 2.0} | more)


LOOKED = Run(
    Completion(CALL, prompt_tokens=100, output_tokens=10),
    Completion("<answer>red</answer>", prompt_tokens=180, output_tokens=3, cached_tokens=96),
)
LOW = Run(Completion("<answer>red</answer>", prompt_tokens=50, output_tokens=4), levels=(0.25,))
FULL = Run(Completion("<answer>blue</answer>", prompt_tokens=98, output_tokens=5), levels=(1.0,))


def test_the_bill_of_an_answer_that_looked_again_costs_more_than_always_full():
    bill = bill_of(LOOKED)
    assert bill == Bill(
        prompt_tokens=280,
        completion_tokens=13,
        prompt_image_tokens=96,  # 16 in the first round, 16 and 64 in the second
        image_tokens=80,
        image_tokens_full=64,
        cached_tokens=96,
        rounds=2,
        looks=1,
        measured=True,
        rule="model",
        seconds=2.0,
    )
    assert bill.saved == -16


def test_the_bill_of_an_answer_from_the_low_view():
    bill = bill_of(LOW, measured=False)
    assert (bill.prompt_tokens, bill.image_tokens, bill.image_tokens_full, bill.saved) == (50, 16, 64, 48)
    assert (bill.rounds, bill.looks, bill.cached_tokens) == (1, 0, None)


def test_the_bill_of_a_gate_has_both_episodes():
    bill = bill_of(LOW, FULL, rule="gate")
    assert (bill.prompt_tokens, bill.completion_tokens, bill.image_tokens, bill.saved) == (148, 9, 80, -16)
    assert (bill.rounds, bill.looks) == (2, 1)


def test_the_bill_of_an_answer_without_images():
    said = [Completion("Hi", prompt_ids=(1, 2, 3), token_ids=(4,))]
    bill = Bill.of([], said, rule="fixed", measured=True, seconds=1.0)
    assert (bill.prompt_tokens, bill.completion_tokens, bill.image_tokens, bill.saved, bill.looks) == (3, 1, 0, 0, 0)


def test_what_nobody_counts_is_estimated_and_said_to_be():
    silent = Run(Completion("<answer>red</answer>"), levels=(0.25,))  # 20 characters
    characters = len(silent.transcript.turns[0].prompt)
    bill = bill_of(silent)
    assert (bill.prompt_tokens, bill.completion_tokens) == (16 + -(-characters // 4), 5)
    assert (bill.image_tokens, bill.measured) == (16, False)
    pieces = Run(
        Completion("<answer>red</answer>", prompt_tokens=50, token_texts=("<answer>", "red", "</answer>")), levels=(0.25,)
    )
    assert (bill_of(pieces).completion_tokens, bill_of(pieces).measured) == (3, False)
    assert bill_of(LOW).measured
    second = Run(Completion(CALL), Completion("<answer>red</answer>"))
    first, again = (len(turn.prompt) for turn in second.transcript.turns)
    said = len(CALL) if not second.transcript.turns[1].restarted else 0
    assert bill_of(second).prompt_tokens == 16 + 80 + -(-first // 4) + -(-(first + said + again) // 4)
    texts = Bill.of([], [Completion("Hi there")], rule="fixed", measured=True, seconds=1.0, asked="How are you?")
    assert (texts.prompt_tokens, texts.completion_tokens, texts.measured) == (3, 2, False)


@pytest.mark.parametrize(("counted", "measured"), [(16, True), (18, False), (64, False)])
def test_a_bill_is_measured_where_the_upstream_counts_images_as_we_do(counted, measured):
    run = Run(Completion("<answer>red</answer>", prompt_tokens=99, output_tokens=4, visual_tokens=counted), levels=(0.25,))
    bill = bill_of(run)
    assert (bill.image_tokens, bill.image_tokens_full, bill.measured) == (counted, 64, measured)


def test_what_a_client_is_told_of_a_bill():
    bill = bill_of(LOW, rule="gate", measured=False, seconds=0.12345678)
    record = {
        "looks": 0,
        "rounds": 1,
        "image_tokens": 16,
        "image_tokens_full": 64,
        "saved": 48,
        "measured": False,
        "rule": "gate",
        "seconds": 0.1235,
    }
    assert bill.record() == record
    assert bill.chat_usage(thought=False) == {
        "prompt_tokens": 50,
        "completion_tokens": 4,
        "total_tokens": 54,
        "prompt_tokens_details": {"image_tokens": 16},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "visionthink": record,
    }
    assert bill.chat_usage(thought=True)["completion_tokens_details"] == {}
    assert bill.responses_usage() == {
        "input_tokens": 50,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "image_tokens": 16},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 54,
        "visionthink": record,
    }


def test_an_envelope_says_whose_answer_it_is():
    asked = Conversation(messages=(), model="m", override=Override(events=True), stream_usage=True)
    one, other = (Envelope.of(asked, "chatcmpl-") for _ in range(2))
    assert one.id != other.id
    assert (len(one.id), one.model, one.events, one.usage) == (9 + 32, "m", True, True)


def test_tool_calls_without_a_text_have_null_for_content():
    async def events():
        yield Thought("Hm")
        yield CalledTools(({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},))
        yield Ended("tool_calls", bill_of(LOW))

    envelope = Envelope(id="chatcmpl-1", created=1, model="m")
    record, headers = asyncio.run(chat.completion(events(), envelope))
    assert record["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "reasoning_content": "Hm",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]
    assert headers["x-visionthink-saved"] == "48"


# ------------------------------------------------------------------------------------------------ errors


def test_every_kind_of_failure_has_a_status_and_a_code():
    assert FAILURES.keys() == set(typing.get_args(FailureKind))
    errors = {kind: of_failure(kind, "x") for kind in FAILURES}
    assert {kind: (error.status, error.code, error.type) for kind, error in errors.items()} == {
        "unreachable": (502, "upstream_unreachable", "server_error"),
        "timeout": (504, "upstream_timeout", "server_error"),
        "rate_limit": (429, "rate_limit_exceeded", "rate_limit_error"),
        "refused": (400, "content_filter", "invalid_request_error"),
        "bad_request": (400, "upstream_refused_request", "invalid_request_error"),
        "no_access": (502, "upstream_no_access", "server_error"),
        "context": (400, "context_length_exceeded", "invalid_request_error"),
        "out_of_memory": (503, "out_of_memory", "server_error"),
        "server": (502, "upstream_error", "server_error"),
        "cancelled": (499, "cancelled", "invalid_request_error"),
    }


def test_words_of_an_upstream_are_one_line_without_data():
    said = f"HTTP 400 cannot\n decode data:image/png;base64,{'A' * 5000} or {'B' * 200}"
    assert of_failure("bad_request", said).message == "HTTP 400 cannot decode ... or ..."
    assert (
        of_failure("bad_request", "redirects to http://10.0.0.7:8000/v1/x, not followed").message
        == "redirects to ... not followed"
    )
    assert len(of_failure("server", "no " * 1000).message) == 300
    assert of_failure("server", " ").message == "the model gave no answer"


def test_exceptions_as_errors():
    image = of_exception(ImageError("a.png: truncated"), "messages[0].content[0].image_url")
    assert image.body() == {
        "error": {
            "message": "messages[0].content[0].image_url: a.png: truncated",
            "type": "invalid_request_error",
            "param": "messages[0].content[0].image_url",
            "code": "invalid_image",
        }
    }
    assert (of_exception(DataError("no image")).status, of_exception(DataError("no image")).code) == (400, "invalid_value")
    for error in (KeyError("a secret"), VisionThinkError("a secret"), RuntimeError()):
        assert of_exception(error).body()["error"]["message"] == "internal error"
    known = ApiError(404, "no such model", code="model_not_found")
    assert of_exception(known) is known


def test_an_error_response():
    response = ApiError(429, "busy", code="too_many_requests", headers={"retry-after": "2"}).response()
    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert json.loads(response.body) == {
        "error": {"message": "busy", "type": "rate_limit_error", "param": None, "code": "too_many_requests"}
    }
    assert [ApiError(status, "x").type for status in (400, 401, 403, 404, 413, 500, 503)] == [
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "invalid_request_error",
        "server_error",
        "server_error",
    ]
