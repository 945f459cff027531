"""A reply read while it is said: the same pieces however it is cut, and no request among them."""

from __future__ import annotations

import dataclasses

import pytest

from visionthink import Protocol
from visionthink.protocol import DIALECTS, Answer, Piece
from visionthink.types import Call

RESIZE = Protocol("agent").request()
SAID = {
    "level": Call(),
    "region": Call(regions=("1", "3")),
    "box": Call(box=(1, 2, 30, 40)),
}


def request_of(protocol: Protocol) -> str:
    kind = sorted(protocol.asks)[0]
    unit, frame = protocol.coordinates
    return protocol.request(dataclasses.replace(SAID[kind], unit=unit, frame=frame) if kind == "box" else SAID[kind])


def read(protocol: Protocol, parts) -> tuple[str, str, int | None]:
    """Thinking, text, and where the turn has ended."""
    reader = protocol.reader()
    pieces = [piece for part in parts for piece in reader.feed(part)] + reader.finish()
    thought, text = ("".join(piece.text for piece in pieces if piece.kind == kind) for kind in ("thought", "text"))
    return thought, text, reader.end("".join(parts))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_reply_cut_anywhere_reads_like_the_whole(dialect):
    protocol = Protocol(dialect)
    replies = [
        "<think>a < b</think><answer> 12 \n</answer>",
        "plain words",
        "<answer>half",
        "a</think> <answer>x</answer> more",
        "<think>never ends",
        "x < y <tool",
        "",
    ]
    if protocol.can_ask:
        asked = request_of(protocol)
        replies += [asked, f"<think>hm {asked}</think> {asked}", f"Let me see. {asked} and more", f"<answer>no</answer>{asked}"]
        replies += [asked + asked, asked[:-1]]
    for reply in replies:
        whole = read(protocol, [reply])
        assert read(protocol, list(reply)) == whole
        for i in range(len(reply) + 1):
            assert read(protocol, [reply[:i], reply[i:]]) == whole
        if not isinstance(protocol.parse(reply), Answer) and not reply.startswith("<answer>"):
            assert not whole[1], "a request is never shown"


@pytest.mark.parametrize(
    ("dialect", "reply", "thought", "text", "end"),
    [
        ("agent", "<think>a < b</think><answer> 12 \n</answer>", "a < b", "12", 42),
        ("agent", "no tags", "", "no tags", None),
        ("agent", "a</think> <answer>x</answer> more", "a", "x", 28),
        ("agent", f"Let me see. {RESIZE} and more", "", "", 12 + len(RESIZE)),
        ("agent", f"<answer>no</answer>{RESIZE}", "", "no", 19),
        ("agent", f"<think>{RESIZE}</think><answer>x</answer>", RESIZE, "x", len(RESIZE) + 15 + 18),
        ("agent", "<tool_call>\n{", "", "", None),
        ("simple_think_resize", "<think>small</think><resize>", "small", "", 28),
        ("awares", "GET_CROPS: ['1', '3'] now", "", "", 21),
        ("awares", "It is red.", "", "It is red.", None),
        ("compact_ids", "<look>3</look>", "", "", None),
        ("compact_ids", "<look>3</look><look>4</look>.", "", "", 28),
        ("plain", "a <answer>x</answer>", "", "a <answer>x</answer>", None),
    ],
)
def test_what_is_shown_and_where_the_turn_ends(dialect, reply, thought, text, end):
    assert read(Protocol(dialect), [reply]) == (thought, text, end)


def test_an_answer_flows_and_what_may_become_a_request_is_held():
    reader = Protocol("agent").reader()
    assert reader.feed("<think>The text is ") == [Piece("thought", "The text is")]
    assert reader.feed("small.</think>\n\n") == [Piece("thought", " small.")]
    assert not reader.holding
    assert reader.feed("It sa") == [] and reader.holding
    assert reader.feed("ys <ans") == []
    assert reader.feed("wer>12") == [Piece("text", "12")]
    assert not reader.holding
    assert reader.feed("5 ") == [Piece("text", "5")]
    assert reader.feed("km</answer>") == [Piece("text", " km")]
    said = "<think>The text is small.</think>\n\nIt says <answer>125 km</answer>"
    assert not reader.ends(said) and not reader.ends(said + "\n")
    assert reader.ends(said + "\n<")


def test_what_is_held_can_be_released_but_a_request_stays_hidden():
    reader = Protocol("qwen3").reader()
    assert reader.feed("The sign says ") == [] and reader.holding
    assert reader.release() == [Piece("text", "The sign says")]
    assert reader.feed("STOP <tool") == [Piece("text", " STOP")]
    assert reader.feed("_call>{") == [] and reader.finish() == []


def test_nothing_is_held_where_nothing_can_be_asked_for():
    reader = Protocol("agent").reader(can_request=False)
    assert reader.feed("<answer>4") == [Piece("text", "4")]
    assert Protocol("plain").reader().feed("The si") == [Piece("text", "The si")]
    reader = Protocol("qwen3").reader(can_request=False)
    assert reader.feed("No. <tool_call>{}") == [Piece("text", "No.")] and reader.finish() == []
