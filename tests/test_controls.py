"""Controls: what a model is shown that asked for a part of an image, told from its answers and from the pictures kept."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from visionthink.data import places
from visionthink.errors import DataError, OptionError
from visionthink.evals.controls import episode
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.report.page import report
from visionthink.evals.runner import evaluate
from visionthink.menu import NAMED
from visionthink.model import Model
from visionthink.protocol import Protocol
from visionthink.recipes.frontier import twin_of
from visionthink.resolution import PixelBudget
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.types import Box, Completion, Example, ImageView

MENU, DIALECT = NAMED["ten"]
COLOURS = {"red": (200, 0, 0), "blue": (0, 0, 200), "grey": (90, 90, 90)}


class Reader:
    """Asks for the top right quarter, and answers with the colour of what it is shown."""

    def __init__(self) -> None:
        self.first: list[Image.Image] = []

    def complete(self, histories):
        return [self._reply(history) for history in histories]

    def _reply(self, history) -> Completion:
        views = [part.image for message in history for part in message.content if isinstance(part, ImageView)]
        if len(views) == 1:
            self.first.append(views[0])
            return Completion("<look>1</look>")
        pixel = views[-1].resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        nearest = min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], pixel, strict=True)))
        return Completion(f"<answer>{nearest}</answer>")


def drawn(colour: str) -> Image.Image:
    image = Image.new("RGB", (112, 112), COLOURS["grey"])
    image.paste(COLOURS[colour], (56, 0, 112, 56))
    return image


EXAMPLES = [
    Example(f"e{i}", "What colour?", drawn("red"), answer="red", family="f", evidence=((Box(56, 0, 112, 56), 1.0),))
    for i in range(3)
]


def other(example: Example) -> Example:
    return dataclasses.replace(example, image=drawn("blue"), answer="blue")


def run(folder, policy: str, reader: Reader | None = None, examples=EXAMPLES):
    model = Model(reader or Reader(), Protocol(DIALECT), MENU, PixelBudget(28, 784, 12544))
    named = {"suite": "colours", "model_name": "reader", "judge": RulesJudge(closed=True)}
    summary = evaluate(examples, model, PolicySpec.parse(policy), folder, twin_of=other, **named)
    return summary, [json.loads(line)["answer"] for line in (folder / "transcripts.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("policy", "answer"),
    [
        ("adaptive", "red"),
        ("control:wrong-crop", "blue"),  # what the exchanged evidence says
        ("control:centre-crop", "grey"),  # a quarter of it is red
        ("control:blank-low", "red"),
        ("control:blank", "grey"),
    ],
)
def test_what_is_shown(tmp_path, policy, answer):
    reader = Reader()
    summary, answers = run(tmp_path, policy, reader)
    assert answers == [answer] * 3
    assert summary["accuracy"] == (1.0 if answer == "red" else 0.0) and summary["retain_cumulative"] == 8 / 16
    assert summary["looks"]["places"] == {"top right": 3} and summary["looks"]["covered"] == 1.0  # as it was asked for
    colours = {len(image.getcolors()) for image in reader.first}
    assert (colours == {1}) == ("blank" in policy)


def crop(example: Example) -> Image.Image:
    """What is shown of a random place."""
    model = Model(Reader(), Protocol(DIALECT), MENU, PixelBudget(28, 784, 12544))
    begun = episode(model, example, MENU, "random-crop", None)
    begun.step("<look>1</look>")
    [view] = [part for part in begun.history[-1].content if isinstance(part, ImageView)]
    return view.image


def test_a_random_place_is_the_same_in_every_run():
    position = Image.new("RGB", (112, 112))
    position.putdata([(2 * x, 2 * y, 0) for y in range(112) for x in range(112)])
    seen = set()
    for i in range(40):
        example = dataclasses.replace(EXAMPLES[0], id=f"p{i}", image=position)
        shown = crop(example)
        left, top, _ = shown.getpixel((0, 0))
        right, bottom, _ = shown.getpixel((55, 55))
        assert (right - left, bottom - top) == (110, 110)  # 56 px in one piece
        seen.add((left // 2, top // 2))
        assert crop(example).tobytes() == shown.tobytes()
    assert len(seen) > 35 and all(0 <= x <= 56 and 0 <= y <= 56 for x, y in seen)


def test_the_page_sets_a_control_beside_the_run(tmp_path):
    for policy in ("adaptive", "control:wrong-crop"):
        run(tmp_path / policy.replace(":", "-"), policy)
    [own, control] = report([tmp_path / "adaptive", tmp_path / "control-wrong-crop"], tmp_path / "r.html")
    assert own.control is None and control.control["difference"]["mean"] == -1.0
    assert (control.control["n"], control.control["accuracy"], control.control["adaptive"]) == (3, 0.0, 1.0)
    text = (tmp_path / "r.html").read_text()
    assert "Where the model looked" in text and "<h3>Controls</h3>" in text
    kept = Image.open(next((tmp_path / "control-wrong-crop" / "views").glob("e0.0.56-0-112-56@1.png")))
    assert kept.getpixel((5, 5)) == COLOURS["blue"]


def test_twins_of_generated_questions_and_of_others(tmp_path):
    example = places.draw("framed", 0, hard=True)
    twin = twin_of(example)
    assert twin.answer != example.answer and twin.evidence == example.evidence
    with pytest.raises(DataError, match="example e0: has no counterfactual twin"):
        twin_of(EXAMPLES[0])
    with pytest.raises(OptionError, match=r"--policy 'control:upside-down': .*choose one of adaptive, full"):
        PolicySpec.parse("control:upside-down")
    assert not PolicySpec.parse("control:blank").is_adaptive and PolicySpec.parse("control:blank").decides
