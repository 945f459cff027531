"""A tool that the package does not have: rotation. It takes a prompt, a grammar, a dialect and a menu, and nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from visionthink import Example, Menu, Protocol, ResolutionLadder, ScriptedPolicy, Transcript
from visionthink.menu import Edit
from visionthink.model import Model
from visionthink.protocol import DIALECTS, Answer, Dialect, Grammar, Malformed, Request
from visionthink.protocol.grammar import GRAMMARS
from visionthink.resolution import PixelBudget
from visionthink.types import Box, Call, CallError


def read(text: str):
    if "<rotate>" not in text:
        return Answer(text)
    degrees = text.partition("<rotate>")[2].partition("</rotate>")[0]
    return Request((Call(edit=f"rotate {degrees}"),)) if degrees.isdecimal() else Malformed(CallError.OTHER_ARGUMENTS)


def write(calls) -> str:
    return f"<rotate>{calls[0].edit.removeprefix('rotate ')}</rotate>"


@pytest.fixture
def rotating(monkeypatch):
    grammar = Grammar(read=read, write=write, opens="<rotate>", form=r"<rotate>\d+</rotate>", images="one")
    dialect = Dialect(name="rotating", call="rotate", shown=("compact_resized",), error=("compact_tool_error",), thinks=False)
    monkeypatch.setitem(GRAMMARS, "rotate", grammar)
    monkeypatch.setitem(DIALECTS, "rotating", dialect)
    quarter = Edit("rotate 90", lambda image: image.transpose(Image.Transpose.ROTATE_90), turns_sides=True)
    half = Edit("rotate 180", lambda image: image.transpose(Image.Transpose.ROTATE_180))
    return Menu(ladder=ResolutionLadder((0.25,)), edits=(quarter, half), max_turns=3)


def test_a_new_tool_runs_through_episodes_records_and_bills(rotating):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 112, 3), np.uint8))
    script = ["<rotate>90</rotate>", "<rotate>45</rotate>", "<answer>up</answer>"]
    model = Model(ScriptedPolicy(script), Protocol("rotating"), rotating, PixelBudget(28, 784, 12544))
    episode = model.episode(Example("e", "Which way up?", image))
    assert [(o.name, o.visual_tokens) for o in episode.offers] == [("rotate 90", 8), ("rotate 180", 8)]
    assert episode.can_request
    for reply in script:
        episode.step(reply)
    t = episode.transcript()
    assert [turn.action for turn in t.turns] == ["request", "malformed", "answer"]
    assert t.turns[1].note == "there is no operation of this name"
    assert (t.visual_tokens, t.visual_tokens_full, t.answer) == (2 + 8, 8, "up")
    [_, rotated] = t.views
    assert (rotated.edit, rotated.width, rotated.height, rotated.box) == ("rotate 90", 56, 112, Box(0, 0, 112, 56))
    [view] = [part for part in episode.history[2].content if not isinstance(part, str)]
    assert view.image.tobytes() == image.transpose(Image.Transpose.ROTATE_90).tobytes()
    assert Transcript.from_dict(json.loads(json.dumps(t.to_dict()))) == t
