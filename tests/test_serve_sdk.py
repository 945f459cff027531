"""The official client of OpenAI's API reads what the gateway sends, over a real connection."""

from __future__ import annotations

import asyncio
import time

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from scripted_gateway import BILL, CALL, Gateway, running  # noqa: E402

from visionthink.serve.fields import PIXEL  # noqa: E402

pytestmark = pytest.mark.network

QUESTION = {"role": "user", "content": [{"type": "text", "text": "Which?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]}
INPUT = [
    {
        "role": "user",
        "content": [{"type": "input_text", "text": "Which?"}, {"type": "input_image", "image_url": PIXEL, "detail": "low"}],
    }
]
TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
RECORD = {
    "looks": 1,
    "rounds": 2,
    "image_tokens": 80,
    "image_tokens_full": 64,
    "saved": -16,
    "measured": True,
    "rule": "model",
    "seconds": 0.1235,
}


@pytest.fixture(scope="module")
def gateway():
    gateway = Gateway(every=0.25)
    with running(gateway.app) as address:
        gateway.address = address
        yield gateway


@pytest.fixture(scope="module")
def client(gateway):
    """It checks every answer against its own types."""
    with openai.OpenAI(
        base_url=gateway.address + "/v1", api_key="x", max_retries=0, timeout=10, _strict_response_validation=True
    ) as client:
        yield client


def ask(client, model, **options):
    return client.chat.completions.create(model=model, messages=[QUESTION], **options)


def test_a_whole_completion(client, gateway):
    raw = client.chat.completions.with_raw_response.create(model="looks", messages=[QUESTION])
    answer = raw.parse()
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "It is red.", "stop")
    assert choice.message.reasoning_content == "Too small to read."
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", "looks", "chatcmpl-")
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (300, 12, 312)
    assert (usage.prompt_tokens_details.image_tokens, usage.prompt_tokens_details.cached_tokens) == (96, 128)
    assert usage.completion_tokens_details.reasoning_tokens is None
    assert usage.visionthink == answer.visionthink == RECORD
    assert {name: value for name, value in raw.headers.items() if name.startswith("x-visionthink")} == {
        "x-visionthink-looks": "1",
        "x-visionthink-image-tokens": "80",
        "x-visionthink-image-tokens-full": "64",
        "x-visionthink-saved": "-16",
        "x-visionthink-rule": "model",
    }
    assert [part if isinstance(part, str) else len(part.source) for part in gateway.asked[-1].messages[0].content] == [
        "Which?",
        97,
    ]


def test_events_are_told_where_they_are_asked_for(client):
    answer = ask(client, "looks", extra_body={"visionthink": {"events": True}})
    assert [event["type"] for event in answer.visionthink["events"]] == ["looked", "decided", "looked"]
    chunks = list(ask(client, "looks", stream=True, extra_headers={"x-visionthink-events": "true"}))
    assert [chunk.visionthink for chunk in chunks if getattr(chunk, "visionthink", None)] == [
        {
            "type": "looked",
            "turn": 0,
            "views": [
                {"image": 0, "box": [0, 0, 224, 224], "level": 0.25, "width": 112, "height": 112, "visual_tokens": 16},
            ],
        },
        {"type": "decided", "rule": "model", "text": "the model asked to see more"},
        {
            "type": "looked",
            "turn": 1,
            "views": [{"image": 0, "box": [0, 0, 224, 224], "level": 1.0, "width": 224, "height": 224, "visual_tokens": 64}],
        },
        RECORD,
    ]


def test_a_streamed_completion(client):
    chunks = list(ask(client, "looks", stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert [delta.role for delta in deltas] == ["assistant", None, None, None, None, None]
    assert [getattr(delta, "reasoning_content", None) for delta in deltas] == [None, "Too small ", "to read.", None, None, None]
    assert [delta.content for delta in deltas] == ["", None, None, "It is ", "red.", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 5 + ["stop"]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 6
    assert chunks[-2].visionthink == RECORD
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens, chunks[-1].usage.visionthink) == ([], 312, RECORD)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_a_streamed_completion_without_usage_has_the_bill_all_the_same(client):
    chunks = list(ask(client, "plain", stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "It is ", "red.\u2028", None]
    assert [chunk.usage for chunk in chunks] == [None] * 4
    assert chunks[-1].visionthink["saved"] == -16


def test_tool_calls(client):
    answer = ask(client, "tools", tools=TOOLS)
    message = answer.choices[0].message
    assert (answer.choices[0].finish_reason, message.content) == ("tool_calls", "Let me see.")
    assert [call.model_dump() for call in message.tool_calls] == [CALL, CALL | {"id": "call_8"}]
    with client.chat.completions.stream(model="tools", messages=[QUESTION], tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert [call.id for call in final.choices[0].message.tool_calls] == ["call_7", "call_8"]
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"key": "red"}'


def test_what_a_client_is_answered_can_be_sent_back(client, gateway):
    message = ask(client, "tools", tools=TOOLS).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "255, 0, 0"} for call in message.tool_calls]
    client.chat.completions.create(model="plain", messages=[QUESTION, message, *results], tools=TOOLS)
    assert [m.role for m in gateway.asked[-1].messages] == ["user", "assistant", "tool", "tool"]
    assert gateway.asked[-1].messages[1].wire == {"tool_calls": [CALL, CALL | {"id": "call_8"}]}


def test_the_stream_helper_of_the_client(client):
    with client.chat.completions.stream(model="looks", messages=[QUESTION]) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert text == final.choices[0].message.content == "It is red."


@pytest.mark.parametrize(("script", "reason"), [("cut", "length"), ("filtered", "content_filter")])
def test_other_ends(client, script, reason):
    assert ask(client, script).choices[0].finish_reason == reason
    assert list(ask(client, script, stream=True))[-1].choices[0].finish_reason == reason


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_anything_is_said_has_a_status(client, stream):
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, "fails_at_once", stream=stream)
    assert caught.value.status_code == 429
    assert caught.value.body == {
        "message": "HTTP 429 slow down",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="fails_at_once", input=INPUT, stream=stream)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [("fails_late", "upstream_timeout", "no token for 60 s"), ("stops_short", "upstream_error", "the answer broke off")],
)
def test_a_failure_later_is_an_event_and_never_half_an_answer(client, script, code, words):
    said = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in ask(client, script, stream=True):
            said.append(chunk.choices[0].delta.content)
    assert (said, caught.value.code, caught.value.message) == (["", "It is"], code, words)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, script)
    assert caught.value.code == code


def test_a_failure_after_the_headers_where_nothing_was_said(client):
    with pytest.raises(openai.APIError) as caught:
        list(ask(client, "slow_to_fail", stream=True))
    assert (caught.value.code, caught.value.message) == ("upstream_error", "HTTP 500")
    [*_, last] = client.responses.create(model="slow_to_fail", input=INPUT, stream=True)
    assert (last.type, last.response.error.code, last.response.error.message) == ("response.failed", "server_error", "HTTP 500")


def test_errors_of_a_request(client):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "plain", n=2)
    assert (caught.value.param, caught.value.code, caught.value.type) == ("n", "unsupported_value", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match=r"previous_response_id: is not supported; nothing is stored here"):
        client.responses.create(model="plain", input="Hi", previous_response_id="resp_1")


# ------------------------------------------------------------------------------------------------ the Responses API


def test_a_whole_response(client, gateway):
    answer = client.responses.create(
        model="looks", input=INPUT, instructions="Be brief.", store=True, metadata={"a": "b"}, max_output_tokens=50
    )
    assert (answer.object, answer.status, answer.output_text, answer.error) == ("response", "completed", "It is red.", None)
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text == "Too small to read."
    assert (answer.instructions, answer.metadata, answer.max_output_tokens, answer.store) == ("Be brief.", {"a": "b"}, 50, False)
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (300, 12, 312)
    assert (answer.usage.input_tokens_details.cached_tokens, answer.usage.input_tokens_details.image_tokens) == (128, 96)
    assert answer.visionthink == answer.usage.visionthink == RECORD
    asked = gateway.asked[-1]
    assert [(m.role, m.content[0]) for m in asked.messages] == [("system", "Be brief."), ("user", "Which?")]
    assert (asked.messages[1].content[1].detail, asked.sampling.max_tokens) == ("low", 50)


def test_a_streamed_response(client):
    events = list(client.responses.create(model="looks", input=INPUT, stream=True))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(17))
    assert [event.output_index for event in events[2:-1]] == [0] * 7 + [1] * 7
    assert [e.delta for e in events if e.type.endswith("text.delta")] == ["Too small ", "to read.", "It is ", "red."]
    assert events[0].response.status == events[1].response.status == "in_progress"
    assert (events[0].response.output, events[-1].response.output_text) == ([], "It is red.")
    assert events[-1].response.usage.total_tokens == BILL.prompt_tokens + BILL.completion_tokens


def test_the_response_stream_helper_of_the_client(client):
    with client.responses.stream(model="looks", input=INPUT) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert (text, final.output_text, final.status) == ("It is red.", "It is red.", "completed")


def test_tool_calls_of_a_response_and_their_outputs(client, gateway):
    tools = [{"type": "function", "name": "look_up", "parameters": {"type": "object", "properties": {}}, "strict": False}]
    answer = client.responses.create(model="tools", input=INPUT, tools=tools)
    assert [item.type for item in answer.output] == ["message", "function_call", "function_call"]
    assert [(item.call_id, item.name, item.arguments) for item in answer.output[1:]] == [
        ("call_7", "look_up", '{"key": "red"}'),
        ("call_8", "look_up", '{"key": "red"}'),
    ]
    with client.responses.stream(model="tools", input=INPUT, tools=tools) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output[2].arguments == '{"key": "red"}'
    assert kinds.count("response.function_call_arguments.done") == 2
    outputs = [{"type": "function_call_output", "call_id": item.call_id, "output": "255, 0, 0"} for item in answer.output[1:]]
    client.responses.create(model="plain", input=[*INPUT, *answer.output, *outputs], tools=tools)
    messages = gateway.asked[-1].messages
    assert [m.role for m in messages] == ["user", "assistant", "tool", "tool"]
    assert messages[1].content == ("Let me see.",)
    assert messages[1].wire == {"tool_calls": [CALL, CALL | {"id": "call_8"}]}
    assert gateway.asked[-1].tools[0]["function"]["name"] == "look_up"


@pytest.mark.parametrize(("script", "reason"), [("cut", "max_output_tokens"), ("filtered", "content_filter")])
def test_incomplete_responses(client, script, reason):
    answer = client.responses.create(model=script, input=INPUT)
    assert (answer.status, answer.incomplete_details.reason, answer.output[-1].status) == ("incomplete", reason, "incomplete")
    [*_, last] = client.responses.create(model=script, input=INPUT, stream=True)
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", reason)


def test_a_response_that_fails_late(client):
    events = list(client.responses.create(model="fails_late", input=INPUT, stream=True))
    assert [event.type for event in events[-4:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.failed",
    ]
    assert events[-1].response.status == "failed"
    assert (events[-1].response.error.code, events[-1].response.error.message) == ("server_error", "no token for 60 s")
    assert events[-2].item.status == "incomplete"


def test_events_in_a_stream_of_a_response(client):
    events = list(client.responses.create(model="looks", input=INPUT, stream=True, extra_body={"visionthink": {"events": True}}))
    looked = [event for event in events if hasattr(event, "visionthink")]
    assert [(e.type, e.visionthink["type"]) for e in looked] == [
        ("response.in_progress", "looked"),
        ("response.in_progress", "decided"),
        ("response.in_progress", "looked"),
    ]
    assert [event.sequence_number for event in events] == list(range(20))
    with client.responses.stream(model="looks", input=INPUT, extra_body={"visionthink": {"events": True}}) as stream:
        assert stream.get_final_response().output_text == "It is red."


def test_a_long_silence_is_kept_alive_and_loses_nothing(client):
    assert "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, "slow", stream=True)) == "It is red."


def closed_within(gateway, wanted: int, seconds: float = 0.5) -> bool:
    end = time.monotonic() + seconds
    while gateway.closed.count("endless") < wanted and time.monotonic() < end:
        time.sleep(0.01)
    return gateway.closed.count("endless") == wanted


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_client_that_goes_away_stops_the_answer(client, gateway, api):
    before = gateway.closed.count("endless")
    if api == "chat":
        stream = ask(client, "endless", stream=True)
    else:
        stream = client.responses.create(model="endless", input=INPUT, stream=True)
    next(stream)
    stream.close()
    assert closed_within(gateway, before + 1)


def test_a_client_that_gives_up_waiting_for_a_whole_answer_stops_it(client, gateway):
    before = gateway.closed.count("endless")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(model="endless", messages=[QUESTION])
    assert closed_within(gateway, before + 1)


def test_many_clients_of_which_some_go_away(gateway):
    before = gateway.closed.count("endless")

    async def one(client, i: int) -> str | None:
        stream = await client.chat.completions.create(model="plain" if i % 3 else "endless", messages=[QUESTION], stream=True)
        if i % 3:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        await anext(aiter(stream))
        await stream.close()
        return None

    async def all_of_them() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=gateway.address + "/v1", api_key="x", max_retries=0, timeout=20) as client:
            return await asyncio.gather(*(one(client, i) for i in range(60)))

    said = asyncio.run(all_of_them())
    assert said == ["It is red.\u2028" if i % 3 else None for i in range(60)]
    assert closed_within(gateway, before + 20)
