"""The released parsers and arithmetics beside ours, in one table; and the published prompts through an evaluation."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from visionthink.data import places
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.runner import evaluate
from visionthink.menu import NAMED
from visionthink.model import Model
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.protocol import Protocol
from visionthink.protocol.dialects import prompt
from visionthink.resolution import QWEN2_5_VL
from visionthink.rewards.rules.judge import RulesJudge

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(ROOT / "benchmarks" / "released_faults.py"))


def test_every_call_is_read_as_it_was_meant_here_and_most_are_not_by_the_released_code(benchmark):
    found = list(benchmark["cases"]())
    assert len(found) == 16 and all(case.here == case.meant for case in found)
    wrong = {case.said: case.released for case in found if case.released != case.meant}
    assert wrong == {
        "`GET_CROPS: ['3']`": "the whole image",
        "`GET_CROPS [3]`": "the whole image",
        "`GET_CROPS:['0', '5']`": "the whole image",
        "`GET_CROPS:['35']`": "3 and 5",
        "40 to 50 % of 2048x1024 px": "41 to 51 %",
        "40 to 50 % of 3000x2000 px": "49 to 61 %",
        "40 to 50 % of 4032x3024 px": "69 to 86 %",
        "70 to 90 % of 2550x3300 px": "outside of the page",
        "low view of 2550x3300 px": "51 %",
        '"Score: 0. Of the 10 bars only one can be seen."': "1",
        "a box of 24x24 px": "refused",
        "a quarter of 512x512 px": "256 tokens of 256",
    }


def test_the_table_of_the_docs_is_what_the_benchmark_prints(benchmark):
    assert "\n".join(benchmark["table"]()) in (ROOT / "docs" / "reference" / "menus.md").read_text("utf-8")


def test_as_json(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["released_faults.py", "--json"])
    benchmark["main"]()
    record = json.loads(capsys.readouterr().out)
    assert (record["ours"], record["peer"], record["bound"]) == ({"as meant": 16}, {"as meant": 4}, {"as meant": 16})


BOX = '<think>Closer.</think> <tool_call>{"name": "request_local_region", "arguments": {"bbox_2d": [56, 0, 112, 56]}}</tool_call>'


@pytest.mark.parametrize(
    ("menu", "system", "asks", "place"),
    [
        ("awares", "awares_system_paper", "GET_CROPS: ['1']", "top right"),
        ("awares-released", "awares_system_lmms_eval", "GET_CROPS: ['1']", None),  # read as the whole image
        ("awares-released", "awares_system_lmms_eval", "GET_CROPS:['1']", "top right"),
        ("adaptvision", "adaptvision_system", BOX, "top right"),
    ],
)
def test_a_stand_in_of_a_checkpoint_is_evaluated_with_its_published_prompt(tmp_path, menu, system, asks, place):
    """One that is scripted: it asks as the checkpoint would, and answers in the second turn."""
    heard = []

    class Checkpoint(ScriptedPolicy):
        def complete(self, histories):
            heard.append([["".join(p for p in m.content if isinstance(p, str)) for m in history] for history in histories])
            return super().complete(histories)

    found, dialect = NAMED[menu]
    examples = [places.draw("framed", i, hard=True, side=224) for i in range(2)]
    answer = "7" if menu.startswith("awares") else "<think>A seven.</think> <answer>7</answer>"
    model = Model(Checkpoint([asks, answer]), Protocol(dialect), found, QWEN2_5_VL)
    named = {"suite": "framed-224", "model_name": "stand-in", "judge": RulesJudge(closed=True)}
    summary = evaluate(examples, model, PolicySpec.parse("adaptive"), tmp_path, **named)
    assert heard[0][0][0] == prompt(system)
    assert summary["stop_reasons"] == {"answered_after_request": 2}
    assert summary["looks"]["places"] == {place: 2} if place else summary["looks"] is None
