"""Replies of endpoints: shapes that servers sent, each through a real server on this machine; and whatever else they may send."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import replying, said

from visionthink.data import synth
from visionthink.endpoint import connection
from visionthink.endpoint.finish_reasons import ending_of
from visionthink.endpoint.markup import taken_apart
from visionthink.model import load
from visionthink.protocol import Answer as ReplyAnswer
from visionthink.protocol import Protocol, extract_answer
from visionthink.types import StopReason

ROWS = [json.loads(line) for line in (Path(__file__).parent / "data" / "endpoint_replies.jsonl").read_text("utf-8").splitlines()]
"""Recorded in documentation and threads (`source`), by server; `own` ones vary them. `ends`: stop reason, answer, note."""
EXAMPLE = dataclasses.replace(synth.draw("digits", 1), answer="7")
CLOSER = said({"content": "<answer>closer</answer>"})
"""What the model says when it was shown more."""


@pytest.fixture(scope="module")
def server():
    with replying(lambda _: (200, CLOSER)) as server:
        yield server


@pytest.fixture(scope="module")
def model(server):
    model = load(server.url, deadline=30)
    yield model
    model.policy.close()


@pytest.fixture(autouse=True)
def no_second_attempt(monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 600)  # beyond the deadline


def test_the_table_has_every_server_and_enough_of_each_ending():
    named = {row["server"] for row in ROWS if row["source"] != "own"}
    assert named >= {"vLLM", "SGLang", "llama.cpp", "Ollama", "LM Studio", "OpenRouter", "Azure", "Gemini", "Anthropic"}
    assert (len(ROWS), sum(row["source"] != "own" for row in ROWS)) == (138, 71)  # as docs/reference/endpoints.md says
    assert {row["ends"][0] for row in ROWS} == {"answered", "answered_after_request", "refused", "length", "policy_error"}


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['server']}: {row['what']}" for row in ROWS])
def test_a_recorded_reply(row, server, model):
    server.replies[:] = [(row["status"], row["body"])]
    [transcript] = model.run([EXAMPLE])
    assert [transcript.stop_reason.value, transcript.answer, transcript.turns[-1].note] == row["ends"]


@pytest.mark.parametrize(
    ("ending", "names"),
    [
        ("stop", "stop eos eos_token stop_sequence end_turn STOP tool_calls function_call tool_use COMPLETE FinishReason.STOP"),
        ("length", "length max_tokens MAX_TOKENS model_length max_output_tokens maxTokens FINISH_REASON_MAX_TOKENS incomplete"),
        (
            "refused",
            "content_filter SAFETY RECITATION PROHIBITED_CONTENT BLOCKLIST SPII refusal sensitive content-filter IMAGE_SAFETY "
            "guardrail_intervened ERROR_TOXIC MODEL_ARMOR",
        ),
        ("failed", "error abort cancelled canceled network_error timeout MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL"),
        (
            None,
            "OTHER load FINISH_REASON_UNSPECIFIED LANGUAGE unknown not_finished not_complete end_of_budget stopped_by_user oom "
            "preempted killed terminated client_disconnected partial unfinished userStopped modelUnloaded",
        ),
    ],
)
def test_names_of_finish_reasons(ending, names):
    assert {name: ending_of(name) for name in names.split()} == dict.fromkeys(names.split(), ending)


def test_what_was_counted_is_read_under_other_names(server, model):
    usage = {"input_tokens": 150.0, "output_tokens": 9, "input_tokens_details": {"image_tokens": 30}}
    server.replies[:] = [(200, said({"content": "<answer>7</answer>"}) | {"usage": usage})]
    [transcript] = model.run([EXAMPLE])
    turn = transcript.turns[0].usage
    assert (turn.visual_tokens, turn.text_tokens, turn.output_tokens) == (30, 120, 9)


def test_counts_that_cannot_be_are_none(server, model):
    for usage in ({"prompt_tokens": -1, "completion_tokens": -5}, {"prompt_tokens": "100", "completion_tokens": "5"}):
        server.replies[:] = [(200, said({"content": "7"}) | {"usage": usage})]
        [completion] = model.policy.complete([model.episode(EXAMPLE).history])
        assert (completion.text, completion.prompt_tokens, completion.output_tokens) == ("7", None, None)


@pytest.mark.parametrize(
    ("encoding", "kind", "ends"),
    [
        ("iso-8859-1", "application/json; charset=iso-8859-1", ("5 °C", None)),
        ("utf-8", "application/json; charset=utf-8", ("5 °C", None)),
        ("utf-8-sig", "application/json", ("5 °C", None)),
        ("utf-16", "application/json", ("5 °C", None)),
        ("utf-8", "text/html", ("5 °C", None)),
        (
            "iso-8859-1",
            "application/json",
            (
                None,
                "the reply is no text in its encoding: 'utf-8' codec can't decode byte 0xb0 in position 52: invalid start byte",
            ),
        ),
        ("utf-8", "text/plain; charset=x", (None, "the reply is no text in its encoding: unknown encoding: x")),
    ],
)
def test_the_encoding_of_a_body_is_the_one_it_declares(encoding, kind, ends, server, model, monkeypatch):
    monkeypatch.setattr(server, "headers", {"Content-Type": kind})
    server.replies[:] = [(200, json.dumps(said({"content": "5 °C"}), ensure_ascii=False).encode(encoding))]
    [transcript] = model.run([EXAMPLE])
    assert (transcript.answer, transcript.turns[-1].note) == ends


def test_a_redirect_is_named_and_not_followed(server, model, monkeypatch):
    monkeypatch.setattr(server, "headers", {"Location": "https://h/v1/chat/completions"})
    server.replies[:] = [(307, "")]
    before = len(server.sent)
    [transcript] = model.run([EXAMPLE])
    assert len(server.sent) - before == 1 and transcript.turns[-1].note == (
        "HTTP 307 redirects to https://h/v1/chat/completions, which is not followed; give the address that answers"
    )


@pytest.mark.parametrize(
    "native",
    [
        {"model": "m", "message": {"role": "assistant", "content": "7"}, "done": True},
        {"candidates": [{"content": {"parts": [{"text": "7"}]}, "finishReason": "STOP"}]},
        {"type": "message", "content": [{"type": "text", "text": "7"}], "stop_reason": "end_turn"},
    ],
)
def test_the_reply_of_another_service_is_not_asked_for_again(native, server, model, monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_PAUSE", 0.01)
    server.replies[:] = [(200, native)]
    [transcript] = model.run([EXAMPLE])
    assert transcript.turns[-1].note == f"the reply holds no completion: {json.dumps(native)}"


def test_thinking_in_other_spellings_and_marks_of_the_end():
    whole = ("<think>a</think>\n<answer>7</answer>\n", "a < b </s> c", "the tag <thinking> opens it")
    assert [taken_apart(text) for text in whole] == [("", text) for text in whole]
    assert taken_apart("[THINK]a [/THINK] closes[/THINK]\n7 </s>") == ("a [/THINK] closes", "\n7")
    assert taken_apart(" " * 1_000_000 + "<|im_end|></s>" * 10_000) == ("", "")  # at once


def test_the_thinking_of_a_lost_answer_stays_in_the_transcript(server, model):
    server.replies[:] = [(200, said({"content": None, "reasoning": "It is 7."}))]
    [transcript] = model.run([EXAMPLE])
    assert transcript.turns[0].text == "<think>It is 7.</think>" and transcript.turns[0].failure == "server"


def test_halves_of_a_character_are_joined(server, model):
    halves = [{"choices": [{"delta": {"content": text}}]} for text in ("<answer>\ud83d", "\ude00", "\ud83d</answer>")]
    server.replies[:] = [(200, "".join(f"data: {json.dumps(event)}\n\n" for event in halves) + "data: [DONE]\n\n")]
    [transcript] = model.run([EXAMPLE])
    assert transcript.answer == "😀�"


@pytest.mark.parametrize("depth", [100, 900, 1000, 100_000])
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "place", ['{"error": %s}', '{"choices": [{"message": {"content": %s}}]}', "%s", "data: %s\n\ndata: [DONE]"]
)
def test_a_reply_that_is_nested_deeply(depth, status, place, server, model):
    server.replies[:] = [(status, place % ("[" * depth + "]" * depth))]
    [transcript] = model.run([EXAMPLE])
    assert transcript.stop_reason is StopReason.POLICY_ERROR and transcript.turns[-1].note


def test_thinking_is_an_answer_only_where_the_protocol_finds_one():
    agent, plain = Protocol(), Protocol("plain")
    assert agent.turn_text("", "It is 7.") is None and plain.turn_text("", "It is 7.") is None
    assert all(agent.turn_text(text) is None for text in ("<think>It is 7.", " \n", "<answer> </answer>"))
    assert agent.turn_text("7", "hm") == "<think>hm</think>7"
    assert agent.turn_text("<think>hm</think>7", "hm") == "<think>hm</think>7"  # not said twice
    quoted = "as <answer>your answer</answer>, </think> or <tool_call>"
    assert agent.turn_text("3", quoted) == f"<think>{quoted}</think>3"
    assert extract_answer(agent.turn_text("3", quoted)) == "3"
    assert all(agent.turn_text(text, "hm") is None for text in ("<answer>", "</answer>", "<answer>\u200b</answer>", "\ufeff"))
    call = agent.request()
    assert isinstance(agent.parse(agent.turn_text("<answer>3</answer>", f"no {call}")), ReplyAnswer)
    assert agent.turn_text("", f"closer {call}") == f"closer {call}"
    assert agent.turn_text("", "closer <tool_call>{</tool_call>") is None
    assert plain.turn_text("", f"closer {call}") is None  # a dialect without a tool has no calls


# ------------------------------------------------------------------------------------------------ whatever else may come

CALL = Protocol().request()
TEXTS = st.sampled_from(
    [
        *("", " \n", "7", "<answer>7</answer>", "<answer></answer>", "<think>a", "<think>a</think>", "<think>a</think>7"),
        *("\\boxed{}", CALL, "<tool_call>{</tool_call>", f"<think>{CALL}</think>", "\ud800", "GET_CROPS: ['1']"),
    ]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "type", "code", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
KINDS = st.sampled_from(["text", "output_text", "thinking", "reasoning", "refusal", "tool_use", "image_url", "redacted_thinking"])
ARGUMENTS = st.sampled_from(['{"action": "resize"}', {"action": "resize"}, "", "{", None, '"{}"', [1]])
REASONS = st.sampled_from(
    ["stop", "stop", "end_turn", "length", "SAFETY", "error", "OTHER", "tool_calls", "", None, {"type": "stop"}]
)


def records(rarely: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Replies in whose places `rarely` may stand as well."""
    parts = st.fixed_dictionaries(
        {"type": KINDS | rarely}, optional=dict.fromkeys(("text", "thinking", "refusal"), TEXTS | rarely)
    )
    functions = st.fixed_dictionaries({"name": st.just("resize_image") | rarely, "arguments": ARGUMENTS | rarely})
    calls = st.lists(st.fixed_dictionaries({"function": functions | rarely}), max_size=2)
    thinking = dict.fromkeys(("reasoning_content", "reasoning"), TEXTS | rarely)
    asked = {"tool_calls": calls | rarely, "function_call": st.none() | functions | rarely}
    content = TEXTS | st.none() | st.lists(parts, max_size=3) | rarely
    message = st.fixed_dictionaries({"content": content}, optional={"refusal": st.none() | rarely} | thinking | asked)
    reply = st.fixed_dictionaries({"finish_reason": REASONS | rarely, "message": message | rarely}, optional={"error": rarely})
    older = st.fixed_dictionaries({"finish_reason": REASONS | rarely, "text": TEXTS | rarely})
    others = dict.fromkeys(("usage", "error", "detail", "object", "message", "promptFeedback", "prompt_filter_results"), rarely)
    choices = st.tuples(reply) | st.tuples(reply) | st.tuples(older) | st.lists(reply | rarely, max_size=2) | rarely
    return st.fixed_dictionaries({"choices": choices}, optional=others)


@st.composite
def bodies(draw: Any) -> tuple[int, bytes]:
    """A reply that is generated, or recorded with a piece exchanged; whole, in a list, streamed, cut off or damaged."""
    record = draw(records(st.none()) | records(JUNK) | JUNK | st.sampled_from(ROWS).map(lambda row: row["body"]))
    if isinstance(record, dict) and record and draw(st.integers(0, 5)) == 5:
        record = record | {draw(st.sampled_from(sorted(record))): draw(JUNK)}
    text = record if isinstance(record, str) else json.dumps(record)
    form = draw(st.sampled_from(["whole"] * 8 + ["list", "stream", "ended", "cut", "bytes"]))
    text = {"list": f"[{text}]", "stream": f"data: {text}\n\ndata: {text}\n\n", "ended": f"{text}data: [DONE]"}.get(form, text)
    text = text[: draw(st.integers(0, len(text)))] if form == "cut" else text
    data = text.encode("utf-8", "replace")
    return draw(st.sampled_from([200] * 12 + [400, 404, 422, 500])), b"\xff" + data if form == "bytes" else data


@pytest.fixture(scope="module")
def models(server):
    opened = {name: load(server.url, deadline=30, dialect=name) for name in ("agent", "plain", "compact", "awares")}
    yield opened
    for model in opened.values():
        model.policy.close()


@given(replies=st.lists(bodies(), min_size=6, max_size=6))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_reply_is_an_answer_a_request_a_refusal_or_a_named_failure(replies, server, models):
    """With and without a tool that can be called; nothing raises, and nothing is an empty answer."""
    for name, model in models.items():
        for menu in (None, model.menu.with_levels([1.0])):
            server.replies[:] = list(replies)
            [transcript] = model.run([EXAMPLE], menu)
            last, stop = transcript.turns[-1], transcript.stop_reason
            assert stop is not StopReason.EMPTY, name
            if transcript.answered:
                assert transcript.answer and transcript.answer.strip(), name
            elif stop in (StopReason.POLICY_ERROR, StopReason.REFUSED):
                assert last.note and last.failure, name
            json.dumps(transcript.to_dict()).encode()
            transcript.turns[-1].text.encode()  # can be written to a file
