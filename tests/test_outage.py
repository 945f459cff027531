"""A judge's server that dies: how soon it is given up, how it is found again, and what becomes of a training run."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
import torch
from launching import on_processes
from servers import Replying, replying, said
from training import small

from visionthink.data import synth
from visionthink.endpoint import Endpoint, breaker
from visionthink.errors import JudgeError, OptionError
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.runner import evaluate
from visionthink.model import load
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.rewards.cascade import Cascade, outage
from visionthink.rewards.judge import Answer
from visionthink.rewards.llm.judge import LLMJudge
from visionthink.rewards.llm.preset import preset
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.rewards.spec import read_judge
from visionthink.train.run import train

pytestmark = pytest.mark.network


class Mortal:
    """Judges by equality while it lives; when it is dead it says 503. It dies by itself after `lives` replies."""

    def __init__(self, lives: int = 10**9):
        self.lives, self.dead, self._counting = lives, (503, "not now"), threading.Lock()

    def __call__(self, body: dict) -> tuple[int, object]:
        with self._counting:
            if self.lives <= 0:
                return self.dead
            self.lives -= 1
        prompt = body["messages"][-1]["content"]
        truth, given = (re.search(rf"\*\*{name} Answer\*\*: (.*)", prompt)[1] for name in ("Ground Truth", "Model Predicted"))
        return 200, said({"content": f"Score: {int(truth == given)}"})


def answers(n: int) -> list[Answer]:
    return [Answer(f"Question {i}?", f"thing {i}" if i % 3 else f"stuff {i}", (f"thing {i}",)) for i in range(n)]


def judge(server: Replying, **limits) -> LLMJudge:
    limits = {"concurrency": 4, "timeout": 0.3, "deadline": 1.0} | limits
    return LLMJudge(Endpoint(f"http://{server.host}/v1", model="m", **limits), preset("paper"))


RIGHT = ["correct" if i % 3 else "wrong" for i in range(60)]


@pytest.fixture
def rest(monkeypatch):
    monkeypatch.setattr(breaker, "_FIRST_REST", 0.6)
    return 0.6


def test_a_dead_server_is_given_up_asked_once_in_a_while_and_found_again(rest):
    server_dies = Mortal()
    with replying(server_dies) as server:
        asked = judge(server, timeout=5)
        assert [v.verdict for v in asked.compare(answers(60))] == RIGHT and len(server.sent) == 60
        server_dies.lives, started = 0, time.monotonic()
        found = asked.compare(answers(60))
        # a deadline, and not one for each four: 15 s
        assert time.monotonic() - started < 5 and {v.verdict for v in found} == {"unscored"}
        assert (
            re.fullmatch(r"is down: \d+ failures and no reply in \d s, the last: HTTP 503 not now", found[-1].reason)
            and asked.down == f"judge http://{server.host}/v1: {found[-1].reason}"
        )
        sent, started = len(server.sent), time.monotonic()
        asked.compare(answers(60))
        assert len(server.sent) == sent and time.monotonic() - started < 0.5  # nothing is sent
        time.sleep(rest)
        assert asked.compare(answers(60))[0].verdict == "unscored"
        assert len(server.sent) == sent + 1  # one attempt, and the rest is twice as long
        time.sleep(rest)
        asked.compare(answers(60))
        assert len(server.sent) == sent + 1
        server_dies.lives = 10**9
        time.sleep(rest)
        assert [v.verdict for v in asked.compare(answers(60))] == RIGHT
        assert len(server.sent) == sent + 61 and asked.down == ""
        assert asked.outages == 1 and "was down for a while" in outage(asked, 0) and outage(asked, 1) == ""
        asked.close()


def test_a_server_that_hangs_is_given_up_after_a_deadline():
    server_dies = Mortal()
    with replying(server_dies) as server:
        asked = judge(server, timeout=0.25)
        asked.compare(answers(1))
        server.rest, started = lambda body: time.sleep(2) or (200, said({"content": "Score: 1"})), time.monotonic()
        assert {v.verdict for v in asked.compare(answers(60))} == {"unscored"}
        assert time.monotonic() - started < 5
        asked.close()


def test_one_question_that_fails_is_no_outage():
    def fussy(body: dict) -> tuple[int, object]:
        return (500, "no") if "Question 7?" in body["messages"][-1]["content"] else Mortal()(body)

    with replying(fussy) as server:
        asked = judge(server, timeout=2, deadline=2)
        found = [v.verdict for v in asked.compare(answers(60))]
        assert found == [*RIGHT[:7], "unscored", *RIGHT[8:]] and asked.down == ""
        asked.close()


def test_two_questions_show_that_nobody_listens_any_more():
    with replying(Mortal()) as server:
        asked = judge(server, deadline=2)
        assert [v.verdict for v in asked.compare(answers(2))] == RIGHT[:2]
    assert {v.verdict for v in asked.compare(answers(4)[2:])} == {"unscored"}
    assert re.search(r"is down: \d+ failures and no reply in \d s, the last: cannot connect \(", asked.down)
    asked.close()


@pytest.mark.parametrize("reply", [(500, "CUDA error"), (502, "no reply"), (403, "blocked")])
def test_few_questions_that_cannot_be_answered_stop_no_others(reply):
    """Two questions, one of them asked again and again: others are answered at once. Five different ones are an outage."""

    def fussy(body: dict) -> tuple[int, object]:
        return reply if "thing" in body["messages"][-1]["content"].partition("Model Predicted")[2] else Mortal()(body)

    with replying(fussy) as server:
        asked = judge(server, timeout=5, deadline=0.5)
        bad = [answer for answer in answers(10) if answer.prediction.startswith("thing")]
        asked.compare(answers(1))
        for _ in range(4):
            assert {v.verdict for v in asked.compare([*bad[:2], bad[0]])} == {"unscored"}
            time.sleep(0.2)
        assert asked.down == "" and [v.verdict for v in asked.compare(answers(1))] == ["wrong"]
        for _ in range(4):
            asked.compare(bad[:5])
            time.sleep(0.2)
        assert asked.down != ""
        asked.close()


def test_few_questions_show_it_within_their_deadline_and_one_alone_never():
    with replying(Mortal(1)) as server:
        asked = judge(server, deadline=2)
        asked.compare(answers(1))
        assert asked.compare(answers(1))[0].verdict == "unscored" and asked.down == ""
        asked.close()
    with replying(Mortal(1)) as server:
        asked = judge(server, deadline=2)
        asked.compare(answers(1))
        assert {v.verdict for v in asked.compare(answers(3))} == {"unscored"} and asked.down != ""
        asked.close()


@pytest.mark.parametrize(
    ("reply", "down"),
    [
        ((400, {"error": {"message": "this text is not taken"}}), False),
        ((400, {"error": {"message": "no", "code": "content_filter"}}), False),
        ((401, {"error": {"message": "the key was revoked"}}), True),
        ((429, {"error": {"message": "no money left", "code": "insufficient_quota"}}), True),
        ((404, {"error": {"message": "no such model"}}), True),
    ],
)
def test_what_is_a_matter_of_one_request_is_no_outage(reply, down):
    with replying(lambda _: reply) as server:
        server.replies[:] = [(200, said({"content": "Score: 1"}))]
        asked = judge(server, deadline=0.2)
        asked.compare(answers(1))
        asked.compare(answers(5))
        time.sleep(0.3)
        asked.compare(answers(5))
        assert bool(asked.down) == down
        asked.close()


def test_an_outage_is_one_of_the_last_server():
    with replying(Mortal(1)) as dead, replying(Mortal()) as alive:
        one, other = judge(dead, deadline=0.3), judge(alive, timeout=10, deadline=60)
        one.compare(answers(1))
        one.compare(answers(60))
        assert outage(one, 0) == one.down != ""
        assert outage(Cascade([RulesJudge(), one]), 0) == one.down
        assert outage(Cascade([one, other]), 0) == "" == outage(RulesJudge(), 0)
        assert [v.verdict for v in Cascade([one, other]).compare(answers(60))] == RIGHT
        one.close()
        other.close()


def test_as_many_requests_at_once_as_a_judge_file_says(tmp_path):
    at_once, most = [0], [0]

    def slow(body: dict) -> tuple[int, object]:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.1)
        at_once[0] -= 1
        return Mortal()(body)

    with replying(slow) as server:
        for given, expected in (("concurrency = 3", 3), ("concurrency = 5", 5)):
            (tmp_path / "judge.toml").write_text(f'[[judge]]\nurl = "http://{server.host}/v1"\nmodel = "m"\ncache = ""\n{given}')
            asked, most[0] = read_judge(str(tmp_path / "judge.toml")), 0
            asked.compare(answers(1))
            asked.compare(answers(40))
            assert most[0] == expected
            asked.close()
    assert Endpoint("http://x").concurrency == 16


def test_an_evaluation_goes_on_without_its_judge_and_asks_it_again(tmp_path):
    examples, server_dies = synth.suite(40), Mortal(10)
    with replying(server_dies) as server:
        asked, started = judge(server, timeout=5, concurrency=1), time.monotonic()
        run = {"suite": "s", "model_name": "tiny", "batch_size": 8}  # two of the first batch are the same question and answer
        summary = evaluate(examples, load("tiny"), PolicySpec.parse("low"), tmp_path, judge=asked, **run)
        assert summary["unscored"] == 29 and time.monotonic() - started < 30
        asked.close()
        server_dies.lives = 10**9
        again = judge(server, timeout=5, deadline=60)
        summary = evaluate(examples, load("tiny"), PolicySpec.parse("low"), tmp_path, judge=again, **run)
        assert summary["unscored"] == 0
        again.close()


# ------------------------------------------------------------------------------------------------ training


@pytest.fixture
def judge_file(tmp_path):
    def write(server: Replying, **more) -> str:
        settings = {"url": f"http://{server.host}/v1", "model": "m", "cache": "", "timeout": 0.5, "deadline": 1.0} | more
        (tmp_path / "judge.toml").write_text("[[judge]]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in settings.items()))
        return str(tmp_path / "judge.toml")

    return write


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("refill", "unasked"), [(0, 1 / 3), (2, 0.05)], ids=["while a step is sampled", "while it is refilled"])
def test_a_run_whose_judge_dies_stops_and_goes_on_as_if_it_had_not(tmp_path, judge_file, refill, unasked):
    examples, server_dies = synth.suite(24, split="train"), Mortal()
    with replying(server_dies) as server:
        settings = {"steps": 3, "save_steps": 3, "judge": judge_file(server), "probe_steps": 2, "refill": refill}
        whole = train(small(tmp_path / "whole", **settings), examples)
        asked = len(server.sent)
        server_dies.lives = asked - round(unasked * asked)
        with pytest.raises(JudgeError) as error:
            train(small(tmp_path / "run", **settings), examples)
        [kept] = tmp_path.glob("run/checkpoint-*")
        done = int(kept.name.rpartition("-")[2])
        assert 0 < done < 3 and [line["step"] for line in lines(tmp_path / "run")] == list(range(1, done + 1))
        assert re.fullmatch(
            rf"judge http://{server.host}/v1: is down: \d+ failures and no reply in \d s, the last: HTTP 503 not now; "
            rf"{re.escape(str(kept))} holds all {done} updates that are done; "
            "when the judge is back, the same command with --resume goes on",
            str(error.value),
        )
        with pytest.raises(JudgeError):  # still dead: nothing is lost
            train(small(tmp_path / "run", resume=True, **settings), examples)
        server_dies.lives = 10**9
        resumed = train(small(tmp_path / "run", resume=True, **settings), examples)
    timing = ("seconds", "step_time", "rollouts_per_second")
    told = [[{k: v for k, v in line.items() if k not in timing} for line in lines(tmp_path / name)] for name in ("whole", "run")]
    assert told[0] == told[1] and [line["step"] for line in told[0]] == [1, 2, 3]
    one, other = (open_checkpoint(str(folder)).model.state_dict() for folder in (whole, resumed))
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
def test_a_run_may_go_on_unscored(tmp_path, judge_file):
    with replying(Mortal(5)) as server:
        config = small(tmp_path / "run", steps=3, judge=judge_file(server), judge_down="unscored")
        final = train(config, synth.suite(24, split="train"))
    assert (final / "model.safetensors").is_file()
    shares = [line["unscored/judge"] for line in lines(tmp_path / "run")]
    assert len(shares) == 3 and shares[0] < 1 and shares[2] == 1


def test_a_judge_that_never_answered_ends_a_run_at_once(tmp_path, judge_file):
    with replying(Mortal(0)) as server:
        config = small(tmp_path / "run", judge=judge_file(server), judge_down="unscored")
        with pytest.raises(JudgeError, match=r"judge http\S+: .*HTTP 503 not now; nothing is trained yet; when the"):
            train(config, synth.suite(8, split="train"))
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_the_setting_is_checked(tmp_path):
    with pytest.raises(OptionError, match="unknown judge_down 'x'; choose stop or unscored"):
        small(tmp_path, judge_down="x")


@pytest.mark.slow
def test_two_processes_stop_together_where_the_judge_of_one_is_dead(tmp_path):
    """Each process has a judge of its own; that of the second dies after the first step."""
    script = Path(__file__).parent / "outage_run.py"
    with replying(Mortal()) as alive, replying(Mortal(12)) as mortal:
        judges = [f"http://{server.host}/v1" for server in (alive, mortal)]
        process = on_processes(2, script, tmp_path, *judges, timeout=240)
    ended = [json.loads((tmp_path / f"ended-{rank}.json").read_text()) for rank in (0, 1)]
    assert [e["status"] for e in ended] == [2, 2], process.stderr[-3000:]
    assert ended[0]["error"] == ended[1]["error"]
    assert f"judge http://{mortal.host}/v1: is down" in ended[0]["error"] and "--resume" in ended[0]["error"]
    [kept] = (tmp_path / "run").glob("checkpoint-*")
    assert (kept / "trainer_state.json").is_file() and kept.name in ended[0]["error"]
