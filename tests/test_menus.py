"""Menus from the command line to the report: what is asked for is shown, billed and drawn."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from visionthink.action_space import ActionSpace
from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.evals.metrics import Scored
from visionthink.evals.oracle import script
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.routing import routing
from visionthink.evals.runner import evaluate
from visionthink.menu import NAMED
from visionthink.model import Model, load
from visionthink.protocol import DIALECTS, Protocol
from visionthink.resolution import QWEN2_5_VL
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.types import Box, Call


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """The generated suite under the oracle, with ten crops: the folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("oracle")
    options = ["--menu", "ten", "--policy", "oracle", "--limit", "60", "--max-new-tokens", "8", "--out", str(folder)]
    assert main(["eval", "mini", *options]) == 0
    return folder


def test_the_oracle_asks_for_the_cheapest_crops_that_show_the_evidence(oracle):
    examples = {e.id: e for e in synth.suite(60)}
    scored = [Scored.from_dict(json.loads(line)) for line in (oracle / "transcripts.jsonl").read_text().splitlines()]
    assert len(scored) == 60
    looks = {t.example_id: t for t in (s.transcript for s in scored)}
    for name, t in looks.items():
        example = examples[name]
        assert t.covers(example.evidence) and t.requested == (example.need == "hard")
        assert t.visual_tokens == 4 + sum(v.visual_tokens for v in t.views[1:])
        assert {turn.by for turn in t.turns[:1]} == {"forced"}
    sizes = {t.example_id: sum(v.visual_tokens for v in t.views[1:]) for t in looks.values() if t.requested}
    # a quadrant costs 4 of 16 tokens, a half 8; what needs the whole drawing costs all of it
    assert {sizes[name] for name in sizes if examples[name].family == "digits"} == {4}
    whole = [name for name in sizes if examples[name].evidence[0][0] == (0, 0, 112, 112)]
    assert whole and all(sizes[name] == 16 for name in whole)
    summary = json.loads((oracle / "summary.json").read_text())
    assert summary["retain_cumulative"] == sum(t.visual_tokens for t in looks.values()) / (60 * 16) < 0.62
    assert summary["accuracy"] == pytest.approx(sum(s.verdict.verdict == "correct" for s in scored) / (60 - summary["unscored"]))


def test_the_page_draws_the_boxes_that_were_looked_at(capsys, oracle, tmp_path):
    page = tmp_path / "page.html"
    assert run(capsys, "report", str(oracle), "--out", str(page))[0] == 0
    text = page.read_text()
    drawn = re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)"></rect>', text)
    quadrants = {(x, y, "56", "56") for x in ("0", "56") for y in ("0", "56")}
    assert quadrants & set(drawn) and "requests for a part of an image" in text
    assert 'viewBox="0 0 112 112"' in text and "a part at full resolution, 4 visual tokens" in text


def test_ask_says_what_was_looked_at(capsys, tmp_path):
    example = synth.draw("digits", 3, hard=True)
    example.image.save(tmp_path / "a.png")
    status, out, _ = run(capsys, "ask", str(tmp_path / "a.png"), "-q", example.question, "--json")
    record = json.loads(out)
    assert status == 0
    assert record["looks"] == [{"image": 0, "box": [0, 0, 112, 112], "level": 1.0, "visual_tokens": 16}]
    assert record["turns"][0]["views"] == [{"image": 0, "box": [0, 0, 112, 112], "level": 0.25, "visual_tokens": 4}]
    _, out, _ = run(capsys, "ask", str(tmp_path / "a.png"), "-q", example.question)
    assert "looked at 25 % of the pixels, then asked for 100 % of the pixels; 20 visual tokens" in out.replace("\n", " ")


def test_every_named_menu_brings_a_dialect_and_can_be_loaded(capsys, tmp_path):
    synth.draw("scene", 0).image.resize((560, 560)).save(tmp_path / "a.png")
    for name, (_, dialect) in NAMED.items():
        assert dialect is None or dialect in DIALECTS
        status, out, err = run(
            capsys, "ask", str(tmp_path / "a.png"), "-q", "How many?", "--menu", name, "--max-new-tokens", "2", "--json"
        )
        assert (status, err) == (0, ""), name
        assert json.loads(out)["stop_reason"] in ("length", "answered", "malformed_call", "empty"), name
    status, _, err = run(capsys, "ask", str(tmp_path / "a.png"), "-q", "How many?", "--menu", "none")
    assert (status, err.startswith("error: --menu 'none': choose from visionthink, ")) == (2, True)


def test_what_a_menu_costs(capsys):
    _, out, _ = run(capsys, "tokens", "--size", "2048x1024", "--menu", "awares", "--json")
    record = json.loads(out)
    shown = {entry["name"]: (entry["box"], entry["visual_tokens"]) for entry in record["levels"]}
    assert record["visual_tokens_full"] == 2701 and shown["shown first"] == ([0, 0, 2048, 1024], 648)
    assert shown["0"] == ([0, 0, 1024, 512], 648) and shown["7"] == ([0, 0, 1024, 1024], 1332)
    assert shown["all"] == ([0, 0, 2048, 1024], 2701)
    _, out, _ = run(capsys, "tokens", "--size", "2048x1024", "--menu", "adaptvision")
    assert "any box can be asked for, from 4 visual tokens on" in out
    status, _, err = run(capsys, "tokens", "--size", "2048x1024", "--menu", "awares", "--family", "openai")
    assert (status, err) == (2, "error: --menu awares: offers regions, which openai does not charge by the pixel\n")


def test_one_question_about_several_images(capsys, tmp_path):
    for i in range(2):
        synth.draw("scene", i).image.save(tmp_path / f"{i}.png")
    files = [str(tmp_path / f"{i}.png") for i in range(2)]
    _, out, _ = run(capsys, "ask", *files, "-q", "How many shapes are there?", "--ladder", "1", "--json")
    record = json.loads(out)
    assert record["usage"]["visual_tokens"] == record["usage"]["visual_tokens_full"] == 32
    status, _, err = run(capsys, "ask", *files, "-q", "How many?", "--menu", "awares")
    assert (status, "the dialect awares cannot say which of several images a part is of" in err) == (2, True)
    status, _, err = run(capsys, "ask", *files, "-q", "<image> How many?")
    assert (status, "1 <image> marks for 2 image(s)" in err) == (2, True)


def test_the_oracle_keeps_to_the_limits_of_a_menu_and_names_what_it_cannot_read(tmp_path):
    """A damaged image costs its row; a menu that may not spend what the evidence needs is an error that says so."""
    good, hard = (next(e for e in synth.suite(12) if e.need == need) for need in ("easy", "hard"))
    broken = dataclasses.replace(hard, id="broken", image=b"no image")
    model = load("tiny", menu="ten", max_new_tokens=8)
    oracle = PolicySpec.parse("oracle")
    named = {"suite": "mini", "model_name": "tiny", "judge": RulesJudge(closed=True)}
    summary = evaluate([good, broken, hard], model, oracle, tmp_path, **named)
    assert (summary["n"], summary["failed"]) == (2, 1)
    assert "example broken: not an image file" in (tmp_path / "failed.jsonl").read_text()
    whole = next(e for e in synth.suite(60) if e.evidence == (((0, 0, 112, 112), 1.0),))
    for allowance, said in ((1.25, "<look>all</look>"), (1.0, None)):  # the full view costs 16 tokens behind the first 4
        menu = dataclasses.replace(model.menu, allowance=allowance)
        lane = routing(oracle, Model(model.policy, model.protocol, menu, model.budget))(whole)
        assert lane.policy.script == (said,)


def test_the_oracle_climbs_to_the_level_that_suffices():
    easy, hard = (next(e for e in synth.suite(12) if e.need == need) for need in ("easy", "hard"))
    for name, said in (
        ("visionthink", {"easy": [], "hard": ["next"]}),
        ("ladder", {"easy": ["next"], "hard": ["next", "next"]}),
        ("levels", {"easy": [0.25], "hard": [1.0]}),
    ):
        menu, dialect = NAMED[name]
        protocol = Protocol(dialect or "agent")
        for example in (easy, hard):
            space = ActionSpace(menu, [(448, 448)], QWEN2_5_VL)
            whole = dataclasses.replace(example, evidence=((Box(0, 0, 448, 448), example.evidence[0][1]),))
            expected = [
                protocol.request() if level == "next" else protocol.request(Call(level=level)) for level in said[example.need]
            ]
            assert list(script(whole, space, protocol)) == (expected or [None]), (name, example.need)


def test_levels_beside_a_named_menu_keep_its_arithmetic():
    model = load("tiny", menu="visionthink-released-eval", ladder=(0.25, 1.0))
    assert model.menu.ladder.arithmetic == "released_eval"
    with pytest.raises(OptionError, match=r"released_eval knows the levels 0\.25 and 1 only"):
        load("tiny", menu="visionthink-released-eval", ladder="0.5,1")


def test_a_dialect_without_a_menu_has_the_one_that_it_belongs_to():
    for dialect, name in (("awares", "awares"), ("compact_ids", "ten"), ("levels", "levels"), ("agent", "visionthink")):
        assert load("tiny", dialect=dialect).menu == NAMED[name][0]
    assert load("tiny").menu == NAMED["visionthink"][0]
