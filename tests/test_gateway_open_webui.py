"""The requests that Open WebUI sends to an OpenAI-compatible server, and what it reads out of the replies.

Read in its source, version 0.12.4 (`routers/openai.py`, `routers/tasks.py`, `utils/middleware.py`, `utils/payload.py`,
`utils/headers.py`). Its own fields (`metadata`, `chat_id`, `session_id`, `files`, `features`) are taken out before a request
leaves it; a chat is known by headers. Functions of its own are offered with every question from its page. What a user sets for a
model stands in the body itself, options of other servers among it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from gateway import before, data_url, local, serving
from upstream import Script, delta, event, said, streamed, upstream

import visionthink
from visionthink import run_batch
from visionthink.data import synth

JSON = {"Content-Type": "application/json"}
WHO = {
    "Authorization": "Bearer sk-anything",
    "X-OpenWebUI-User-Name": "%C3%85sa Ek",
    "X-OpenWebUI-User-Id": "7f1c6a0e-1111-4222-8333-444455556666",
    "X-OpenWebUI-User-Email": "asa@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Auth-Type": "jwt",
    "X-OpenWebUI-Chat-Id": "0b7f4b9e-aaaa-4bbb-8ccc-ddddeeeeffff",
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_current_timestamp",
        "description": "Get the current time.",
        "parameters": {"type": "object", "properties": {}, "required": []},
    },
}
EXAMPLE = next(example for example in synth.suite(20) if example.need == "hard")
IMAGE = {"type": "image_url", "image_url": {"url": data_url(EXAMPLE.image)}}
ASKED = {"role": "user", "content": [{"type": "text", "text": EXAMPLE.question}, IMAGE]}
CALL = {"id": "call_9", "type": "function", "function": {"name": "get_current_timestamp", "arguments": "{}"}}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"stream": True, "model": "m", "messages": list(messages), **fields}


def task(text: str, **fields: Any) -> dict[str, Any]:
    """A request for a title, tags, follow-up questions, a search query or the rest of a line: text alone, not streamed."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], "stream": False, **fields}


async def send(url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Status, content type and text."""
    content = None if body is None else json.dumps(body)
    async with (
        aiohttp.ClientSession() as session,
        session.request("GET" if body is None else "POST", url, data=content, headers=JSON | (headers or WHO)) as response,
    ):
        return response.status, response.headers.get("Content-Type", ""), await response.text()


def read(url: str, body: Any) -> tuple[str, str, str, dict[str, Any], list[Any]]:
    """Answer, thoughts, reason of the end, usage and calls, out of a stream as Open WebUI reads one: line by line, `data:` before
    each record, everything else passed over."""
    status, kind, text = asyncio.run(send(url, body))
    assert status == 200 and kind.startswith("text/event-stream"), (status, text)
    answer, thoughts, reason, usage, calls = "", "", "", dict[str, Any](), list[Any]()
    lines = [line.removeprefix("data:").strip() for line in text.split("\n") if line.startswith("data:")]
    *records, done = lines
    assert done == "[DONE]"
    for line in records:
        record = json.loads(line)
        assert not {"event", "selected_model_id", "error", "type", "timings"} & record.keys()  # each means something else to it
        usage = record.get("usage") or usage
        for choice in record["choices"][:1]:
            said = choice["delta"]
            assert set(said) <= {"role", "content", "reasoning_content", "tool_calls"}
            answer += said.get("content") or ""
            thoughts += said.get("reasoning_content") or ""
            calls += said.get("tool_calls") or []
            reason = choice["finish_reason"] or reason
    return answer, thoughts, reason, usage, calls


@pytest.fixture(scope="module")
def expected():
    model = visionthink.load("tiny", max_new_tokens=16)
    [transcript] = run_batch([model.episode(EXAMPLE)], model.policy)
    return transcript


@pytest.fixture(scope="module")
def tiny():
    """A gateway with the embedded model."""
    with serving(local(visionthink.load("tiny", max_new_tokens=16))) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def endpoint():
    """An endpoint, and the gateway before it."""
    with upstream() as (server, url), serving(before(url, dialect="native", patience=5)) as address:
        yield server, f"{address}/v1"


@pytest.mark.parametrize("headers", [WHO, {name: value for name, value in WHO.items() if name != "Authorization"}])
def test_the_list_of_models(tiny, headers):
    status, _, text = asyncio.run(send(f"{tiny}/models", headers=headers))
    record = json.loads(text)
    assert status == 200 and "error" not in record
    assert [(model["id"], model.get("name", "m")) for model in record["data"]] == [("m", "m")]
    assert "pipeline" not in record["data"][0]  # else it sends an object as `user`


def test_a_question_about_an_image_with_its_own_functions_beside_it(tiny, expected):
    body = chat(ASKED, stream_options={"include_usage": True}, tools=[TIME])
    answer, _, reason, usage, calls = read(f"{tiny}/chat/completions", body)
    assert (answer, reason, calls) == (expected.answer, "stop", [])
    shown = [turn.usage.visual_tokens for turn in expected.turns]
    assert usage["prompt_tokens_details"]["image_tokens"] == shown[0] + sum(shown)
    counts = [usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    assert all(type(count) is int for count in counts) and counts[0] + counts[1] == counts[2]


def test_a_question_of_an_image_alone(tiny):
    """A text without words is left out of the parts."""
    assert read(f"{tiny}/chat/completions", chat({"role": "user", "content": [IMAGE]}, tools=[TIME]))[2] == "stop"


def test_the_settings_of_a_model(endpoint):
    """Those of chat completions reach the upstream, those of other servers are dropped; none is refused."""
    server, address = endpoint
    known = {
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["###"],
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "reasoning_effort": "low",
        "logit_bias": {"5432": 100, "413": -100},
        "response_format": {"type": "json_object"},
    }
    others = {
        "top_k": 40,
        "min_p": 0.05,
        "mirostat": 1,
        "mirostat_eta": 0.1,
        "mirostat_tau": 5.0,
        "repeat_last_n": 64,
        "repeat_penalty": 1.1,
        "tfs_z": 1,
        "num_ctx": 4096,
        "num_keep": 24,
        "num_batch": 512,
        "num_thread": 4,
        "num_gpu": 1,
        "use_mmap": True,
        "use_mlock": False,
        "think": True,
        "format": "json",
        "keep_alive": "5m",
    }
    server.sent.clear()
    server.scripts = [streamed(*said("a scene"))]
    assert read(f"{address}/chat/completions", chat(ASKED, max_tokens=32, **known, **others))[0] == "a scene"
    [sent] = server.sent
    assert {name: sent.get(name) for name in known} == known and sent["max_tokens"] == 32
    assert not others.keys() & sent.keys()
    # a model whose name begins like one of OpenAI's newer ones
    newer = chat({"role": "developer", "content": "Be brief."}, ASKED, max_completion_tokens=32)
    server.scripts = [streamed(*said("a scene"))]
    assert read(f"{address}/chat/completions", newer)[0] == "a scene"


def test_a_conversation_with_a_function_that_was_called(endpoint):
    """The answer holds the call; what it came to is sent with the whole conversation, with text that is empty beside calls, and
    images that a function gave as a message of the user's."""
    server, address = endpoint
    fields = {"name": "get_current_timestamp", "arguments": "{}"}
    called = [event(delta(tool_calls=[{"index": 0, "id": "call_9", "type": "function", "function": fields}]))]
    server.scripts = [streamed(*called, event(delta("tool_calls")), *said()[-2:])]
    _, _, reason, _, calls = read(f"{address}/chat/completions", chat(ASKED, tools=[TIME]))
    assert reason == "tool_calls" and [(call["index"], call["id"], call["function"]) for call in calls] == [(0, "call_9", fields)]
    server.scripts, server.sent[:] = [streamed(*said("at noon"))], []
    after = [
        {"role": "system", "content": "Today is Monday."},
        ASKED,
        {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_details": [{"type": "reasoning.text"}]},
        {"role": "tool", "tool_call_id": "call_9", "content": '{"current_timestamp": 1}'},
        {"role": "user", "content": [{"type": "text", "text": "Here are the images."}, IMAGE]},
    ]
    assert read(f"{address}/chat/completions", chat(*after, tools=[TIME], stream_options={"include_usage": True}))[0] == "at noon"
    roles = [message["role"] for message in server.sent[0]["messages"]]
    assert roles[-4:] == ["user", "assistant", "tool", "user"]
    assert server.sent[0]["messages"][-2]["tool_call_id"] == "call_9"


def test_an_answer_that_is_to_go_on(endpoint):
    """Its last message is the assistant's, as far as it came."""
    server, address = endpoint
    server.scripts = [streamed(*said("and a square"))]
    body = chat(ASKED, {"role": "assistant", "content": "A circle"})
    assert read(f"{address}/chat/completions", body)[0] == "and a square"
    assert server.sent[-1]["messages"][-1] == {"role": "assistant", "content": "A circle"}


def test_thoughts_are_told_apart(endpoint):
    server, address = endpoint
    thinking = [event(delta(reasoning_content="Hm. ")), *said("a scene")]
    server.scripts = [streamed(*thinking)]
    answer, thoughts, *_ = read(f"{address}/chat/completions", chat(ASKED))
    assert (answer, thoughts.strip()) == ("a scene", "Hm.")


@pytest.mark.parametrize(
    "reply",
    [
        '{ "title": "A Gradient" }',
        '```json\n{"tags": ["Science", "Light"]}\n```',
        '{"follow_ups": ["What is <b>?", "Why {x}?"]}',
        '{"queries": []}',
        '{"text": "and the rest"}',
    ],
)
def test_its_own_tasks(endpoint, reply):
    """JSON arrives as it was said, in the only choice, and is read from the first brace to the last."""
    server, address = endpoint
    server.scripts = [streamed(*said(reply))]
    text = "### Task:\nAnswer in JSON.\n<chat_history>\nUSER: Which?\nASSISTANT: <tool_call>?\n</chat_history>"
    status, kind, content = asyncio.run(send(f"{address}/chat/completions", task(text, max_tokens=1000)))
    record = json.loads(content)
    assert status == 200 and kind.startswith("application/json")
    [choice] = record["choices"]
    told = choice["message"]["content"]
    assert told == reply and json.loads(told[told.find("{") : told.rfind("}") + 1])
    assert not {"output", "event", "error", "selected_model_id"} & record.keys()
    assert type(record["usage"]["total_tokens"]) is int


def test_a_task_for_the_embedded_model(tiny):
    """It was never trained for that, and says something."""
    status, _, content = asyncio.run(send(f"{tiny}/chat/completions", task("### Task:\nMake a title.", max_tokens=1000)))
    assert status == 200 and isinstance(json.loads(content)["choices"][0]["message"]["content"], str)


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_of_the_upstream_is_an_error_with_words(endpoint, stream):
    server, address = endpoint
    refusal = json.dumps({"error": {"message": "no such option", "code": 400}}).encode()
    server.scripts = [Script(status=400, headers=JSON, pieces=[refusal])]
    status, _, text = asyncio.run(send(f"{address}/chat/completions", chat(ASKED) | {"stream": stream}))
    assert status == 400 and "no such option" in json.loads(text)["error"]["message"]


def test_the_responses_api(tiny, expected):
    """A connection of that type has its requests rewritten: the system message becomes the instructions, every image has a
    detail, and functions say `strict`."""
    content = [
        {"type": "input_text", "text": EXAMPLE.question},
        {"type": "input_image", "image_url": IMAGE["image_url"]["url"], "detail": "auto"},
    ]
    body = {
        "stream": True,
        "model": "m",
        "tools": [{"type": "function", "strict": False, **TIME["function"]}],
        "input": [{"type": "message", "role": "user", "content": content}],
    }
    status, _, text = asyncio.run(send(f"{tiny}/responses", body))
    records = [json.loads(line.removeprefix("data:")) for line in text.split("\n") if line.startswith("data:")]
    assert status == 200 and all(record["type"].startswith("response.") for record in records)
    last = records[-1]
    assert last["type"] == "response.completed"
    [item] = [item for item in last["response"]["output"] if item["type"] == "message"]
    assert "".join(part["text"] for part in item["content"]) == expected.answer
    assert last["response"]["usage"]["total_tokens"] > 0
