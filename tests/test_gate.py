"""A gate as a policy, its certificate, and what that refuses, on the embedded models."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from episodes import scored
from servers import replying, said

pytest.importorskip("torch")

import visionthink
from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import DataError, OptionError
from visionthink.evals.certificate import harm_bound
from visionthink.evals.cost import episode_cost
from visionthink.evals.drift import Traffic, drift
from visionthink.evals.flops import Architecture
from visionthink.evals.gate_curve import GateLanes
from visionthink.evals.lane import Lane
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.routing import _forced, _gated
from visionthink.evals.run_folder import read_run
from visionthink.evals.runner import evaluate
from visionthink.policies.gate import Certificate, Gate, parse_gate
from visionthink.recipes.calibrate import CalibrateConfig, _certified, _Parts
from visionthink.recipes.evaluate import EvalConfig
from visionthink.recipes.gate_runs import GateRuns
from visionthink.rewards.spec import read_judge
from visionthink.transcript import Transcript

N = 60


@pytest.fixture(scope="module")
def model():
    return visionthink.load("tiny", max_new_tokens=16)


@pytest.fixture(scope="module")
def runs(model, tmp_path_factory):
    """Finished evaluations by policy, made when they are asked for."""
    folder, examples, found = tmp_path_factory.mktemp("runs"), synth.suite(N, seed=77), {}

    def run(policy: str):
        if policy not in found:
            out = folder / policy.replace(":", "-")
            evaluate(examples, model, PolicySpec.parse(policy), out, suite="s", model_name="tiny", judge=read_judge("exact"))
            found[policy] = read_run(out)
        return found[policy]

    return run


# ------------------------------------------------------------------------------------------------ names


def test_names():
    assert parse_gate("gate:nllmax@0.25", "--policy") == Gate(score="nllmax", threshold=0.25)
    assert parse_gate("gate:h1@1e-3", "--policy") == Gate(score="h1", threshold=0.001)
    assert parse_gate("gate:runs/a@b.json", "--policy") == Path("runs/a@b.json")
    assert PolicySpec.parse("gate:x+y.json").gate == Path("x+y.json") and PolicySpec.parse("low:vote").votes
    assert PolicySpec.parse("gate:nllmax@.5") == PolicySpec.parse("gate:nllmax@0.50")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gate", "choose one of"),
        ("gate:", "expected gate:FILE, or gate:SCORE@T"),
        ("gate:nllmax", "expected gate:FILE, or gate:SCORE@T"),
        ("gate:entropy@1", "no score is called entropy; choose one of nll, nllmean"),
        ("gate:nllmax@x", "expected gate:FILE, or gate:SCORE@T"),
        ("gate:nllmax@inf", "expected gate:FILE, or gate:SCORE@T"),
        ("gate:nllmax@1e999", "the threshold must be finite"),
        ("gate:ask@0.5", "the score ask goes with visionthink calibrate --mode continue"),
        ("low:votes", "choose one of"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(OptionError, match=message):
        PolicySpec.parse(name)


def test_the_confidence_that_was_a_threshold_is_a_score():
    gate = Gate.of_confidence(0.8)
    assert gate.score == "nllmax" and gate.threshold == pytest.approx(-math.log(0.8))
    assert gate.keeps({"nllmax": -math.log(0.81)}) and not gate.keeps({"nllmax": -math.log(0.79)}) and not gate.keeps({})
    assert Gate.of_confidence(0.0).keeps({"nllmax": 99.0})
    assert gate.words(-math.log(0.9)) == "confidence 0.9, threshold 0.8"
    assert Gate(score="h1", threshold=0.5).words(0.25) == "h1 0.25, threshold 0.5"


# ------------------------------------------------------------------------------------------------ both lanes in a transcript


def test_both_lanes_are_in_the_transcript_and_on_the_bill(runs):
    low, full, gate = (runs(name) for name in ("low", "full", "gate:nllmax@0.2"))
    by = {name: {s.transcript.example_id: s for s in run.scored} for name, run in (("low", low), ("full", full))}
    shown = [s.transcript for s in gate.scored if s.transcript.requested]
    assert 0 < len(shown) < N
    for s in gate.scored:
        t, low_view, f = (
            s.transcript,
            by["low"][s.transcript.example_id].transcript,
            by["full"][s.transcript.example_id].transcript,
        )
        assert {turn.by for turn in t.turns} == {"gate"} and t.turns[0].scores == low_view.turns[0].scores
        kept = low_view.turns[0].scores["nllmax"] <= 0.2
        assert t.requested != kept and t.answer == (low_view if kept else f).answer
        assert t.visual_tokens == low_view.visual_tokens + (0 if kept else f.visual_tokens)
        assert t.output_tokens == low_view.output_tokens + (0 if kept else f.output_tokens)
        assert t.stop_reason == ("answered" if kept else "answered_after_request") and t.text_tokens == f.text_tokens
        costs = [episode_cost(x, gate.architecture) for x in (t, low_view, f)]
        for name in ("flops", "flops_cached", "vision_flops", "prefill_tokens"):
            both, one, other = (getattr(cost, name) for cost in costs)
            assert both == one + (0 if kept else other), name
        assert Transcript.from_dict(json.loads(json.dumps(t.to_dict()))).turns[-1].anew is not kept
    lanes = GateLanes.of(low.scored, full.scored, "nllmax")
    point = lanes.at(0.2)
    assert point.escalated == gate.summary["request_ratio"] and point.cost == pytest.approx(gate.summary["retain_cumulative"])
    judged = sum(s.verdict.verdict == "correct" for s in gate.scored) / sum(s.verdict.verdict != "unscored" for s in gate.scored)
    assert judged == gate.summary["accuracy"]


def test_votes_are_on_the_bill(runs):
    low, vote = runs("low"), runs("low:vote")
    for one, other in zip(low.scored, vote.scored, strict=True):
        t, low_view = other.transcript, one.transcript
        assert t.answer == low_view.answer and t.turns[0].scores["vote"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert t.visual_tokens == low_view.visual_tokens and t.output_tokens >= 4 + low_view.output_tokens


def test_a_gate_that_continues_goes_on_behind_the_low_view(model):
    examples = synth.suite(12, seed=78)
    plain = Lane(model.menu.low(), model.policy, model.policy)
    lane = _gated(Gate(score="ask", threshold=-1.0, mode="continue"), model, plain, plain)
    direct, request = (forced(model, examples, action) for action in ("direct", "request"))
    for t, d, r in zip(lane.run([model.episode(e, lane.menu) for e in examples]), direct, request, strict=True):
        assert t.answer == r.answer and [turn.restarted for turn in t.turns] == [False, True]
        assert 0 <= t.turns[0].scores["ask"] <= 1 and t.turns[0].text == d.turns[0].text
        # the context of the second turn: opening, the request in place of the answer, the bridge
        assert (*t.turns[0].prompt_ids, *t.turns[1].prompt_ids) == (
            *r.turns[0].prompt_ids, *r.turns[0].token_ids, *r.turns[1].prompt_ids)  # fmt: skip
        assert t.visual_tokens == r.visual_tokens and t.turns[0].looks == r.turns[0].looks
        shape = Architecture.of(model.policy.config, 4)
        assert episode_cost(t, shape).flops_cached > episode_cost(r, shape).flops_cached > episode_cost(d, shape).flops_cached


def forced(model, examples, action):
    lane = _forced(model, action)
    return lane.run([model.episode(e, lane.menu) for e in examples])


# ------------------------------------------------------------------------------------------------ calibration


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file that the command has written."""
    file = tmp_path_factory.mktemp("calibrated") / "gate.json"
    options = ["--model", "tiny-base", "--limit", "240", "--max-new-tokens", "16", "--score", "nllmax,hmax", "--by-family"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["calibrate", "mini", *options, "--alpha", "0.08", "--out", str(file)]) == 0
    assert said.getvalue().count("questions: no threshold") == len(synth.FAMILIES)
    return file


def test_a_certificate(certificate):
    c = Certificate.read(certificate)
    assert (c.n, len(c.items), len(c.scores) + c.silent, c.alpha, c.delta) == (120, 120, 120, 0.08, 0.1)
    assert c.k <= 5 and c.bound <= 0.08 and c.judge == "exact" and c.noise_floor == 0.0 and c.model.startswith("sha256:")
    assert c.test["n"] == 72 and c.test["accuracy"] > c.test["mix"] > c.test["low"] and c.test["escalated"] < 0.9
    assert c.test["cost"] == pytest.approx(0.25 + c.test["escalated"])
    low, full = (read_run(certificate.with_suffix("") / name).scored for name in ("low", "full"))
    lanes = GateLanes.of(low, full, c.score)
    held_out = GateLanes.take(lanes, [i for i, name in enumerate(lanes.ids)])
    assert held_out.at(c.threshold).harm < 0.08
    assert {name: family["threshold"] for name, family in c.families.items()} == dict.fromkeys(synth.FAMILIES)  # 20 are too few


def test_its_policy_in_an_evaluation(certificate, tmp_path, capsys):
    common = ["eval", "mini", "--limit", "24", "--max-new-tokens", "16", "--policy", f"gate:{certificate}"]
    assert main([*common, "--model", "tiny-base", "--out", str(tmp_path / "a"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policy"] == f"gate:{certificate}" and 0 < found["request_ratio"] < 1
    for changed, name in (
        (["--model", "tiny"], "model"),
        (["--model", "tiny-base", "--judge", "rules"], "judge"),
        (["--model", "tiny-base", "--ladder", "0.5,1"], "sizes"),
        (["--model", "tiny-base", "--boundary", "released"], "prompt"),
    ):
        assert main([*common, *changed, "--out", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: {certificate}: was calibrated with another {name}; calibrate again ({name}: "), error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rule", "gates"], "--rule gates: choose model, gate, gate:FILE or gate:SCORE@T"),
        (["--rule", "gate:hmax@1", "--threshold", "0.5"], "--rule gate:hmax@1 has a threshold of its own"),
        (["--rule", "gate:vote@0.1"], "the server answers a question once, and the score vote takes several answers"),
        (["--rule", "gate:none.json"], "gate:none.json: no such file"),
        (["--rule", "gate", "--audit", "2"], "--audit 2: must be a share from 0 to 1"),
        (["--audit", "0.1"], "--audit 0.1: must be a share from 0 to 1, and goes with --rule gate"),
    ],
)
def test_what_a_server_refuses(options, message, capsys):
    assert main(["serve", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_server_refuses_the_certificate_of_another_model(certificate, tmp_path, capsys):
    pytest.importorskip("uvicorn")
    assert main(["serve", "--model", "tiny", "--port", "0", "--rule", f"gate:{certificate}"]) == 2
    assert "was calibrated with another model; calibrate again (model: sha256:" in capsys.readouterr().err
    file = tmp_path / "gate.json"
    file.write_text(json.dumps(json.loads(certificate.read_text()) | {"mode": "continue"}))
    assert main(["serve", "--rule", f"gate:{file}"]) == 2
    assert "was calibrated in mode continue, and the server can only restart" in capsys.readouterr().err


def test_a_run_into_which_another_threshold_came_is_refused(certificate, tmp_path, capsys):
    file = tmp_path / "gate.json"
    file.write_bytes(certificate.read_bytes())
    run = ["eval", "mini", "--limit", "8", "--max-new-tokens", "16", "--model", "tiny-base", "--policy", f"gate:{file}"]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    file.write_text(json.dumps(json.loads(file.read_text()) | {"threshold": 0.0}))
    assert main([*run, "--out", str(tmp_path / "run")]) == 2
    assert "gate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alpha", "0.01"], "needs 460 different images or more, half of which test thresholds; --limit 60 takes fewer"),
        (["--alpha", "0.01", "--method", "crc"], "needs 198 different images or more, half of which test thresholds"),
        (["--alpha", "0.9", "--delta", "0.9", "--limit", "2"], "needs 3 different images or more"),
        (["--alpha", "1"], "--alpha 1: must be between 0 and 1"),
        (["--delta", "0"], "--delta 0: must be between 0 and 1"),
        (["--score", "entropy"], "--score entropy: choose of nll, nllmean"),
        (["--score", "ask"], "--score ask: is of models that could ask, add --mode continue"),
        (["--out", "gate"], "--out gate: name a file that ends in .json"),
    ],
)
def test_what_is_refused_before_a_question_is_drawn(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(EvalConfig, "examples", lambda config: pytest.fail("questions are drawn"))
    assert main(["calibrate", "mini", "--limit", "60", "--out", str(tmp_path / "g.json"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "g").exists()


def test_a_certificate_that_cannot_be_written_or_has_too_few_questions(tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "there.json").mkdir()
    (tmp_path / "taken").touch()
    for out, message in (
        ("file/g.json", "file is not a folder that can be written to"),
        ("there.json", "there.json: is a folder; name a file"),
        ("taken.json", "taken, the folder of the answers, is a file; choose another name"),
    ):
        assert main(["calibrate", "mini", "--limit", "100", "--out", str(tmp_path / out)]) == 2
        assert message in capsys.readouterr().err
    rows = [{"id": str(i), "question": "q", "image": "none.png", "answer": "a"} for i in range(80)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--alpha", "0.05", "--delta", "0.1", "--out", str(tmp_path / "g.json")]
    assert main(["calibrate", str(tmp_path / "rows.jsonl"), *options]) == 2  # and not that no image can be read
    assert "needs 90 different images or more, half of which test thresholds; " in capsys.readouterr().err


def test_by_family_needs_families(tmp_path, capsys):
    rows = ["question,image,answer,family"]
    for i, example in enumerate(synth.suite(96, split="train")):
        example.image.save(tmp_path / f"{i}.png")
        rows.append(f"{example.question},{i}.png,{example.answer},{example.family}")
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(rows))
    assert main(["calibrate", str(table), "--by-family", "--out", str(tmp_path / "g.json")]) == 2
    assert (
        f"--by-family: no question of {table} names a family; a table does so in the column data_source"
        in capsys.readouterr().err
    )


def test_without_a_certificate_the_full_view_is_to_be_served(tmp_path):
    def run(correct, tokens):
        said = [scored(str(i), correct, tokens) for i in range(90)]
        turns = [(dataclasses.replace(s.transcript.turns[0], scores={"nllmax": 0.5}),) for s in said]
        return [
            dataclasses.replace(s, transcript=dataclasses.replace(s.transcript, turns=t))
            for s, t in zip(said, turns, strict=True)
        ]

    ids = [frozenset(map(str, part)) for part in (range(20), range(20, 80), range(80, 90))]
    parts = _Parts(tune=ids[0], calibrate=ids[1], test=ids[2], items={}, images=90, families=frozenset())
    config = CalibrateConfig(evaluation=EvalConfig(suite="mini"), model="m", out=tmp_path / "g.json")
    runs = GateRuns(low=run(False, 25), full=run(True, 100))
    with pytest.raises(
        OptionError, match="no threshold of nllmax can be certified, as the safest one harms 60 of 60 questions; serv"
    ):
        _certified(runs, parts, config)
    silent = _Parts(tune=frozenset({"x"}), calibrate=ids[1], test=ids[2], items={}, images=90, families=frozenset())
    with pytest.raises(DataError, match="no answer has a nllmax in the part of 0 questions that proposes thresholds"):
        _certified(runs, silent, config)
    found = _certified(GateRuns(low=run(True, 25), full=run(True, 100)), parts, config)
    assert (found["k"], found["n"], found["threshold"], found["test"]["escalated"]) == (0, 60, 0.5, 0.0)


def test_answers_without_log_probabilities_are_counted(tmp_path, capsys):
    """An endpoint that does not give them: the gate cannot keep any answer, and says why."""
    with replying(lambda body: (200, said({"content": "<answer>7</answer>"}))) as server:
        command = ["eval", "mini", "--model", server.url, "--policy", "gate:nllmax@0.5", "--limit", "2", "--json"]
        assert main([*command, "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["request_ratio"], found["without_score"]) == (1.0, 2)
    assert "2 answers came without log-probabilities, so that the gate could not tell how sure they are" in told.err


def test_files_that_are_no_certificates(certificate, tmp_path):
    with pytest.raises(OptionError, match=r"gate:none.json: no such file; visionthink calibrate writes one"):
        Certificate.read(Path("none.json"))
    record, file = json.loads(certificate.read_text()), tmp_path / "gate.json"
    for change, message in (
        ({"threshold": "low"}, "threshold: 'low' is not a number"),
        ({"score": "entropy"}, "no gate has the score 'entropy'"),
        ({"threshold": math.inf}, "and the threshold inf"),
        ({"more": 1}, "more: there is no such field"),
        ({"threshold": 10**400}, "is not a number"),
        ({"alpha": 0.01}, "as the bound of the harm, .*, is above alpha, 0.01; calibrate again"),
        ({"delta": 1.0}, "must be between 0 and 1"),
        ({"k": record["n"] + 1}, "questions cannot be harmed"),
        ({"scores": [*record["scores"][1:], math.nan]}, "its scores must be finite"),
        ({"scores": [], "silent": 0}, "it has 0 scores"),
    ):
        file.write_text(json.dumps(record | change))
        with pytest.raises(DataError, match=message):
            Certificate.read(file)


def test_importing_the_rule_needs_no_torch():
    code = "import sys, visionthink.policies.gate; assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------ drift


def test_drift(certificate, tmp_path, capsys):
    c = Certificate.read(certificate)
    same = drift(c, Traffic(scores=(*c.scores, *[math.inf] * c.silent)))
    assert (same["ks"], same["alarm"], same["audit"]) == (0.0, False, None) and same["escalated"] == same["escalated_then"]
    tied = dataclasses.replace(c, scores=(0.69315,) * len(c.scores))
    assert drift(tied, Traffic(scores=(math.log(2),) * 50))["ks"] == pytest.approx(c.silent / c.n)
    other = drift(c, Traffic(scores=tuple(value + 1 for value in c.scores)))
    assert other["alarm"] and other["p"] < 1e-6 and other["escalated"] > same["escalated"]
    assert not drift(c, Traffic.read(certificate.with_suffix("") / "low", c))["alarm"]
    own = {"score": c.score, "threshold": c.threshold}
    gates = [
        own | {"value": 0.1, "agrees": True},
        own | {"value": math.nan, "agrees": True},
        own | {"value": 0.3, "agrees": False},
    ]
    gates += [own | {"value": 0.2}, own | {"threshold": 9.0, "value": 8.0, "agrees": False}]
    log = tmp_path / "log"
    log.write_text("\n".join(["something else", json.dumps({"id": "y"}), *(json.dumps({"id": "x", "gate": g}) for g in gates)]))
    assert Traffic.read(log, c) == Traffic(scores=(0.1, math.inf, 0.3, 0.2), agrees=(True, True, False))
    assert main(["drift", str(certificate), str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 4 and found["audit"] == {"n": 3, "k": 1, "bound": pytest.approx(harm_bound(1, 3, 0.1))}
    assert main(["drift", str(certificate), str(log)]) == 0
    assert "audit: 1 of 3 answers are not those of the full view" in " ".join(capsys.readouterr().out.split())
    for run, message in (
        (tmp_path / "none", "no such folder or log"),
        (certificate, f"has no {c.score} of answers from low views"),
    ):
        with pytest.raises(DataError, match=message):
            Traffic.read(run, c)


@pytest.mark.slow
def test_the_promise_holds_on_real_answers(tmp_path):
    """Of 200 calibrations on 300 of 6,000 questions, no more than 1 in 10 harms more than 5 %, as far as 200 can tell; tuned
    without a test, more than 3 in 10 do. A coin that harms as much shows more."""
    from visionthink.recipes.gate_claim import gate_claim

    found = gate_claim(tmp_path)["nllmax"]
    certified, tuned = found["rules"]["certified"], found["rules"]["tuned"]
    assert (found["draws"], found["n"]) == (200, 300)
    assert found["p_violated"] > 0.05 and tuned["violated"] > 0.3
    assert certified["escalated"] < certified["coin_escalated"] - 0.2
