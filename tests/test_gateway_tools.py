"""The gateway in front of an endpoint that calls functions: ours beside the client's own, which never see each other."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httptools")

from gateway import asking, before, data_url, events, serving, text_of
from PIL import Image
from test_gateway_faults import post
from upstream import delta, event, said, streamed, upstream

from visionthink.policies.gate import Gate

PHOTO = data_url(Image.linear_gradient("L").resize((1344, 1008)).convert("RGB"))
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}},
}


def calling(name: str, arguments: str, known_as: str = "call_1") -> list[bytes]:
    """A streamed reply that calls a function, its arguments in two pieces."""
    call = {"index": 0, "id": known_as, "type": "function", "function": {"name": name, "arguments": arguments[:3]}}
    rest = {"index": 0, "function": {"arguments": arguments[3:]}}
    return [event(delta(tool_calls=[call])), event(delta(tool_calls=[rest])), event(delta("tool_calls")), *said("")[-2:]]


@pytest.fixture
def server():
    with upstream() as (found, url):
        found.url = url
        yield found


@pytest.fixture
def gateway(server):
    with serving(before(server.url, dialect="native")) as address:
        yield address


def roles(body):
    return [message["role"] for message in body["messages"]]


def test_our_function_is_called_and_answered_with_a_picture(gateway, server):
    server.scripts[:] = [streamed(*calling("resize_image", '{"action": "resize"}')), streamed(*said("A dog", "."))]
    status, content = post(gateway, asking("Which animal?", PHOTO))
    record = json.loads(content)
    assert (status, record["choices"][0]["message"]["content"], record["visionthink"]["looks"]) == (200, "A dog.", 1)
    first, second = server.sent
    assert [tool["function"]["name"] for tool in first["tools"]] == ["resize_image"] and roles(first) == ["user"]
    assert roles(second) == ["user", "assistant", "tool", "user"]
    assert second["messages"][1]["tool_calls"][0]["id"] == second["messages"][2]["tool_call_id"]
    assert PHOTO in json.dumps(second["messages"][3]) and "resize_image" not in content


def test_the_clients_function_reaches_the_client_and_its_result_the_model(gateway, server):
    server.scripts[:] = [streamed(*calling("weather", '{"place": "Rome"}')), streamed(*said("Sunny."))]
    asked = asking("What is the weather there?", PHOTO, tools=[WEATHER], stream=True)
    status, content = post(gateway, asked)
    chunks = [record for record in events(content) if record != "[DONE]"]
    [call] = [c for r in chunks for choice in r["choices"] for c in choice["delta"].get("tool_calls", ())]
    assert status == 200 and json.loads(call["function"]["arguments"]) == {"place": "Rome"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert [tool["function"]["name"] for tool in server.sent[0]["tools"]] == ["weather", "resize_image"]
    call.pop("index")
    answered = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    answered.append({"role": "tool", "tool_call_id": call["id"], "content": "25 degrees"})
    status, content = post(gateway, asked | {"messages": [*asked["messages"], *answered]})
    assert (status, text_of(events(content))) == (200, "Sunny.")
    assert roles(server.sent[1]) == ["user", "assistant", "tool"]
    assert server.sent[1]["messages"][2]["content"] == "25 degrees"


def test_arguments_that_are_none_are_told_the_model_and_not_the_client(gateway, server):
    server.scripts[:] = [
        streamed(*calling("resize_image", "Infinity")),
        streamed(*calling("resize_image", '{"action": "resize"}')),
        streamed(*said("7")),
    ]
    status, content = post(gateway, asking("How many?", PHOTO))
    assert status == 200 and json.loads(content)["choices"][0]["message"]["content"] == "7"
    assert "Infinity" not in content


def test_what_is_held_back_flows_after_a_while_and_in_the_last_round_at_once(gateway, server):
    words = [f"w{i} " for i in range(60)]
    paced = [each for piece in said(*words) for each in (piece, 0.01)]  # so that each is read by itself
    server.scripts[:] = [streamed(*paced)]
    status, content = post(gateway, asking("What?", PHOTO, stream=True))
    texts = [c["delta"]["content"] for r in events(content)[:-1] for c in r["choices"] if c["delta"].get("content")]
    assert status == 200 and "".join(texts) == "".join(words).strip()
    assert texts[0].count("w") == 48 and len(texts) > 10
    server.scripts[:] = [streamed(*calling("resize_image", '{"action": "resize"}')), streamed(*paced)]
    status, content = post(gateway, asking("What?", PHOTO, stream=True))
    texts = [c["delta"]["content"] for r in events(content)[:-1] for c in r["choices"] if c["delta"].get("content")]
    assert "".join(texts) == "".join(words).strip() and texts[0].count("w") == 1


def test_a_word_before_the_call_is_not_the_answer(gateway, server):
    """Not streamed: what was said before the call was no answer."""
    call = calling("resize_image", '{"action": "resize"}')
    server.scripts[:] = [streamed(event(delta(content="It may be a cat. ")), *call), streamed(*said("A dog."))]
    status, content = post(gateway, asking("Which animal?", PHOTO))
    assert (status, json.loads(content)["choices"][0]["message"]["content"]) == (200, "A dog.")


def test_the_gate_in_front_of_an_endpoint(server):
    """A token of probability 0.5 in the first answer, and a threshold on either side of it."""

    def sure(text, logprob):
        tokens = {"content": [{"token": text, "logprob": logprob, "top_logprobs": []}]}
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, "logprobs": tokens}
        return event({"choices": [choice]})

    reply = [sure("A", -0.01), sure(" cat", -0.6931), *said("")[-3:]]
    with serving(before(server.url, dialect="native", rule="gate")) as gateway:
        for threshold, answer, rounds in ((0.4, "A cat", 1), (0.6, "A dog.", 2)):
            server.sent.clear()
            server.scripts[:] = [streamed(*reply), streamed(*said("A dog."))]
            status, content = post(gateway, asking("Which animal?", PHOTO, visionthink={"threshold": threshold}))
            record = json.loads(content)
            assert (status, record["choices"][0]["message"]["content"]) == (200, answer)
            assert record["visionthink"]["rule"] == "gate" and record["visionthink"]["rounds"] == rounds
            assert all("tools" not in body for body in server.sent) and server.sent[0]["logprobs"] is True
            assert roles(server.sent[-1]) == ["user"]
        server.scripts[:] = [streamed(*said("A cat"))]
        status, content = post(gateway, asking("Which animal?", PHOTO))
        assert status == 400 and "log-probabilities" in json.loads(content)["error"]["message"]


def test_the_gate_of_a_file_in_front_of_an_endpoint(server, caplog):
    """Entropies are lower bounds from the likeliest tokens. Every answer is audited: kept ones by a question for the full view,
    which is on nobody's bill."""

    def unsure(text, *others):
        likeliest = [{"token": text, "logprob": -0.6931}, *({"token": token, "logprob": p} for token, p in others)]
        tokens = {"content": [{"token": text, "logprob": -0.6931, "top_logprobs": likeliest if others else []}]}
        return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None, "logprobs": tokens}]})

    only_said = [unsure("A cat"), *said("")[-3:]]
    first = [unsure("A cat", ("A dog", -1.3863), ("A cow", -1.3863)), *said("")[-3:]]  # 1/2, 1/4, 1/4: 1.0397 nats
    caplog.set_level("INFO", logger="visionthink.serve")
    for threshold, full, answer, kept, agrees in ((1.1, "A cat", "A cat", True, True), (1.1, "A cow", "A cat", True, False),
                                                   (1.0, "A dog.", "A dog.", False, True)):  # fmt: skip
        caplog.clear()
        server.sent.clear()
        gate = Gate(score="hmax", threshold=threshold)
        with serving(before(server.url, dialect="native", rule="gate", gate=gate, audit=1.0)) as gateway:
            server.scripts[:] = [streamed(*first), streamed(*said(full))]
            status, content = post(gateway, asking("Which animal?", PHOTO))
            server.scripts[:] = [streamed(*only_said)]
            refused, words = post(gateway, asking("Which animal?", PHOTO))
        assert refused == 400 and "needs log-probabilities of the likeliest tokens" in json.loads(words)["error"]["message"]
        record = json.loads(content)
        assert (status, record["choices"][0]["message"]["content"]) == (200, answer)
        assert record["visionthink"]["rounds"] == (1 if kept else 2) and len(server.sent) == 3
        assert (server.sent[0]["logprobs"], server.sent[0]["top_logprobs"]) == (True, 5)
        line, _ = [json.loads(r.message) for r in caplog.records if r.name == "visionthink.serve.metrics"]
        assert line["gate"] == {"score": "hmax", "value": pytest.approx(1.0397, abs=1e-3), "threshold": threshold, "kept": kept,
                                "agrees": agrees}  # fmt: skip


def test_a_model_that_cannot_ask_is_shown_everything_also_where_its_rule_is_named(server):
    server.rest = lambda _: streamed(*said("A dog."))
    with serving(before(server.url, dialect="plain")) as gateway:
        for options in ({}, {"rule": "model"}, {"mode": "auto"}):
            status, content = post(gateway, asking("Which animal?", PHOTO, visionthink=options))
            assert (status, json.loads(content)["visionthink"]["rule"]) == (200, "skipped")
            assert PHOTO in json.dumps(server.sent[-1])
