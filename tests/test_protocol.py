"""The strings, byte for byte, and how replies are read."""

from __future__ import annotations

import hashlib
import time

import pytest

from visionthink.errors import DataError, OptionError
from visionthink.protocol import DIALECTS, Answer, Malformed, Protocol, Request, extract_answer, prompt
from visionthink.types import Box, CallError, ImageView

PROMPTS = {
    "agent_system": "e730df60665863e3",
    "agent_user": "e7d9a95e5afbe2eb",
    "general_system": "820c3746a89158f4",
    "general_user": "bf085a6e12c9d0e2",
    "judge_system": "35e135a53f6a5347",
    "judge_user": "da9816361208f6be",
    "resized": "109a03b55d4b03e4",
    "simple_resize_system": "75357d685f238b6a",
    "simple_resize_user": "01d282c62060b6ac",
    "simple_think_resize_system": "5f308e5edf812d81",
    "simple_think_resize_user": "ccf8da5a1fd88e5b",
    "tool_error": "2edb106ed1bf0694",
    "compact_resized": "602b511c99e7cea8",
    "compact_single_user": "bf085a6e12c9d0e2",
    "compact_tool_error": "96aa41e842ef0233",
    "compact_user": "fa343efd0982b857",
}
"""First 16 digits of the SHA-256 of every published string, and of our compact ones."""

CALL = '<tool_call>\n{"name": "resize_image", "arguments": {"action": "resize"}}\n</tool_call>'


@pytest.fixture
def view(red):
    return ImageView(image=red, box=Box(0, 0, 224, 224), level=0.25, width=112, height=112, visual_tokens=16)


def test_prompts_are_byte_exact():
    digests = {name: hashlib.sha256(prompt(name).encode()).hexdigest()[:16] for name in PROMPTS}
    assert digests == PROMPTS


def test_typo_of_the_published_prompt_is_kept():
    assert prompt("tool_error").endswith("Countinue your reasoning process inside <think> and </think>.")


def test_agent_opening(view):
    system, user = Protocol().opening("What colour?", [view], can_request=True)
    assert system.content == (prompt("agent_system"),)
    head, shown, tail = user.content
    assert head == prompt("agent_user").removesuffix("{question}") and shown is view and tail == "What colour?"


def test_one_level_does_not_mention_the_tool(view):
    for dialect in DIALECTS:
        text = str(Protocol(dialect).opening("What colour?", [view], can_request=False))
        assert "resize" not in text and "Closer" not in text, dialect


def test_the_image_stands_where_the_question_says(view):
    [*_, user] = Protocol("compact").opening("Look: <image> What is it?", [view], can_request=False)
    assert user.content == ("Look: ", view, " What is it?")
    with pytest.raises(DataError, match=r"'<image><image>\?': 2 <image> marks for 1 image\(s\)"):
        Protocol().opening("<image><image>?", [view], can_request=True)


def test_second_turn_is_the_released_string(view):
    head, shown, tail = Protocol().observation([view]).content
    assert head == "<tool_response>\nThe resized image is shown below:\n"
    assert shown is view
    assert tail.startswith("\n</tool_response>\nPlease carefully analyze the content returned from the image resize tool")


@pytest.mark.parametrize(
    "text, reply",
    [
        (f"<think>small</think>{CALL}", Request()),
        (f"  {CALL}\n", Request()),
        ('<tool_call>{"arguments":{"action":"resize"},"name":"resize_image"}</tool_call>', Request()),
        ('<tool_call>\n{\n "name": "resize_image",\n "arguments": { "action": "resize" } }\n</tool_call>', Request()),
        ("<think>x</think><answer>red</answer>", Answer("<think>x</think><answer>red</answer>")),
        ("just red", Answer("just red")),
        (f"<think>no {CALL}</think><answer>red</answer>", Answer(f"<think>no {CALL}</think><answer>red</answer>")),
        (f"<think>no {CALL}</think>{CALL}", Request()),
        (f"<think>{CALL}</think>\n", Request()),
        (f"{CALL}<think>a</think>", Request()),
        (CALL + CALL, Malformed(CallError.REPEATED)),
        ("<tool_call>" + CALL, Malformed(CallError.REPEATED)),
        ('<tool_call>{"name": "resize_image"', Malformed(CallError.UNCLOSED)),
        ("</tool_call><tool_call>{}", Malformed(CallError.UNCLOSED)),
        ("<tool_call>NOT JSON</tool_call>", Malformed(CallError.NOT_JSON)),
        ("<tool_call></tool_call>", Malformed(CallError.NOT_JSON)),
        ("<tool_call>[]</tool_call>", Malformed(CallError.UNKNOWN_FUNCTION)),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", Malformed(CallError.NOT_JSON)),
        ('<tool_call>{"name": "rm", "arguments": {"action": "resize"}}</tool_call>', Malformed(CallError.UNKNOWN_FUNCTION)),
        (
            '<tool_call>{"name": "resize_image", "arguments": {"action": "zoom"}}</tool_call>',
            Malformed(CallError.WRONG_ARGUMENTS),
        ),
        ('<tool_call>{"name": "resize_image", "arguments": null}</tool_call>', Malformed(CallError.WRONG_ARGUMENTS)),
        (
            '<tool_call>{"name": "resize_image", "arguments": {"action": "resize"}, "id": 1}</tool_call>',
            Malformed(CallError.WRONG_ARGUMENTS),
        ),
        ('<tool_call>{"name": "resize_image"}</tool_call>', Malformed(CallError.WRONG_ARGUMENTS)),
    ],
)
def test_parse_tool_call(text, reply):
    assert Protocol("agent").parse(text) == reply
    assert Protocol("compact").parse(text) == reply


@pytest.mark.parametrize(
    "dialect, text, reply",
    [
        ("simple_resize", "hard to see <resize></resize>", Request()),
        ("simple_resize", "<resize>", Malformed(CallError.UNCLOSED)),
        ("simple_resize", "<resize></resize><resize></resize>", Malformed(CallError.REPEATED)),
        ("simple_resize", CALL, Answer(CALL)),
        ("simple_think_resize", "<think>hm</think> <resize>", Request()),
        ("simple_think_resize", "<res<think>hm</think>ize>", Answer("<res<think>hm</think>ize>")),  # a tag is not parted
        ("simple_think_resize", "<resize><resize>", Malformed(CallError.REPEATED)),
        ("general", CALL, Answer(CALL)),
    ],
)
def test_parse_other_dialects(dialect, text, reply):
    assert Protocol(dialect).parse(text) == reply


def test_every_dialect_reads_its_own_request():
    for dialect in ("agent", "compact", "simple_resize", "simple_think_resize"):
        protocol = Protocol(dialect)
        assert protocol.parse(protocol.request()) == Request()
        assert protocol.request_opening in protocol.request()
    with pytest.raises(OptionError):
        _ = Protocol("general").request()


@pytest.mark.parametrize(
    "text, answer",
    [
        ("<answer>red</answer>", "red"),
        ("<answer>red</answer> no, <answer> blue\n</answer>", "blue"),
        ("<think>a</think><answer>\\boxed{B}</answer>", "B"),
        ("<answer>so \\boxed{\\frac{1}{2}}</answer>", "\\frac{1}{2}"),
        ("it is \\boxed{3} or \\boxed{4}", "4"),
        ("<answer>\\boxed{open</answer>", "\\boxed{open"),
        ("<think>maybe red</think> blue", "blue"),
        ("<think>reply as <answer>...</answer>; it is red</think>red", "red"),
        ("<think>as <answer>...</answer></think>\n<answer>red</answer>", "red"),
        ("as <answer>...</answer></think>red", "red"),  # thinking that opened in the prompt
        ("<think>a <think> or <think></think> and <answer>...</answer></think>red", "red"),
        ("<answer>red</answer><think>as <answer>...</answer></think>so it is", "red"),
        ("<think>a <answer>red</answer></think>", "red"),  # nothing behind it
        ("so <think>a <answer>red</answer></think> \u200b\n", "red"),
        ("<think>a <answer>red</answer>", "red"),
        ("<answer>\u200b</answer>", ""),
        ("\ufeff", ""),
        ("<answer></answer>", ""),
        ("<answer>\\boxed{}</answer>", ""),
        ("<answer>unclosed", "<answer>unclosed"),
        ("plain", "plain"),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "dialect, text, good",
    [
        ("agent", "<think>a</think><answer>b</answer>", True),
        ("agent", "\n<think>a</think>\n\n<answer>b</answer>\n", True),
        ("agent", f"<think>a</think>\n{CALL}", True),
        ("agent", "<answer>b</answer>", False),
        ("agent", "<think>a</think><think>a</think><answer>b</answer>", False),
        ("agent", "<think>a</think><answer>b</answer><answer>c</answer>", False),
        ("agent", "<think>a</think>so<answer>b</answer>", False),
        ("agent", "<think>a</think><answer>b</answer> done", False),
        ("agent", f"<think>a</think><answer>b</answer>{CALL}", False),
        ("agent", CALL, False),
        ("agent", "<think><answer>x</answer></think><answer>y</answer>", False),
        ("agent", "<think>a</think><answer><think>b</think></answer>", False),
        ("agent", "<think>a</think><answer>b</think></answer>", False),
        ("agent", "<think>the </tool_call> tag</think><answer>b</answer>", False),
        ("agent", f"<think><answer>x</answer></think>{CALL}", False),
        ("agent", "<think>a</think><tool_call>NOT JSON</tool_call>", False),
        ("agent", f"{CALL}<think>a</think>", False),
        ("compact", "<answer>b</answer>", True),
        ("compact", CALL, True),
        ("compact", "b", False),
        ("compact", f"so {CALL}", False),
        ("general", "<think>a</think><answer>b</answer>", True),
        ("general", f"<think>a</think>{CALL}", False),
        ("simple_resize", "hard to see <resize></resize>", True),
        ("simple_resize", "<resize></resize> please", False),
        ("simple_think_resize", "<think>a</think> <resize>", True),
        ("simple_think_resize", "<resize>", False),
    ],
)
def test_format_to_the_letter(dialect, text, good):
    assert Protocol(dialect).is_well_formed(text) is good


def test_unknown_values_are_refused():
    with pytest.raises(OptionError, match="unknown dialect 'x'; choose from agent"):
        Protocol("x")
    with pytest.raises(OptionError, match="unknown boundary"):
        Protocol("agent", "x")  # type: ignore[arg-type]


def test_thousands_of_messages_are_joined_in_a_time_that_grows_with_their_length():
    """Texts that are added one by one are copied 4,000 times: 50 GB."""
    earlier = [("system", "x" * 6000)] * 4000
    started = time.process_time()
    system, _ = Protocol("plain").opening("Which?", [], can_request=False, earlier=earlier)
    assert time.process_time() - started < 2
    assert len(system.content[0]) == 4000 * 6000 + 3999 * 2
