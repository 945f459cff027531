"""Every ending of an episode has a name, and the record says what happened."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from episodes import begin
from PIL import Image

from visionthink import (
    Completion,
    Example,
    Protocol,
    ScriptedPolicy,
    StopReason,
    Transcript,
    run_async,
    run_batch,
)
from visionthink.errors import ImageError, OptionError, VisionThinkError
from visionthink.evals.batches import architecture_of
from visionthink.evals.cost import episode_cost
from visionthink.evals.metrics import Scored
from visionthink.model import load
from visionthink.resolution import QWEN3_VL, PixelBudget
from visionthink.types import Box, Failure, turns_taken

TINY = PixelBudget(28, 784, 12544)
COMPACT = Protocol("compact")
ASK = COMPACT.request()
RED = "<answer>red</answer>"
BROKEN = "<tool_call>NOT JSON</tool_call>"


def play(example: Example, script: list, levels: tuple[float, ...] = (0.25, 1), **options) -> Transcript:
    episode = begin(example, levels, COMPACT, budget=TINY, **options)
    [transcript] = run_batch([episode], ScriptedPolicy(script))
    return transcript


@pytest.mark.parametrize(
    "levels, script, stop, answer, actions",
    [
        ((0.25, 1), [RED], "answered", "red", ["answer"]),
        ((0.25, 1), [ASK, RED], "answered_after_request", "red", ["request", "answer"]),
        ((0.25, 1), [ASK, ASK], "asked_on_last_level", None, ["request", "request"]),
        ((0.25, 1), [BROKEN, RED], "answered", "red", ["malformed", "answer"]),
        ((0.25, 1), [BROKEN, BROKEN], "malformed_call", None, ["malformed", "malformed"]),
        ((0.25, 1), [BROKEN, ASK], "asked_on_last_level", None, ["malformed", "request"]),
        ((0.25, 1), [ASK + ASK, RED], "answered", "red", ["malformed", "answer"]),
        ((0.25, 1), [ASK, BROKEN], "malformed_call", None, ["request", "malformed"]),
        ((0.25, 1), [""], "empty", None, ["none"]),
        ((0.25, 1), [ASK, " \n"], "empty", None, ["request", "none"]),
        ((0.25, 1), [Completion("on and on", "length")], "length", None, ["none"]),
        ((0.25, 1), [ASK, Completion(ASK, "length")], "length", None, ["request", "none"]),
        ((0.25, 1), [Completion("", "refused")], "refused", None, ["none"]),
        ((0.25, 1), [Completion("", "error", error=Failure("timeout", "timeout"))], "policy_error", None, ["none"]),
        ((1,), [RED], "answered", "red", ["answer"]),
        ((1,), [ASK], "answered", ASK, ["answer"]),
        ((0.25,), [RED], "answered", "red", ["answer"]),
        ((0.0625, 0.25, 1), [ASK, ASK, RED], "answered_after_request", "red", ["request", "request", "answer"]),
        ((0.0625, 0.25, 1), [BROKEN, ASK, RED], "answered_after_request", "red", ["malformed", "request", "answer"]),
    ],
)  # fmt: skip
def test_endings(example, levels, script, stop, answer, actions):
    transcript = play(example, script, levels)
    assert transcript.stop_reason == stop
    assert transcript.answer == answer
    assert [t.action for t in transcript.turns] == actions


def test_every_ending_is_reached_above():
    reached = {case[2] for mark in test_endings.pytestmark for case in mark.args[1]}
    assert reached | {"over_limit"} == {reason.value for reason in StopReason}


def test_asking_beyond_a_stated_limit_is_not_asking_for_what_there_is_not(example):
    levels = (0.0625, 0.25, 1)
    assert play(example, [ASK, ASK], levels, max_turns=2).stop_reason == "over_limit"
    assert play(example, [ASK, ASK], levels, max_views=2).stop_reason == "over_limit"
    assert play(example, [ASK, ASK], levels, allowance=0.5).stop_reason == "over_limit"
    assert play(example, [ASK, ASK, ASK], levels, max_turns=3).stop_reason == "asked_on_last_level"


def test_what_a_request_costs(example):
    direct, asked = play(example, [RED]), play(example, [ASK, RED])
    assert (direct.visual_tokens, direct.retain_final, direct.retain_cumulative) == (4, 0.25, 0.25)
    assert (asked.visual_tokens, asked.retain_final, asked.retain_cumulative) == (20, 1.0, 1.25)
    assert (direct.levels_seen, direct.requested) == ((0.25,), False)
    assert (asked.levels_seen, asked.requested) == ((0.25, 1.0), True)


def test_an_error_turn_shows_no_new_view_and_no_exception_text(example):
    transcript = play(example, [BROKEN, RED])
    assert transcript.turns[1].prompt == "Error: the tool call is not valid JSON."
    assert [t.usage.visual_tokens for t in transcript.turns] == [4, 0]
    assert (transcript.visual_tokens, transcript.retain_final, transcript.requested) == (4, 0.25, False)
    assert transcript.turns[0].note == "the tool call is not valid JSON"


def test_more_turns_allow_a_repaired_call(example):
    transcript = play(example, [BROKEN, ASK, RED], max_turns=3)
    assert (transcript.stop_reason, transcript.requested) == ("answered_after_request", True)


def test_the_policy_error_is_not_shown_to_the_model(example):
    transcript = play(example, [Completion("", "error", error=Failure("unreachable", "Connection refused"))])
    assert transcript.turns[0].note == "Connection refused"
    assert len(transcript.turns) == 1


def test_small_images_collapse_the_ladder():
    example = Example("small", "What is it?", Image.new("RGB", (224, 224)))
    episode = begin(example, (0.25, 1.0), Protocol("agent"), budget=QWEN3_VL)
    assert not episode.can_request
    [transcript] = run_batch([episode], ScriptedPolicy(["<think>a</think><answer>b</answer>"]))
    assert (transcript.offers, transcript.levels_seen) == ((), (1.0,))
    assert transcript.retain_cumulative == 1.0
    assert transcript.notes == ("ladder collapsed to 1: a lower level would save no tokens",)
    assert "resize" not in transcript.turns[0].prompt


def test_one_pixel_and_extreme_shapes():
    begin(Example("dot", "?", Image.new("RGB", (1, 1))))
    begin(Example("strip", "?", Image.new("RGB", (200, 1))))
    with pytest.raises(ImageError, match=r"example thin: an image of 201x1 px has an aspect ratio above 200"):
        begin(Example("thin", "?", Image.new("RGB", (201, 1))))


def test_an_ended_episode_takes_no_more_turns(example):
    episode = begin(example)
    with pytest.raises(VisionThinkError, match="has not ended"):
        episode.transcript()
    episode.step("<answer>red</answer>")
    with pytest.raises(VisionThinkError, match="has ended"):
        episode.step("again")


def test_transcripts_survive_json(example):
    transcript = play(example, [Completion(ASK, token_ids=(5, 2), prompt_ids=(1, 3)), RED])
    again = Transcript.from_dict(json.loads(json.dumps(transcript.to_dict())))
    assert again.turns[0].token_ids == (5, 2) and again.turns[0].prompt_ids == ()
    assert (again.answer, again.stop_reason, again.usage()) == (transcript.answer, transcript.stop_reason, transcript.usage())
    assert again.to_dict() == transcript.to_dict()
    with pytest.raises(ValueError, match="transcript e1: its prompt ids were not kept"):
        _ = again.loss_mask


def test_mask_by_provenance(example):
    """P1 = 1 1, C1 = 7 2, E1 = 3 3 3, C2 = 8 2."""
    transcript = play(
        example,
        [
            Completion(ASK, token_ids=(7, 2), prompt_ids=(1, 1)),
            Completion(RED, token_ids=(8, 2), prompt_ids=(1, 1, 7, 2, 3, 3, 3)),
        ],
    )
    assert transcript.token_ids == (1, 1, 7, 2, 3, 3, 3, 8, 2)
    assert transcript.loss_mask == (0, 0, 1, 1, 0, 0, 0, 1, 1)


def test_batches_mix_long_and_short_episodes(example):
    sizes: list[int] = []

    def reply(history):
        first_turn = turns_taken(history) == 0
        return ASK if first_turn and history[-1].content[-1].startswith("What") else RED

    class Counting(ScriptedPolicy):
        def complete(self, histories):
            sizes.append(len(histories))
            return super().complete(histories)

    other = Example("e2", "Another?", example.image)
    episodes = [begin(e, (0.25, 1.0), COMPACT, budget=TINY) for e in (example, other, example)]
    transcripts = run_batch(episodes, Counting(reply))
    assert sizes == [3, 2]
    assert [t.requested for t in transcripts] == [True, False, True]


def test_async_driver_streams_turns(example):
    heard: list[str] = []
    episode = begin(example, (0.25, 1.0), COMPACT, budget=TINY)
    transcript = asyncio.run(run_async(episode, ScriptedPolicy([ASK, RED]), heard.append))
    assert "".join(heard) == ASK + RED and len(heard) > 2
    assert transcript.answer == "red"


def test_a_script_that_is_too_short_says_so(example):
    with pytest.raises(OptionError, match="the script has 1 lines and turn 2 was asked for"):
        play(example, [ASK])


def test_transcripts_of_earlier_versions_are_read():
    """Three that earlier versions wrote, each with a request: before views had sizes, with them, with visual tokens by layer."""
    lines = (Path(__file__).parent / "data" / "transcripts_of_earlier_versions.jsonl").read_text("utf-8").splitlines()
    for line in lines:
        scored = Scored.from_dict(json.loads(line))
        t = scored.transcript
        assert (t.requested, t.levels_seen, t.looks) == (True, (0.25, 1.0), 1)
        assert (t.visual_tokens, t.visual_tokens_full, t.retain_cumulative, t.retain_final) == (20, 16, 1.25, 1.0)
        assert (t.stop_reason, scored.verdict.verdict) == ("answered_after_request", "correct")
        assert [turn.action for turn in t.turns] == ["request", "answer"] and t.offers == (("1", 0),)
        assert Transcript.from_dict(json.loads(json.dumps(t.to_dict()))) == t
    sizes = [[(v.box, v.width, v.height) for v in Scored.from_dict(json.loads(line)).transcript.views] for line in lines]
    tiny = architecture_of(load("tiny"))
    known = [episode_cost(Scored.from_dict(json.loads(line)).transcript, tiny) is not None for line in lines]
    assert known == [False, True, True]  # what a view of unknown size cost is not known
    canvas = Box(0, 0, 112, 112)
    assert sizes == [[(Box(0, 0, 1, 1), 0, 0)] * 2, *[[(canvas, 56, 56), (canvas, 112, 112)]] * 2]


def test_what_a_server_counts_is_billed_where_a_view_was_shown(example):
    """A server's count of a context may move by itself: an error turn costs nothing, and a turn's bill is never below 0."""

    def bills(*counts: int | None):
        script = [Completion(text, visual_tokens=n) for text, n in zip([BROKEN, ASK, RED], counts, strict=True)]
        t = play(example, script, max_turns=3)
        return [turn.usage.visual_tokens for turn in t.turns], t.visual_tokens_final

    assert bills(5, 5, 25) == ([5, 0, 20], 20)
    assert bills(200, 190, 225) == ([200, 0, 25], 25)
    assert bills(200, 210, 190) == ([200, 0, 16], 16)
    assert bills(None, 190, 25) == ([4, 0, 21], 21)
