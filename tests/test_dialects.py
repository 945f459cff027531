"""What every dialect says to the model and how it reads replies, against published strings and the parsers of the peers."""

from __future__ import annotations

import hashlib
import random
import time
from importlib import resources

import pytest
from calls import canonical, mutated
from PIL import Image

from visionthink import Protocol
from visionthink.protocol import DIALECTS, Answer, Malformed, Request
from visionthink.types import Box, Call, CallError, ImageView

ASKING = [name for name, dialect in DIALECTS.items() if dialect.call]


def a_view():
    return ImageView(image=Image.new("RGB", (56, 56)), box=Box(0, 0, 56, 56), level=1.0, width=56, height=56, visual_tokens=4)


def said(message):
    """The text of a message, views written as `<image>`."""
    return "".join(part if isinstance(part, str) else "<image>" for part in message.content)


# ------------------------------------------------------------------------------------------------ fuzz


def check_mutated_calls(count):
    """Damaged calls of each dialect: never an exception; what is understood can be written and read again; no call lacks its
    opening."""
    understood = dict.fromkeys(ASKING, 0)
    rngs = {dialect: random.Random(dialect) for dialect in ASKING}  # what one dialect meets does not depend on the others
    for n in range(count * len(ASKING)):
        dialect = ASKING[n % len(ASKING)]
        protocol, rng = Protocol(dialect), rngs[dialect]
        text = mutated(canonical(dialect, rng), rng)
        reply = protocol.parse(text)
        protocol.is_well_formed(text)
        if protocol.request_opening not in text:
            assert reply == Answer(text), (dialect, text)
        if isinstance(reply, Request):
            understood[dialect] += 1
            again = protocol.parse(protocol.request(*reply.calls))
            assert isinstance(again, Request), (dialect, text, reply)
            # where no image is named, the first one is meant
            calls = [[(c.box, c.regions, c.level, c.source or 0, c.unit, c.frame) for c in r.calls] for r in (reply, again)]
            assert calls[0] == calls[1], (dialect, text)
    return understood


def test_mutated_calls():
    understood = check_mutated_calls(200)
    assert min(understood.values()) > 5, understood


@pytest.mark.slow
def test_many_mutated_calls():
    understood = check_mutated_calls(6_000)
    assert min(understood.values()) > 200, understood


# ------------------------------------------------------------------------------------------------ published strings

PUBLISHED = """
e730df60665863e3 agent_system
e7d9a95e5afbe2eb agent_user
109a03b55d4b03e4 resized
2edb106ed1bf0694 tool_error
820c3746a89158f4 general_system
bf085a6e12c9d0e2 general_user
75357d685f238b6a simple_resize_system
01d282c62060b6ac simple_resize_user
5f308e5edf812d81 simple_think_resize_system
ccf8da5a1fd88e5b simple_think_resize_user
35e135a53f6a5347 judge_system
da9816361208f6be judge_user
0e37a55ca8ee5dd1 adaptvision_system
e47022ad9c392149 adaptvision_user
e0f6e21381e456ca adaptvision_followup
a7d05e75af7aeec6 awares_system_paper
3255294cb5a1c7ba awares_system_lmms_eval
1fc5b8b5ebdc9b24 deepeyes_system
e46e076069f511f8 deepeyes_user_suffix
5bfb0e5ea533043d deepeyes_v5_system
085ffff308db0a20 deepeyes_v5_user_suffix
1f02ab1e7ee85e55 minio3_system
458eedb7fa145920 minio3_observation
45cd090790afb463 minio3_error_followup
dbf9dd769ad5867b qwen3vl_zoom_system
"""


def test_published_files_are_untouched():
    """The first 16 hexadecimal digits of the SHA-256 of every file that its authors published."""
    folder = resources.files("visionthink") / "prompts"
    for line in PUBLISHED.strip().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((folder / f"{name}.txt").read_bytes()).hexdigest()[:16] == digest, name


# ------------------------------------------------------------------------------------------------ what is said


def opening(dialect, question="How many?", **kwargs):
    messages = Protocol(dialect).opening(question, [a_view()], can_request=True, **kwargs)
    return [(message.role, said(message)) for message in messages]


def test_openings():
    """Roles; how the system turn begins and ends; the user turn to the letter, where it is short."""
    tool_call = '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    suffix = "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  <think>...</think>  "
    suffix += "<tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
    v5 = "\nThink in the mind first, and then decide whether to call tools one or more times OR provide final answer. "
    v5 += "Format strictly as: <think>...</think> <tool_call>...</tool_call> <tool_call>...</tool_call> (if any tools needed) OR "
    v5 += "<answer>...</answer> (if no tools needed)."
    awares = "You are a vision-language model that analyzes images and answers questions about them. If the image"
    for dialect, begins, ends, user in (
        ("awares", awares, "'8': 'right', 'all': 'all'}, otherwise provide your answer.", "<image>How many?"),
        ("awares_released", awares, "'8': 'right', 'all': 'all'} ,otherwise provide your answer.", "<image>How many?"),
        (
            "deepeyes",
            "You are a helpful assistant.\n\n# Tools\nYou may call one or more",
            "}}  \n</tool_call>",
            "How many?" + suffix,
        ),
        ("deepeyes_v5", "You are a helpful assistant.\n\n# Tools\nYou are provided", "}}  \n</tool_call>", "How many?" + v5),
        ("minio3", "You are a helpful assistant. Answer the", "put it within <answer> and </answer>.", "<image>How many?"),
        ("qwen3", "# Tools\n\nYou may call one or more functions", tool_call, "<image>How many?"),
    ):
        [(first, system), (second, text)] = opening(dialect)
        assert (first, second) == ("system", "user")
        assert system.startswith(begins) and system.endswith(ends), dialect
        assert text == (user if user.startswith("<image>") else "<image>" + user), dialect
    system = opening("awares")[0][1]
    assert "respond with GET_CROPS: followed by a list of crop numbers in square brackets (e.g., GET_CROPS: ['3'] or " in system
    assert "avalible <crop_numbers>" in opening("awares_released")[0][1]


def test_opening_of_adaptvision():
    """Its user turn is a format string of Python: one pair of braces remains. The question can hold braces and marks itself."""
    [(_, system), (_, user)] = opening("adaptvision", "Is {Question} <image> \\boxed{{}}?")
    assert system.endswith('{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>')
    assert "absolute pixel coordinates of the current image" in system
    assert user.startswith(
        "Answer the question based on the image provided. You must conduct reasoning within <think> and </think>"
    )
    assert user.endswith(
        "wrap the answer value or choice with \\boxed{}. Here is the image and question:\nIs {Question} <image> \\boxed{{}}?"
    )


def test_opening_of_qwen3_follows_a_system_message():
    messages = opening("qwen3", earlier=[("system", "You are a guide."), ("user", "Hello"), ("assistant", "Hi.")])
    assert [role for role, _ in messages] == ["system", "user", "assistant", "user"]
    assert messages[0][1].startswith("You are a guide.\n\n# Tools\n\nYou may call")


def test_levels_are_named():
    [(_, system), _] = opening("levels", levels=(0.25, 1.0))
    assert "one of 0.25, 1; the next higher" in system


@pytest.mark.parametrize("dialect", ASKING)
def test_without_an_offer_the_tool_is_not_mentioned(dialect):
    protocol = Protocol(dialect)
    text = "".join(said(m) for m in protocol.opening("How many?", [a_view()], can_request=False))
    for word in (protocol.request_opening, "GET_CROPS", "zoom", "resize", "tool", "Where?", "Closer?"):
        assert word not in text, word
    asked = protocol.request(Call(box=(0, 0, 1, 1)))
    assert protocol.parse(asked, can_request=False) == Answer(asked)


FOLLOW_UP = """Please carefully analyze the content returned from the request_local_region tool in combination with the original \
question and image from the user, continue your reasoning process inside <think> and </think> and then write your final \
answer inside <answer> and </answer>."""
ERROR_FOLLOW_UP = """Please analyze the error information obtained from the function tool and adjust your response. Countinue \
your reasoning process inside <think> and </think>."""


def minio3_observation(action):
    return (
        f"After the above Action {action}, here is the the zoom-in image (Observation {action + 1}):\n<image>.\nContinue your "
        "reasoning process inside <think> and </think>. If needed, you can continue to zoom in on the original image or any of "
        "the observations, by outputting <grounding> and </grounding> as before. If the final answer is confirmed, put your "
        "final answer inside <answer> and </answer>."
    )


def test_observations():
    """The user turn that shows one view, or two."""
    suffix = opening("deepeyes", "")[1][1].removeprefix("<image>")
    v5 = opening("deepeyes_v5", "")[1][1].removeprefix("<image>")
    region = "<tool_response>\nThe cropped region of the image is shown below:\n{}\n</tool_response>\n" + FOLLOW_UP
    for dialect, one, two in (
        ("adaptvision", region.format("<image>"), None),
        ("awares", "<image>", "<image><image>"),
        ("awares_released", "<image>", "<image><image>"),
        ("deepeyes", f"<tool_response><image>{suffix}</tool_response>", None),
        ("deepeyes_v5", f"<tool_response><image>{v5}</tool_response>", f"<tool_response><image><image>{v5}</tool_response>"),
        ("minio3", minio3_observation(0), None),
        ("qwen3", "<tool_response>\n<image>\n</tool_response>", "\n".join(["<tool_response>\n<image>\n</tool_response>"] * 2)),
        ("compact_ids", "<image>", "<image><image>"),
    ):
        protocol = Protocol(dialect)
        assert said(protocol.observation([a_view()])) == one, dialect
        assert protocol.observation([a_view()]).role == "user"
        if two is not None:
            assert said(protocol.observation([a_view(), a_view()])) == two, dialect
    assert suffix.startswith("\nThink first, call **image_zoom_in_tool**") and suffix.endswith("<answer>...</answer> ")


def test_minio3_numbers_actions_from_0_and_observations_from_1():
    for action in range(4):
        assert said(Protocol("minio3").observation([a_view()], before=action)) == minio3_observation(action)


def test_errors():
    """The user turn after a call that cannot be followed: fixed sentences, never the text of an exception."""
    in_tags = "<tool_response>\nERROR occurs during the function tool call. Error Information: {}.\n</tool_response>\n"
    for dialect, expected in (
        ("agent", in_tags + ERROR_FOLLOW_UP),
        ("adaptvision", in_tags + ERROR_FOLLOW_UP),
        ("awares", "The crops could not be shown: {}."),
        ("deepeyes", "Error: ZOOM IN ARGUMENTS ARE INVALID"),
        ("deepeyes_v5", "Error: ZOOM IN ARGUMENTS ARE INVALID"),
        ("minio3", "ERROR occurs during grounding. Error Information: {}.\n" + ERROR_FOLLOW_UP),
        ("qwen3", "<tool_response>\nTool Execution Error {}\n</tool_response>"),
    ):
        message = Protocol(dialect).tool_error(CallError.EMPTY_BOX)
        assert message.role == "user"
        assert said(message) == expected.format("the box is empty or lies outside of the image"), dialect


def test_boundary_of_released_checkpoints():
    assert {name for name, dialect in DIALECTS.items() if dialect.boundary == "released"} == {"adaptvision"}


# ------------------------------------------------------------------------------------------------ how replies are read


def reads(dialect, text):
    """A short form of what is read: None for an answer, an error's name, or the calls."""
    reply = Protocol(dialect).parse(text)
    if isinstance(reply, Answer):
        assert reply.text == text
        return None
    return reply.reason.name if isinstance(reply, Malformed) else list(reply.calls)


def regions(*names):
    return [Call(regions=names)]


def test_reading_awares():
    for text, expected in (
        ("It is red.", None),
        ("GET_CROPS: ['0', '5']", regions("0", "5")),
        ("GET_CROPS [3]", regions("3")),
        ("GET_CROPS:[3]", regions("3")),
        ("GET_CROPS[ '3' ]", regions("3")),
        ('GET_CROPS :\n["3",4]', regions("3", "4")),
        ("I need a closer look. GET_CROPS: ['all']", regions("all")),
        ("GET_CROPS: ['all', '3']", regions("all", "3")),
        ("GET_CROPS: ['35']", regions("35")),
        ("GET_CROPS: ['9']", regions("9")),
        ("GET_CROPS: []", "UNKNOWN_REGION"),
        ("GET_CROPS: ['']", "UNKNOWN_REGION"),
        ("GET_CROPS: ['1', ]", "UNKNOWN_REGION"),
        ("GET_CROPS: ['1'", "UNCLOSED"),
        ("GET_CROPS", "UNCLOSED"),
        ("GET_CROPS: ['1'] GET_CROPS: ['2']", "REPEATED"),
    ):
        assert reads("awares", text) == expected, text


def test_reading_awares_as_released():
    """The five cases of its evaluation code, and that the call has to open the reply."""
    for text, expected in (
        ("GET_CROPS: ['3']", "all"),
        ("GET_CROPS [3]", "all"),
        ("GET_CROPS:['0', '5']", "all"),
        ("GET_CROPS:['35']", "35"),
        ("GET_CROPS:['3']", "3"),
        ("GET_CROPS['3']", "3"),
        ("GET_CROPS:[3]", "3"),
        ('GET_CROPS:["3"]', "all"),
        ("GET_CROPS:['9']", "all"),
        ("GET_CROPS:[all]", "all"),
        ("GET_CROPS:[]", "all"),
        ("GET_CROPS", "all"),
        ("Yes. GET_CROPS:['3']", "all"),
    ):
        assert reads("awares_released", text) == regions(*([expected] if expected == "all" else expected)), text
    assert reads("awares_released", "GET CROPS") is None


def tool_call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def zoom(arguments):
    return tool_call("image_zoom_in_tool", arguments)


def test_reading_adaptvision():
    def call(*box):
        return [Call(box=box, unit="px", frame="opening")]

    def region(arguments):
        return tool_call("request_local_region", arguments)

    good = region('{"bbox_2d": [418, 189, 440, 214]}')
    for text, expected in (
        (good, call(418, 189, 440, 214)),
        (f"<think>small</think>{good}", call(418, 189, 440, 214)),
        (f"{good}<answer>5</answer>", call(418, 189, 440, 214)),
        (region('{"bbox_2d": [440, 189, 418.5, 214]}'), call(440, 189, 418.5, 214)),
        ("<answer>5</answer>", None),
        (good * 2, "REPEATED"),
        (good.removesuffix("</tool_call>"), "UNCLOSED"),
        (f"{good}</tool_call>", "UNCLOSED"),
        ("<tool_call>[418, 189, 440, 214]</tool_call>", "UNKNOWN_FUNCTION"),
        ("<tool_call></tool_call>", "NOT_JSON"),
        (zoom('{"bbox_2d": [418, 189, 440, 214]}'), "UNKNOWN_FUNCTION"),
        (region('{"bbox_2d": [418, 189, 440, 214], "label": "sign"}'), "OTHER_ARGUMENTS"),
        (region("{}"), "OTHER_ARGUMENTS"),
        (region("[1]"), "OTHER_ARGUMENTS"),
        (region('{"bbox_2d": [418, 189, 440]}'), "NOT_A_BOX"),
        (region('{"bbox_2d": [418, 189, 440, "214"]}'), "NOT_A_BOX"),
        (region('{"bbox_2d": [418, 189, 440, true]}'), "NOT_A_BOX"),
        (region('{"bbox_2d": [418, 189, 440, NaN]}'), "NOT_A_BOX"),
        (region('{"bbox_2d": [418, 189, 440, 1e400]}'), "NOT_A_BOX"),
        (region('{"bbox_2d": [418, 189, 440, 1' + "0" * 400 + "]}"), "NOT_A_BOX"),
        (region('{"bbox_2d": [[418, 189, 440, 214]]}'), "NOT_A_BOX"),
        (region('{"bbox_2d": ' + "[" * 100_000 + "]" * 100_000 + "}"), "NOT_JSON"),
        (region('{"bbox_2d": [４１８, 189, 440, 214]}'), "NOT_JSON"),
    ):
        assert reads("adaptvision", text) == expected, text[:100]


def test_reading_deepeyes():
    """An answer wins; the last call counts, or with the later version all."""

    def calls(*boxes):
        return [Call(box=box, unit="px", frame="original") for box in boxes]

    one, two = zoom('{"bbox_2d": [1, 2, 30, 40], "label": "sign"}'), zoom('{"bbox_2d": [5, 6, 70, 80]}')
    for text, last, every in (
        (one, calls((1, 2, 30, 40)), calls((1, 2, 30, 40))),
        (one + two, calls((5, 6, 70, 80)), calls((1, 2, 30, 40), (5, 6, 70, 80))),
        (f"<think>x</think>{one}<answer>5</answer>", None, None),
        (f"{one}<answer>5", calls((1, 2, 30, 40)), calls((1, 2, 30, 40))),
        (zoom("{}") + two, calls((5, 6, 70, 80)), "OTHER_ARGUMENTS"),
        (two + zoom("{}"), "OTHER_ARGUMENTS", "OTHER_ARGUMENTS"),
        (zoom('{"bbox_2d": [1, 2, 30, 40], "label": 3}'), "OTHER_ARGUMENTS", "OTHER_ARGUMENTS"),
        (zoom('{"bbox": [1, 2, 30, 40]}'), "OTHER_ARGUMENTS", "OTHER_ARGUMENTS"),
        (f"{one}<tool_call>", "UNCLOSED", "UNCLOSED"),
        ("5", None, None),
    ):
        assert reads("deepeyes", text) == last, text
        assert reads("deepeyes_v5", text) == every, text


def test_reading_minio3():
    """The last call counts; it names the original image or an observation, which are numbered from 1."""

    def ground(box="[0.1, 0.2, 0.3, 0.4]", source='"original_image"'):
        return f'<grounding>{{"bbox_2d": {box}, "source": {source}}}</grounding>'

    def call(source=0, box=(0.1, 0.2, 0.3, 0.4)):
        return [Call(box=box, source=source, unit="fraction", frame="named")]

    for text, expected in (
        (ground(), call()),
        (ground(source='"observation_1"'), call(1)),
        (ground(source='"observation_12"'), call(12)),
        (ground() + ground("[0, 0, 1, 1]", '"observation_2"'), call(2, (0, 0, 1, 1))),
        (f"<think>x</think>{ground()}<answer>5</answer>", call()),
        (ground(source='"observation_0"'), "UNKNOWN_VIEW"),
        (ground(source='"observation_１"'), "UNKNOWN_VIEW"),
        (ground(source='"observation_1\\n"'), "UNKNOWN_VIEW"),
        (ground(source='"image"'), "UNKNOWN_VIEW"),
        (ground(source="1"), "UNKNOWN_VIEW"),
        (ground(source="[" * 900 + "]" * 900), "UNKNOWN_VIEW"),
        (ground("[0.1, 0.2, 0.3]"), "NOT_A_BOX"),
        (ground("__import__('os')"), "NOT_JSON"),
        ('<grounding>{"bbox_2d": [0, 0, 1, 1]}</grounding>', "OTHER_ARGUMENTS"),
        ("<grounding>", "UNCLOSED"),
        ("<answer>5</answer>", None),
    ):
        assert reads("minio3", text) == expected, text[:100]


def test_reading_qwen3():
    """All calls count; img_idx may be left out, as Qwen3.5 does, and means the first image."""

    def call(source, box=(574, 301, 660, 468)):
        return Call(box=box, source=source, unit="permille", frame="user")

    box = '"bbox_2d": [574, 301, 660, 468]'
    for text, expected in (
        (zoom(f'{{{box}, "label": "sign", "img_idx": 0}}'), [call(0)]),
        (zoom(f'{{{box}, "label": "sign", "img_idx": 1.0}}'), [call(1)]),
        (zoom(f'{{{box}, "label": "sign"}}'), [call(None)]),
        (zoom(f"{{{box}}}"), [call(None)]),
        (zoom(f'{{{box}, "img_idx": 1}}') + "\n" + zoom(f'{{{box}, "img_idx": 0}}'), [call(1), call(0)]),
        (zoom(f'{{{box}, "img_idx": 1}}') + "<answer>5</answer>", [call(1)]),
        (zoom(f'{{{box}, "img_idx": -1}}'), "UNKNOWN_VIEW"),
        (zoom(f'{{{box}, "img_idx": 0.5}}'), "UNKNOWN_VIEW"),
        (zoom(f'{{{box}, "img_idx": true}}'), "UNKNOWN_VIEW"),
        (zoom(f'{{{box}, "img_idx": null}}'), "UNKNOWN_VIEW"),
        (zoom(f'{{{box}, "img_idx": NaN}}'), "UNKNOWN_VIEW"),
        (zoom(f'{{{box}, "img": 0}}'), "OTHER_ARGUMENTS"),
        ("It is red.", None),
    ):
        assert reads("qwen3", text) == expected, text


def test_reading_levels():
    def resize(arguments):
        return tool_call("resize_image", arguments)

    for text, expected in (
        (resize('{"action": "resize"}'), [Call()]),
        (resize('{"action": "resize", "level": "full"}'), [Call(level=1.0)]),
        (resize('{"action": "resize", "level": 0.25}'), [Call(level=0.25)]),
        (resize('{"action": "resize", "level": 1}'), [Call(level=1.0)]),
        (resize('{"action": "resize", "level": 2}'), "NOT_ON_OFFER"),
        (resize('{"action": "resize", "level": true}'), "NOT_ON_OFFER"),
        (resize('{"action": "resize", "level": NaN}'), "NOT_ON_OFFER"),
        (resize('{"action": "resize", "level": null}'), "WRONG_LEVEL_ARGUMENTS"),
        (resize('{"level": 1}'), "WRONG_LEVEL_ARGUMENTS"),
        (resize('{"action": "zoom"}'), "WRONG_LEVEL_ARGUMENTS"),
    ):
        assert reads("levels", text) == expected, text
    assert reads("agent", resize('{"action": "resize", "level": 1}')) == "WRONG_ARGUMENTS"


def test_reading_looks():
    cell = [Call(box=(2, 1, 3, 2), unit="cell", frame="original")]
    for text, expected in (
        ("<look>2 1 3 2</look>", cell),
        ("<look>2 1 3 2</look>" * 2, cell * 2),
        ("<look>2 1 3</look>", "NOT_A_BOX"),
        ("<look>２ 1 3 2</look>", "NOT_A_BOX"),
        ("<look>-2 1 3 2</look>", "NOT_A_BOX"),
        ("<look>2 1 3 2", "UNCLOSED"),
        ("<answer>5</answer>", None),
    ):
        assert reads("compact_cells", text) == expected, text
    assert reads("compact_ids", "<look>3</look><look>all</look>") == [Call(regions=("3",)), Call(regions=("all",))]


def test_reading_takes_no_longer_than_the_text_is_long():
    """Texts that make a regular expression try many ways."""
    for dialect in ASKING:
        opens = Protocol(dialect).request_opening
        for text in (
            opens + " " * 50_000,
            opens * 3_000,
            opens + "[" * 50_000,
            "<answer>" * 5_000 + opens,
            "<think>" * 5_000 + opens,
        ):
            started = time.process_time()
            Protocol(dialect).parse(text)
            Protocol(dialect).is_well_formed(text)
            assert time.process_time() - started < 1, (dialect, text[:30])


# ------------------------------------------------------------------------------------------------ format


def test_is_well_formed():
    """A valid request or an answer, once, and nothing beside it; where the dialect thinks, its reasoning first."""
    box = '{"bbox_2d": [1, 2, 30, 40]}'
    local, ground = tool_call("request_local_region", box), Protocol("minio3").request(Call(box=(0, 0, 0.5, 0.5)))
    for dialect, call, several in (
        ("agent", Protocol("agent").request(), False),
        ("levels", Protocol("levels").request(Call(level=1.0)), False),
        ("adaptvision", local, False),
        ("deepeyes", zoom(box), False),
        ("deepeyes_v5", zoom(box), True),
        ("minio3", ground, False),
    ):
        protocol = Protocol(dialect)
        for text, expected in (
            ("<think>x</think><answer>5</answer>", True),
            ("<think>x</think>\n\n<answer>\\boxed{5}</answer>\n", True),
            (f"<think>x</think>{call}", True),
            (f"<think>x</think>\n{call}\n", True),
            (f"<think>x</think>{call}\n{call}", several),
            (call, False),
            ("5", False),
            ("<answer>5</answer>", False),
            ("<think>x</think>5", False),
            ("<think>x</think><answer>5</answer><answer>6</answer>", False),
            ("<think>x</think><think>y</think><answer>5</answer>", False),
            (f"<think>x</think>{call}<answer>5</answer>", False),
            (f"<think>x</think>so {call}", False),
            (f"<think>x</think>{call[:-3]}", False),
        ):
            assert protocol.is_well_formed(text) == expected, (dialect, text)
    for dialect, call, broken in (
        ("awares", "GET_CROPS: ['0', '5']", "GET_CROPS: []"),
        ("qwen3", zoom(box) + "\n" + zoom(box), zoom("{}")),
    ):
        protocol = Protocol(dialect)
        assert protocol.is_well_formed("It is red.") and protocol.is_well_formed(call)
        assert not protocol.is_well_formed(broken) and not protocol.is_well_formed(f"I look. {call}")
    assert Protocol("awares_released").is_well_formed("GET_CROPS:['3']")
    assert not Protocol("awares_released").is_well_formed("GET_CROPS: ['3']")
    for dialect, call in (("compact_ids", "<look>3</look><look>4</look>"), ("compact_cells", "<look>2 1 3 2</look>")):
        protocol = Protocol(dialect)
        assert protocol.is_well_formed("<answer>5</answer>") and protocol.is_well_formed(call)
        assert not protocol.is_well_formed("5") and not protocol.is_well_formed(f"so {call}")


def test_canonical_requests():
    """As demonstrations and forced actions have them."""
    box = Call(box=(1, 2, 30, 40))
    for dialect, calls, expected in (
        ("adaptvision", [box], tool_call("request_local_region", '{"bbox_2d": [1, 2, 30, 40]}')),
        ("deepeyes", [box], zoom('{"bbox_2d": [1, 2, 30, 40]}')),
        ("deepeyes_v5", [box, box], "\n".join([zoom('{"bbox_2d": [1, 2, 30, 40]}')] * 2)),
        ("qwen3", [box], zoom('{"bbox_2d": [1, 2, 30, 40], "label": "region", "img_idx": 0}')),
        ("minio3", [Call(box=(0, 0, 0.5, 1))], '<grounding>{"bbox_2d": [0, 0, 0.5, 1], "source": "original_image"}</grounding>'),
        (
            "minio3",
            [Call(box=(0, 0, 0.5, 1), source=2)],
            '<grounding>{"bbox_2d": [0, 0, 0.5, 1], "source": "observation_2"}</grounding>',
        ),
        ("awares", regions("0", "5"), "GET_CROPS: ['0', '5']"),
        ("awares_released", regions("3"), "GET_CROPS:['3']"),
        ("compact_ids", regions("3"), "<look>3</look>"),
        ("compact_cells", [Call(box=(2, 1, 3, 2), unit="cell")], "<look>2 1 3 2</look>"),
    ):
        assert Protocol(dialect).request(*calls) == expected


def test_what_is_understood_only_in_part_is_malformed():
    for text in ("GET_CROPS: ['0'] ['5']", "GET_CROPS: ['0']['5']", "GET_CROPS: ['0'], '5'"):
        assert reads("awares", text) == "REPEATED", text
    twice = '{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [5, 6, 70, 80]}'
    assert reads("adaptvision", tool_call("request_local_region", twice)) == "NOT_JSON"
    source = '<grounding>{"bbox_2d": [0, 0, 1, 1], "source": "original_image", "source": "observation_1"}</grounding>'
    assert reads("minio3", source) == "NOT_JSON"
    assert reads("levels", tool_call("resize_image", '{"action": "resize", "level": 1, "level": 0.25}')) == "NOT_JSON"
    # the released checkpoints were rewarded by the last of two keys
    assert reads("agent", tool_call("resize_image", '{"action": "zoom", "action": "resize"}')) == [Call()]


def test_other_dialects_tags_are_text_to_the_agent():
    assert Protocol("agent").is_well_formed("<think>the <look> of it</think><answer>5</answer>")
    assert not Protocol("minio3").is_well_formed("<think><grounding>x</grounding></think><answer>5</answer>")
