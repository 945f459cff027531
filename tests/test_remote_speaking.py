"""The remote policy, streamed: the same completions as unstreamed, ended early, with functions, with earlier messages."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import math
import re
import time
from pathlib import Path

import pytest
from PIL import Image
from upstream import DONE, USAGE, Script, delta, event, said, streamed, upstream

from visionthink import chatml
from visionthink.data import synth
from visionthink.endpoint import Endpoint, connection
from visionthink.episode import Episode
from visionthink.errors import DataError
from visionthink.menu import Menu
from visionthink.picture import Picture
from visionthink.policies.remote import RemotePolicy
from visionthink.protocol import Protocol
from visionthink.types import Box, CallError, Completion, Earlier, Example, Message, StopReason

ROWS = [json.loads(line) for line in (Path(__file__).parent / "data" / "endpoint_replies.jsonl").read_text("utf-8").splitlines()]
JSON = {"Content-Type": "application/json"}
HISTORY = [Message("user", ("How many?",))]
RESIZE = '{"action": "resize"}'


@pytest.fixture(scope="module")
def serving():
    with upstream() as (server, url):
        yield server, url


@pytest.fixture
def server(serving, monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 600)
    found, _ = serving
    found.scripts[:], found.sent[:], found.gone[:] = [], [], []
    return found


@pytest.fixture(scope="module")
def policies(serving):
    opened = {
        name: RemotePolicy(Endpoint(serving[1], model="m"), protocol=Protocol(name)) for name in ("agent", "plain", "native")
    }
    yield opened
    for policy in opened.values():
        policy.close()


def spoken(policy, history=HISTORY, until=None) -> tuple[list[str], Completion]:
    async def run():
        found = [item async for item in policy.speak(history, until)]
        await policy.aclose()
        return found

    *pieces, completion = asyncio.run(run())
    assert all(isinstance(piece, str) and piece for piece in pieces)
    return pieces, completion


def timeless(completion: Completion) -> Completion:
    return dataclasses.replace(completion, seconds=0.0, first_token_seconds=None)


def uncut(completion: Completion) -> Completion:
    """Without the words of a broken stream, of which only the last ones are known while it comes."""
    error = completion.error
    if error and error.text.startswith("the reply is a stream"):
        error = dataclasses.replace(error, text=error.text.partition(":")[0])
    return dataclasses.replace(timeless(completion), error=error)


def call(name: str, arguments: str, known_as: str = "a") -> dict:
    return {"id": known_as, "type": "function", "function": {"name": name, "arguments": arguments}}


# ------------------------------------------------------------------------------------------------ the same as unstreamed


def whole(row: dict) -> Script:
    body = row["body"]
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    return Script(status=row["status"], headers=JSON, pieces=(data,))


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['server']}: {row['what']}" for row in ROWS])
def test_a_recorded_reply_is_the_same_completion(row, server, policies):
    policy = policies["agent"]
    server.scripts[:] = [whole(row), whole(row)]
    [expected] = policy.complete([HISTORY])
    pieces, completion = spoken(policy)
    assert uncut(completion) == uncut(expected)
    if completion.error is None and row["what"] != "a call left in the thinking":  # which only the completion puts right
        assert "".join(pieces) == completion.text


def cut(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def in_pieces(message: dict, reason: str, size: int, pause: float | None = None) -> Script:
    """A message as a server streams it, with a pause behind each piece, if any."""
    events = [delta(role="assistant", content="")]
    for name in ("reasoning_content", "content", "refusal"):
        events += [delta(**{name: piece}) for piece in cut(message.get(name) or "", size)]
    for n, made in enumerate(message.get("tool_calls", [])):
        named = {"index": n, "id": made["id"], "type": "function"}
        events.append(delta(tool_calls=[named | {"function": {"name": made["function"]["name"], "arguments": ""}}]))
        events += [
            delta(tool_calls=[{"index": n, "function": {"arguments": piece}}])
            for piece in cut(made["function"]["arguments"], size)
        ]
    sent = list(map(event, [*events, delta(reason), USAGE]))
    return streamed(*(part for one in sent for part in ((one, pause) if pause else (one,))), DONE)


REPLIES = [
    ("agent", {"content": "<think>ok</think><answer>7</answer>"}, "stop"),
    ("agent", {"content": "<answer>7</answer>", "reasoning_content": "It is 7. \u2260"}, "stop"),
    ("agent", {"content": "", "reasoning_content": "too small", "tool_calls": [call("resize_image", RESIZE)]}, "tool_calls"),
    ("agent", {"content": "I look.\n", "tool_calls": [call("resize_image", RESIZE)]}, "tool_calls"),
    ("agent", {"content": None, "tool_calls": [call("resize_image", "Infinity")]}, "tool_calls"),
    ("agent", {"content": Protocol().request()}, "stop"),
    ("agent", {"content": "<think>a long thou"}, "length"),
    ("agent", {"content": None, "reasoning_content": "a long thou"}, "length"),
    ("agent", {"content": "\n\n<answer>7</answer>\n <|im_end|>", "reasoning_content": " \n"}, "stop"),
    ("agent", {"content": None, "reasoning_content": "The digit. <answer>7</answer>"}, "stop"),
    ("agent", {"content": None, "reasoning_content": "thinking alone"}, "stop"),
    ("agent", {"content": "", "refusal": "I cannot."}, "content_filter"),
    ("plain", {"content": " seven \U0001f600 "}, "stop"),
    ("plain", {"content": "<thinking>small</thinking>seven"}, "stop"),
    ("plain", {"content": "seven", "tool_calls": [call("other", "{}")]}, "tool_calls"),
    ("native", {"content": "So.", "tool_calls": [call("resize_image", RESIZE), call("weather", "{}", "b")]}, "tool_calls"),
    ("native", {"content": "Let me see.", "tool_calls": [call("weather", '{"city": "Rome"}', "b")]}, "tool_calls"),
    ("native", {"content": "seven", "reasoning_content": "hm"}, "eos_found_somewhere"),
]  # fmt: skip
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("number", range(len(REPLIES)))
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_literal_reply_is_the_same_completion(number, size, server, policies):
    dialect, message, reason = REPLIES[number]
    policy = policies[dialect].with_fields({"tools": [WEATHER]} if dialect == "native" else {})
    record = {"choices": [{"message": message, "finish_reason": reason}], "usage": USAGE["usage"]}
    server.scripts[:] = [Script(headers=JSON, pieces=(json.dumps(record).encode(),)), in_pieces(message, reason, size)]
    [expected] = policy.complete([HISTORY])
    pieces, completion = spoken(policy)
    assert timeless(completion) == timeless(expected)
    if completion.error is None:
        assert (completion.prompt_tokens, completion.cached_tokens, completion.visual_tokens) == (9, 4, 5)
        assert "".join(pieces) == completion.text
        assert bool(pieces) == (completion.first_token_seconds is not None)


def test_pieces_are_what_is_said(server, policies):
    server.scripts[:] = [in_pieces(REPLIES[1][1], "stop", 6, 0.05)]
    pieces, _ = spoken(policies["agent"])
    assert pieces == ["<think>It is ", "7. \u2260", "</think><answe", "r>7</a", "nswer>"]
    server.scripts[:] = [in_pieces(REPLIES[3][1], "tool_calls", 4, 0.05)]
    pieces, _ = spoken(policies["agent"])
    assert pieces == [
        "I lo",
        "ok.",
        "\n",
        '<tool_call>\n{"name": "resize_image", "arguments": {"action": "resize"}}\n</tool_call>',
    ]


# ------------------------------------------------------------------------------------------------ ended early, failed


def test_a_reply_ends_where_enough_was_said(server, policies):
    server.scripts[:] = [streamed(*(part for text in "abcdef" for part in (event(delta(content=text)), 0.05)), end="hang")]
    began = time.monotonic()
    pieces, completion = spoken(policies["plain"], until=lambda text: text.endswith("cd"))
    assert (pieces, timeless(completion)) == (["a", "b", "c", "d"], Completion("abcd"))
    assert 0 < completion.first_token_seconds <= completion.seconds < 1
    while not server.gone and time.monotonic() < began + 2:
        time.sleep(0.01)
    assert server.gone[0] - began < 0.5


def test_a_failure_is_a_completion(server, policies):
    server.scripts[:] = [streamed(event(delta(content="seven")), end="abort")]
    pieces, completion = spoken(policies["plain"])
    assert (pieces, completion.finish_reason, completion.error.kind) == (["seven"], "error", "unreachable")
    server.scripts[:] = [
        Script(status=400, headers=JSON, pieces=(b'{"error": {"message": "too long", "code": "context_length"}}',))
    ]
    pieces, completion = spoken(policies["plain"])
    assert (pieces, completion.error.kind) == ([], "context")


def test_the_only_model_is_found_once_and_its_absence_is_a_completion(serving, server):
    policy = RemotePolicy(Endpoint(serving[1]))
    assert spoken(policy.with_fields({"seed": None}))[1].text == "7" and server.sent[-1]["model"] == "only"
    policy = RemotePolicy(Endpoint("http://127.0.0.1:1/v1", timeout=1, deadline=1))
    [], completion = spoken(policy)
    assert completion.error.kind == "unreachable" and "cannot connect" in completion.error.text


def test_fields_of_one_request(server, serving):
    policy = RemotePolicy(Endpoint(serving[1], model="m"), temperature=0.5, max_new_tokens=9, omit=["seed"])
    other = policy.with_fields({"temperature": None, "seed": 3, "top_p": 0.9, "stop": [], "max_tokens": 4})
    spoken(other)
    spoken(policy)
    fields = [
        {k: v for k, v in body.items() if k not in ("model", "messages", "stream", "stream_options")} for body in server.sent
    ]
    assert fields == [{"top_p": 0.9, "max_tokens": 4}, {"temperature": 0.5, "max_tokens": 9}]


def test_defaults_of_ours_can_be_left_to_the_server(server, serving):
    policy = RemotePolicy(Endpoint(serving[1], model="m"))
    spoken(policy.with_fields({"seed": None, "temperature": None, "max_tokens": None}))
    assert server.sent[0].keys() == {"model", "messages", "stream", "stream_options"}


def test_a_client_is_not_told_the_address_or_the_models(server, serving, caplog, monkeypatch):
    policy = RemotePolicy(Endpoint(serving[1]))
    monkeypatch.setattr(type(serving[0]), "served", ("secret-1", "secret-2"))
    [], completion = spoken(policy)
    assert completion.error.kind == "bad_request" and completion.error.text == (
        "the endpoint does not serve exactly one model, and none was named; whoever runs this server names it as URL#MODEL"
    )
    assert caplog.messages == [f"{serving[1]}: serves secret-1, secret-2; name one as URL#MODEL"]


def test_waiting_for_a_slot_is_a_failure_at_the_deadline(server, serving):
    policy = RemotePolicy(Endpoint(serving[1], model="m", concurrency=1, deadline=0.2))

    async def run() -> list[str | Completion]:
        server.scripts[:] = [streamed(event(delta(content="6")), 1.0, event(delta("stop")), DONE)]
        slow = policy.speak(HISTORY)
        await anext(slow)
        waiting = [item async for item in policy.speak(HISTORY)]
        rest = [item async for item in slow]
        await policy.aclose()
        return [*waiting, *rest]

    waiting, slow = asyncio.run(run())
    assert (waiting.error.kind, waiting.error.text) == ("timeout", "all 1 requests at once were taken until the deadline")
    assert slow.text == "6" and slow.error is None and len(server.sent) == 1


# ------------------------------------------------------------------------------------------------ probabilities of tokens


def probable(*tokens: tuple[str, float | None]) -> dict:
    return {"content": [{"token": text, "logprob": p, "bytes": list(text.encode()), "top_logprobs": []} for text, p in tokens]}


def with_logprobs(text: str, *tokens) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": probable(*tokens), "finish_reason": None}]}


@pytest.mark.parametrize(
    ("events", "texts", "logprobs"),
    [
        ([with_logprobs("six", ("s", -0.5), ("ix", -1)), with_logprobs("", ("</s>", -0.1))], ("s", "ix", ""), (-0.5, -1, -0.1)),
        ([with_logprobs("six", ("six", None))], (), None),
        ([with_logprobs("six", ("six", float("-inf")))], (), None),
        ([with_logprobs("six", ("sax", -1))], (), None),
        ([with_logprobs("six", ("si", -1))], (), None),
        ([delta(content="six")], (), None),
    ],
)  # fmt: skip
def test_probabilities_are_those_of_the_text_or_none(events, texts, logprobs, server, policies):
    server.scripts[:] = [streamed(*map(event, [*events, delta("stop")]), DONE)]
    _, completion = spoken(policies["plain"].with_fields({"logprobs": True}))
    assert (completion.text, completion.token_texts, completion.logprobs) == ("six", texts, logprobs)
    assert server.sent[-1]["logprobs"] is True


@pytest.mark.parametrize(
    ("tokens", "texts"),
    [
        (("h", "m", "</think>", "6", "</s>"), ("<think>h", "m", "</think>", "6", "")),
        (("<think>", "\n", "hm", "\n</think>", "\n\n", "6"), ("", "", "", "", "<think>hm</think>", "6")),
        (("6",), ("<think>hm</think>6",)),
        (("5",), ()),
    ],
)
def test_thinking_that_was_taken_out_hides_no_probability_of_the_answer(tokens, texts, server, policies):
    """Whether its tokens are named as they stand in the text, otherwise, or not at all."""
    named = [{"token": token, "logprob": -1.0} for token in tokens]
    reply = {"message": {"reasoning_content": "hm", "content": "6"}, "logprobs": {"content": named}, "finish_reason": "stop"}
    server.scripts[:] = [Script(headers=JSON, pieces=(json.dumps({"choices": [reply]}).encode(),))]
    [completion] = policies["plain"].complete([HISTORY])
    assert (completion.text, completion.token_texts) == ("<think>hm</think>6", texts)


def test_a_character_of_several_tokens_is_added_by_the_last(server, policies):
    spelled = [{"token": "x", "logprob": -1.0, "bytes": list(part)} for part in (b"\xf0\x9f", b"\x98\x80", b"!")]
    pieces = [{"choices": [{"delta": {"content": text}, "logprobs": {"content": [token]}}]} for text, token in
              zip(("", "\U0001f600", "!"), spelled, strict=True)]  # fmt: skip
    server.scripts[:] = [streamed(*map(event, [*pieces, delta("stop")]), DONE), streamed(*map(event, pieces), end="hang")]
    assert spoken(policies["plain"])[1].token_texts == ("", "\U0001f600", "!")
    ended = spoken(policies["plain"], until=lambda text: "!" in text)[1]
    assert (ended.token_texts, ended.logprobs) == (("", "\U0001f600", "!"), (-1.0, -1.0, -1.0))


@pytest.mark.parametrize(("value", "known"), [(1e-4, (1e-4,)), (0.9, None), (10**400, None), (math.nan, None), (None, None)])
def test_what_is_no_log_probability_is_not_known(value, known, server, policies):
    """A server that gives probabilities, or nothing; rounding above 0 is let pass."""
    named = {"content": [{"token": "6", "logprob": value}]}
    reply = {"message": {"content": "6"}, "logprobs": named, "finish_reason": "stop"}
    server.scripts[:] = [Script(headers=JSON, pieces=(json.dumps({"choices": [reply]}).encode(),))]
    [completion] = policies["plain"].complete([HISTORY])
    assert (completion.text, completion.logprobs) == ("6", known)


# ------------------------------------------------------------------------------------------------ functions beside the text


def episode(serving, replies, *, example=None, picture=None) -> Episode:
    """An episode in the dialect `native`, driven by replies that a server streams to a policy."""
    server, policy = serving
    example = example or synth.draw("digits", 1)
    found = Episode(example, [picture or Picture.open(example.image)], Menu(), Protocol("native"))
    for script in replies:
        server.scripts[:] = [script]
        found.step(spoken(policy, list(found.history))[1])
    return found


def tool_calls(*calls: dict, content: str | None = None) -> Script:
    return in_pieces({"content": content, "tool_calls": list(calls)}, "tool_calls", 5)


def test_a_native_call_and_what_follows_it(server, policies):
    found = episode(
        (server, policies["native"]), [tool_calls(call("resize_image", RESIZE), content="Too small."), streamed(*said("7"))]
    )
    assert found.transcript().stop_reason is StopReason.ANSWERED_AFTER_REQUEST and found.transcript().answer == "7"
    first, second = server.sent
    assert [tool["function"]["name"] for tool in first["tools"]] == ["resize_image"] and first["tools"] == second["tools"]
    [user] = first["messages"]
    assert user["role"] == "user" and "resize" not in json.dumps(user)
    again, turn, answer, shown = second["messages"]
    assert again == user  # a prefix cache finds it
    assert turn == {"role": "assistant", "content": "Too small.", "tool_calls": [call("resize_image", RESIZE, "look00100")]}
    assert answer == {"role": "tool", "tool_call_id": "look00100", "content": "The result is in the next message."}
    assert shown["role"] == "user" and [part["type"] for part in shown["content"]] == ["image_url", "text"]


@pytest.mark.parametrize("arguments", ["Infinity", "not JSON", "{}", '{"action": "zoom"}', '{"action": "resize", "action": '])
def test_arguments_that_are_none_are_answered_with_an_error(arguments, server, policies):
    found = episode((server, policies["native"]), [tool_calls(call("resize_image", arguments)), streamed(*said("7"))])
    assert [turn.action for turn in found.transcript().turns] == ["malformed", "answer"]
    turn, answer, error = server.sent[1]["messages"][1:]
    [made] = turn["tool_calls"]
    assert made["function"]["name"] == "resize_image" and isinstance(json.loads(made["function"]["arguments"]), dict)
    assert answer["tool_call_id"] == made["id"] and error["content"].startswith("The function could not be used: the ")
    assert any(reason.value in error["content"] for reason in CallError)


def test_where_nothing_is_on_offer_no_function_is_sent(server, policies):
    example = synth.draw("digits", 1)
    found = Episode(example, [Picture.open(example.image)], Menu().with_levels([1.0]), Protocol("native"))
    spoken(policies["native"], list(found.history))
    assert "tools" not in server.sent[0]


def test_functions_of_the_client_stand_beside_ours(server, policies):
    policy = policies["native"].with_fields({"tools": [WEATHER], "tool_choice": "auto"})
    both = tool_calls(call("weather", "{}", "w"), call("resize_image", RESIZE))
    theirs = tool_calls(call("weather", '{"city": "Rome"}', "w"))
    found = episode((server, policy), [both, theirs])
    assert [tool["function"]["name"] for tool in server.sent[0]["tools"]] == ["weather", "resize_image"]
    first, last = (message.completion for message in found.history if message.completion)
    assert first.calls == () and "weather" not in first.text  # ours comes first, theirs is dropped
    assert (last.text, last.finish_reason, last.calls) == ("", "stop", (call("weather", '{"city": "Rome"}', "w"),))
    assert found.transcript().stop_reason is StopReason.ANSWERED_AFTER_REQUEST
    forbidden = policy.with_fields({"tool_choice": "none"})
    episode((server, forbidden), [streamed(*said("7"))])
    assert [tool["function"]["name"] for tool in server.sent[-1]["tools"]] == ["resize_image"]
    assert "tool_choice" not in server.sent[-1]


def test_a_function_of_the_client_with_the_name_of_ours_is_refused(policies):
    same = [WEATHER, {"type": "function", "function": {"name": "resize_image"}}]
    with pytest.raises(DataError, match=r"^tools: the model is offered a function 'resize_image' by this"):
        policies["native"].with_fields({"tools": same})
    assert Protocol("native").function_names == ("resize_image",) and Protocol("agent").function_names == ()


def test_in_prompt_mode_a_call_of_the_client_is_no_malformed_request(server, policies):
    policy = policies["agent"].with_fields({"tools": [WEATHER]})
    server.scripts[:] = [tool_calls(call("weather", "{}", ""), content="<think>sunny?</think>")]
    _, completion = spoken(policy)
    [made] = completion.calls
    assert completion.text == "<think>sunny?</think>" and re.fullmatch(r"call_[0-9a-f]{32}", made["id"])
    server.scripts[:] = [tool_calls(call("weather", "{}"), content=Protocol().request())]
    assert spoken(policy)[1].calls == ()  # a request in the text comes first, too
    same = policy.with_fields({"tools": [{"type": "function", "function": {"name": "resize_image"}}]})
    server.scripts[:] = [tool_calls(call("resize_image", RESIZE)), tool_calls(call("resize_image", '{"width": 9}'))]
    assert spoken(same)[1].text == Protocol().request()  # the client has one of this name, but this is ours
    assert spoken(same)[1].calls == (call("resize_image", '{"width": 9}'),)


# ------------------------------------------------------------------------------------------------ what was said earlier

EARLIER = (
    ("system", "Be brief."),
    Earlier("user", "Weather? <image>", {"name": "ann"}),
    Earlier("assistant", "", {"tool_calls": [call("weather", "{}", "w")]}),
    Earlier("tool", "sunny", {"tool_call_id": "w"}),
    ("assistant", "Sunny."),
)


def test_earlier_messages_with_calls_are_sent_as_they_were(server, policies):
    picture = Picture(Image.new("RGB", (56, 56), "red"))
    example = Example("a", "What colour?", b"", earlier=EARLIER)
    episode((server, policies["plain"]), [streamed(*said("red"))], example=example, picture=picture)
    system, user, calling, answer, assistant, question = server.sent[0]["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert (user["name"], user["content"][0]["text"], user["content"][1]["type"]) == ("ann", "Weather? ", "image_url")
    assert calling == {"role": "assistant", "content": None, "tool_calls": [call("weather", "{}", "w")]}
    assert answer == {"role": "tool", "content": "sunny", "tool_call_id": "w"}
    assert (assistant, question["content"]) == ({"role": "assistant", "content": "Sunny."}, "What colour?")


@pytest.mark.parametrize("dialect", ["plain", "native", "agent"])
def test_a_conversation_that_ends_with_a_result_ends_with_it(dialect, server, policies):
    """No empty message of the user stands behind it; functions are named all the same."""
    picture = Picture(Image.new("RGB", (448, 448), "red"))
    example = Example("a", "", b"", earlier=EARLIER[:4])
    found = Episode(example, [picture], Menu(), Protocol(dialect))
    spoken(policies[dialect], list(found.history))
    [body] = server.sent
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    assert body["messages"][-1] == {"role": "tool", "content": "sunny", "tool_call_id": "w"}
    assert ("tools" in body) == (dialect == "native")
    unplaced = Protocol(dialect).opening("", found.history[1].content[1:], can_request=True, earlier=[("assistant", "Hm.")])
    assert [message.role for message in unplaced][-2:] == ["assistant", "user"]


def test_a_local_model_is_told_what_only_an_endpoint_can_be_sent():
    with pytest.raises(DataError, match="the tool holds tool_call_id, which only an endpoint can be sent; leave messages with"):
        chatml.opening([Message("tool", ("sunny",), wire={"tool_call_id": "w"})], "chatml")
    with pytest.raises(DataError, match=r"names its function beside the text.*choose another one \(--dialect\)"):
        chatml.opening(Protocol("native").opening("Why?", [], can_request=True), "chatml")


# ------------------------------------------------------------------------------------------------ bytes of views


def sent_images(body: dict) -> list[tuple[str, bytes]]:
    parts = [part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [(url.partition(";")[0], base64.b64decode(url.partition(",")[2])) for url in urls]


def test_a_view_is_encoded_once_and_the_whole_image_is_sent_as_it_came(server, policies, monkeypatch):
    picture = Picture(Image.new("RGB", (448, 448), "red"), encoded=("image/webp", b"the client's bytes"))
    saved = []
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda image, *a, **k: saved.append(image.size) or save(image, *a, **k))
    example = Example("a", "What colour?", b"")
    asking = tool_calls(call("resize_image", RESIZE))
    episode((server, policies["native"]), [asking, streamed(*said("red"))], example=example, picture=picture)
    (low,), (again, full) = map(sent_images, server.sent)
    assert low == again and low[0] == "data:image/png" and full == ("data:image/webp", b"the client's bytes")
    assert saved == [(224, 224)]


def test_a_part_of_the_image_is_not_sent_as_the_whole():
    picture = Picture(Image.new("RGB", (112, 112), "red"), encoded=("image/webp", b"bytes"))
    views = [
        picture.view(box, *size, level=1.0, visual_tokens=4)
        for box, size in ((Box(0, 0, 112, 112), (112, 112)), (Box(0, 0, 112, 112), (56, 56)), (Box(0, 0, 56, 112), (56, 112)))
    ]
    assert [view.encoded[0] for view in views] == ["image/webp", "image/png", "image/png"]
