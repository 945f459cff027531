"""A tool that the package does not have: rotation. It takes a prompt, a grammar, a dialect and a menu, and nothing else."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from visionthink import Example, Menu, Protocol, ResolutionLadder, ScriptedPolicy, Transcript
from visionthink.action_space import ActionSpace
from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.evals.oracle import script as script_of
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.report.page import report
from visionthink.evals.runner import evaluate
from visionthink.menu import Edit
from visionthink.model import Model
from visionthink.protocol import DIALECTS, Answer, Dialect, Grammar, Malformed, Request
from visionthink.protocol.grammar import GRAMMARS
from visionthink.resolution import PixelBudget
from visionthink.rewards.rules.judge import RulesJudge
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
    grammar = Grammar(
        read=read,
        write=write,
        opens="<rotate>",
        closes="</rotate>",
        form=r"<rotate>\d+</rotate>",
        asks=frozenset({"edit"}),
        images="one",
    )
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


def test_a_new_tool_runs_through_evaluations_and_reports(rotating, tmp_path):
    """Always-full is the full view, what was rotated is drawn and billed, and nothing is asked for twice."""
    examples = [dataclasses.replace(e, image=e.image.resize((112, 56))) for e in synth.suite(4)]
    script = ["<rotate>180</rotate>", "<rotate>180</rotate>", "<answer>up</answer>"]
    model = Model(ScriptedPolicy(script), Protocol("rotating"), rotating, PixelBudget(28, 784, 12544))
    answers = Model(ScriptedPolicy(["<answer>up</answer>"]), Protocol("rotating"), rotating, PixelBudget(28, 784, 12544))
    retained = {}
    for policy in ("low", "full", "adaptive"):
        asked = model if policy == "adaptive" else answers
        named = {"suite": "s", "model_name": "m", "judge": RulesJudge(closed=True)}
        summary = evaluate(examples, asked, PolicySpec.parse(policy), tmp_path / policy, **named)
        retained[policy] = summary["retain_cumulative"]
    assert retained == {"low": 2 / 8, "full": 1.0, "adaptive": (2 + 8) / 8}
    runs = report([tmp_path / name for name in retained], tmp_path / "page.html")
    [t, *_] = [s.transcript for s in runs[2].scored]
    assert [turn.note for turn in t.turns] == [None, "this view is not on offer", None]
    page = (tmp_path / "page.html").read_text()
    assert "rotate 180, 8 visual tokens" in page and "</rect>" not in page
    with pytest.raises(OptionError, match="the dialect rotating asks for no level, and no region is on offer"):
        space = ActionSpace(rotating, [(112, 56)], PixelBudget(28, 784, 12544))
        script_of(dataclasses.replace(examples[0], need="hard", evidence=()), space, Protocol("rotating"))
    with pytest.raises(OptionError, match="dialect compact: asks for a level, and the menu offers an edit; choose another"):
        Model(ScriptedPolicy([]), Protocol("compact"), rotating, PixelBudget(28, 784, 12544))
