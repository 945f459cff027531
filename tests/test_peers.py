"""One whole episode of every published system, scripted: what is shown, what it costs, and the token ids of the conversation."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field

import pytest
from PIL import Image

from visionthink import Episode, Example, Picture, Protocol, ScriptedPolicy, chatml, run_async, run_batch
from visionthink.menu import NAMED
from visionthink.policies.render import Renderer, views
from visionthink.protocol import DIALECTS
from visionthink.resolution import QWEN2_5_VL, QWEN3_VL, PixelBudget
from visionthink.types import CallError, ImageView, StopReason

ANSWER = "<think>seen</think><answer>5</answer>"
THINKING = "<think>small</think>"


def tool_call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def zoom(arguments):
    return tool_call("image_zoom_in_tool", arguments)


def ground(box, source):
    return f'{THINKING}<grounding>{{"bbox_2d": {box}, "source": "{source}"}}</grounding>'


@dataclass(frozen=True, kw_only=True)
class Play:
    """A script, and what has to come of it."""

    menu: str
    script: list[str]
    shown: list[list[tuple[int, tuple[int, ...], int]]]
    """Views of each turn: image, box, visual tokens."""
    stop_reason: StopReason
    dialect: str | None = None
    sizes: list[tuple[int, int]] = field(default_factory=lambda: [(1448, 938)])
    budget: PixelBudget = QWEN2_5_VL
    notes: list[str | None]


WHOLE = (0, 0, 1448, 938)
ANSWERED = StopReason.ANSWERED_AFTER_REQUEST
PLAYS = {
    "AwaRes": Play(
        menu="awares",
        script=["GET_CROPS: ['5', '0', '5']", "5"],
        shown=[[(0, WHOLE, 442)], [(0, (0, 0, 1448, 469), 884), (0, (0, 0, 724, 469), 442)]],
        stop_reason=ANSWERED,
        notes=[None, None],
    ),
    "AwaRes as released": Play(
        menu="awares-released",
        script=["GET_CROPS:['35']", "5"],
        shown=[[(0, WHOLE, 442)], [(0, (724, 469, 1448, 938), 442), (0, (0, 0, 1448, 469), 884)]],
        stop_reason=ANSWERED,
        notes=[None, None],
    ),
    "AdaptVision": Play(
        menu="adaptvision",
        script=[THINKING + tool_call("request_local_region", '{"bbox_2d": [418, 189, 440, 214]}'), ANSWER],
        shown=[[(0, WHOLE, 442)], [(0, (831, 372, 876, 422), 4)]],
        stop_reason=ANSWERED,
        notes=[None, None],
    ),
    "AdaptVision, released arithmetic": Play(
        menu="adaptvision-released",
        sizes=[(2550, 3300)],
        script=[THINKING + tool_call("request_local_region", '{"bbox_2d": [902, 1156, 1159, 1487]}'), ANSWER],
        shown=[[(0, (0, 0, 2550, 3300), 2714)], []],
        stop_reason=StopReason.ANSWERED,
        notes=[CallError.EMPTY_BOX.value, None],
    ),
    "DeepEyes": Play(
        menu="deepeyes",
        script=[
            THINKING + zoom('{"bbox_2d": [100, 100, 380, 380], "label": "sign"}'),
            THINKING + zoom('{"bbox_2d": [10, 10, 5, 5]}'),
            THINKING + zoom("{}") + zoom('{"bbox_2d": [0, 0, 724, 469]}'),
            ANSWER,
        ],
        shown=[[(0, WHOLE, 1768)], [(0, (100, 100, 380, 380), 100)], [], [(0, (0, 0, 724, 469), 442)]],
        stop_reason=ANSWERED,
        notes=[None, CallError.EMPTY_BOX.value, None, None],
    ),
    "DeepEyes, several calls": Play(
        menu="deepeyes-v5",
        script=[THINKING + zoom('{"bbox_2d": [0, 0, 724, 469]}') + zoom('{"bbox_2d": [100, 100, 380, 380]}'), ANSWER],
        shown=[[(0, WHOLE, 1768)], [(0, (0, 0, 724, 469), 442), (0, (100, 100, 380, 380), 100)]],
        stop_reason=ANSWERED,
        notes=[None, None],
    ),
    "Mini-o3": Play(
        menu="minio3",
        script=[
            ground("[0.5, 0.5, 1, 1]", "original_image"),
            ground("[0.5, 0.5, 1, 1]", "observation_1"),
            ground("[0, 0, 0.5, 1]", "observation_2"),
            ground("[0, 0, 1, 1]", "observation_9"),
            ground("[0, 0, 0.5, 1]", "original_image"),
            ground("[0, 0, 0.5, 0.5]", "observation_4"),
        ],
        shown=[
            [(0, WHOLE, 1768)],
            [(0, (724, 469, 1448, 938), 442)],
            [(0, (1086, 703, 1448, 938), 117)],
            [(0, (1086, 703, 1267, 938), 54)],
            [],
            [(0, (0, 0, 724, 938), 884)],
        ],
        stop_reason=StopReason.OVER_LIMIT,
        notes=[None, None, None, CallError.UNKNOWN_VIEW.value, None, None],
    ),
    "Qwen3-VL": Play(
        menu="qwen3",
        sizes=[(1000, 800), (2000, 1000)],
        budget=QWEN3_VL,
        script=[
            zoom('{"bbox_2d": [0, 0, 500, 500], "label": "a", "img_idx": 1}')
            + "\n"
            + zoom('{"bbox_2d": [574, 301, 660, 468], "label": "b", "img_idx": 0}')
            + "\n"
            + zoom('{"bbox_2d": [500, 0, 1000, 500], "label": "c", "img_idx": 1}'),
            zoom('{"bbox_2d": [0, 0, 250, 250], "label": "d", "img_idx": 1}'),
            "5",
        ],
        shown=[
            [(0, (0, 0, 1000, 800), 775), (1, (0, 0, 2000, 1000), 1922)],
            [(1, (0, 0, 1000, 500), 496), (0, (574, 240, 660, 375), 273), (1, (1000, 0, 2000, 500), 496)],
            [(1, (0, 0, 500, 250), 276)],
        ],
        stop_reason=ANSWERED,
        notes=[None, None, None],
    ),
    "a ladder, jumping": Play(
        menu="levels",
        script=[THINKING + tool_call("resize_image", '{"action": "resize", "level": "full"}'), ANSWER],
        shown=[[(0, WHOLE, 104)], [(0, WHOLE, 1768)]],
        stop_reason=ANSWERED,
        notes=[None, None],
    ),
    "a ladder, climbing": Play(
        menu="ladder",
        dialect="agent",
        script=[THINKING + Protocol().request(), THINKING + Protocol().request(), ANSWER],
        shown=[[(0, WHOLE, 104)], [(0, WHOLE, 442)], [(0, WHOLE, 1768)]],
        stop_reason=ANSWERED,
        notes=[None, None, None],
    ),
    "compact crops": Play(
        menu="ten",
        sizes=[(112, 112)],
        budget=PixelBudget(28, 784, 12544),
        script=["<look>3</look><look>5</look>", "<answer>5</answer>"],
        shown=[[(0, (0, 0, 112, 112), 4)], [(0, (56, 56, 112, 112), 4), (0, (0, 0, 112, 56), 8)]],
        stop_reason=ANSWERED,
        notes=[None, None],
    ),
}


def pictures(play):
    return [Picture(Image.new("RGB", size, (20 * i, 40, 60))) for i, size in enumerate(play.sizes)]


def episode(play, opened):
    menu, dialect = NAMED[play.menu]
    dialect = dialect or play.dialect
    protocol = Protocol(dialect, DIALECTS[dialect].boundary or "chatml")
    images = tuple(picture.image for picture in opened)
    return Episode(Example("e1", "How many?", images, answer="5"), opened, menu, protocol, budget=play.budget)


def through_template(tokenizer, history, boundary):
    """The text of the chat template, every placeholder repeated as often as the image has visual tokens, tokenised at once."""

    def block(part):
        return {"type": "image"} if isinstance(part, ImageView) else {"type": "text", "text": part}

    chat = [{"role": m.role, "content": [block(part) for part in m.content]} for m in history]
    text = tokenizer.apply_chat_template(
        chat, chat_template=chatml.template(), tokenize=False, add_generation_prompt=True, boundary=boundary
    )
    for view in views(history):
        text = text.replace(chatml.IMAGE_PAD, "<pad here>" * view.visual_tokens, 1)
    return tokenizer(text.replace("<pad here>", chatml.IMAGE_PAD), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", PLAYS)
def test_a_whole_episode(tiny_base, name):
    play = PLAYS[name]
    opened = pictures(play)
    boundary = episode(play, opened).protocol.boundary
    renderer = Renderer(tiny_base.tokenizer, boundary)
    policy = ScriptedPolicy(play.script, renderer)

    # step by step: the ids of every prompt are those of the chat template
    live = episode(play, opened)
    while not live.done:
        ids = renderer.prompt_ids(live.history)
        assert ids == through_template(tiny_base.tokenizer, live.history, boundary)
        live.step(policy.complete([live.history])[0])
    transcript = live.transcript()

    # what was shown, and how it ended
    assert [[(v.image, v.box, v.visual_tokens) for v in turn.views] for turn in transcript.turns] == play.shown
    assert (transcript.stop_reason, [turn.note for turn in transcript.turns]) == (play.stop_reason, play.notes)
    assert transcript.answer == ("5" if transcript.answered else None)
    assert [turn.text for turn in transcript.turns] == play.script

    # the bill: every view once, and as many placeholders as it has tokens
    bill = [sum(tokens for *_, tokens in turn) for turn in play.shown]
    assert [turn.usage.visual_tokens for turn in transcript.turns] == bill
    assert transcript.visual_tokens == sum(bill) == transcript.token_ids.count(renderer.image_pad_id)
    assert transcript.looks == sum(map(len, play.shown[1:]))
    text_tokens = len(transcript.token_ids) - len(transcript.turns[-1].token_ids) - sum(bill)
    assert transcript.text_tokens == text_tokens
    distinct = {view for turn in play.shown for view in turn}
    assert sum(picture.rendered for picture in opened) == len(distinct)

    # the loss mask: the sampled ids of every turn and nothing else, the end of the turn included
    masked = [i for i, mask in zip(transcript.token_ids, transcript.loss_mask, strict=True) if mask]
    assert masked == [i for line in play.script for i in (*renderer.plain(line), renderer.end_id)]

    # both drivers, and pictures that are opened anew
    [first, second] = run_batch([episode(play, opened), episode(play, pictures(play))], policy)
    heard = []
    third = asyncio.run(run_async(episode(play, opened), policy, heard.append))
    assert "".join(heard) == "".join(play.script)
    for other in (first, second, third):
        assert other == transcript
        assert (other.token_ids, other.loss_mask) == (transcript.token_ids, transcript.loss_mask)
    assert type(transcript).from_dict(transcript.to_dict()) == dataclasses.replace(
        transcript, turns=tuple(dataclasses.replace(turn, prompt_ids=()) for turn in transcript.turns)
    )


def test_share_of_the_area_that_was_seen_at_full_density():
    for name, share in (("AwaRes", 0.5), ("AdaptVision", 45 * 50 / (1448 * 938)), ("DeepEyes", 1.0)):
        play = PLAYS[name]
        [transcript] = run_batch([episode(play, pictures(play))], ScriptedPolicy(play.script))
        assert transcript.density_area == pytest.approx(share), name


def test_text_of_minio3():
    """Observations are numbered through the episode, also after an error, and the last request is not answered."""
    play = PLAYS["Mini-o3"]
    live = episode(play, pictures(play))
    for line in play.script:
        live.step(line)
    users = [m for m in live.history if m.role == "user"]
    texts = ["".join("<image>" if isinstance(part, ImageView) else part for part in m.content) for m in users]
    assert [text.split(":")[0] for text in texts] == [
        "<image>How many?",
        "After the above Action 0, here is the the zoom-in image (Observation 1)",
        "After the above Action 1, here is the the zoom-in image (Observation 2)",
        "After the above Action 2, here is the the zoom-in image (Observation 3)",
        "ERROR occurs during grounding. Error Information",
        "After the above Action 3, here is the the zoom-in image (Observation 4)",
    ]
    assert live.history[-1].role == "assistant"


def test_text_of_qwen3():
    """Results of several calls come in one user turn, in their order."""
    play = PLAYS["Qwen3-VL"]
    live = episode(play, pictures(play))
    [message] = live.step(play.script[0]).new_messages
    assert [part if isinstance(part, str) else part.box.left for part in message.content] == [
        "<tool_response>\n",
        0,
        "\n</tool_response>\n<tool_response>\n",
        574,
        "\n</tool_response>\n<tool_response>\n",
        1000,
        "\n</tool_response>",
    ]


def test_text_of_adaptvision():
    """The second turn follows the end of the first without a newline, as its checkpoint was trained."""
    play = PLAYS["AdaptVision"]
    live = episode(play, pictures(play))
    live.step(play.script[0])
    assert live.protocol.boundary == "released"
    pieces = chatml.bridge(live.history[-1:], "released")
    assert pieces[:2] == [
        chatml.Markup("<|im_start|>"),
        "user\n<tool_response>\nThe cropped region of the image is shown below:\n",
    ]
    assert pieces[-1] == "assistant\n" and pieces[-3] == "\n"


def test_text_of_awares():
    """The second user turn is the crops and no text."""
    play = PLAYS["AwaRes"]
    live = episode(play, pictures(play))
    [message] = live.step(play.script[0]).new_messages
    assert [part.box for part in message.content] == [(0, 0, 1448, 469), (0, 0, 724, 469)]
