"""Evaluations that are killed, run side by side, fed with bad input, or judged by nobody."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from episodes import ladder
from PIL import Image

from visionthink.data import synth
from visionthink.errors import DataError, InputError, OptionError, StorageError
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.runner import evaluate
from visionthink.model import Model, load
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.protocol import Protocol
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.rewards.spec import read_judge
from visionthink.types import Completion, Example

KILLS = int(os.environ.get("KILLS", 3))
EXACT = RulesJudge(closed=True)
NAMES = {"suite": "mini", "model_name": "tiny"}


def without_times(folder: Path) -> list[dict]:
    """Everything that was written of the episodes but how long they took."""
    lines = [json.loads(line) for line in (folder / "transcripts.jsonl").read_text().splitlines()]
    for line in lines:
        for turn in line["turns"]:
            del turn["usage"]["seconds"], turn["usage"]["first_token_seconds"]
    return lines


def figures(folder: Path) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    return {k: v for k, v in summary.items() if "seconds" not in k}


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", max_new_tokens=8)


@pytest.mark.slow
def test_killed_at_any_moment_the_result_is_the_same(tmp_path):
    """KILLS=20 for the whole measurement."""
    command = [sys.executable, "-m", "visionthink", "eval", "mini", "--model", "tiny", "--max-new-tokens", "8", "--out"]
    assert subprocess.run([*command, str(tmp_path / "whole")], capture_output=True).returncode == 0
    out, draw, cut = tmp_path / "killed", random.Random(0), 0
    for _ in range(KILLS):
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        lines = (out / "progress.jsonl").stat().st_size if (out / "progress.jsonl").exists() else 0
        while time.monotonic() < end and process.poll() is None:  # until it has begun to work, and a little longer
            if (out / "progress.jsonl").exists() and (out / "progress.jsonl").stat().st_size > lines:
                break
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        cut += process.poll() is None
        process.kill()
        process.wait()
        if (out / "summary.json").exists():  # done: begin anew
            for file in ("progress.jsonl", "summary.json", "transcripts.jsonl"):
                (out / file).unlink(missing_ok=True)
    assert cut >= KILLS // 2
    assert subprocess.run([*command, str(out)], capture_output=True).returncode == 0
    assert without_times(out) == without_times(tmp_path / "whole")
    assert figures(out) == figures(tmp_path / "whole")


class Counting(ScriptedPolicy):
    """Counts what it is asked."""

    asked = 0

    def complete(self, histories):
        self.asked += len(histories)
        return super().complete(histories)


def scripted(*texts: str) -> tuple[Model, Counting]:
    policy = Counting(texts or ["<think>t</think><answer>4</answer>"])
    return Model(policy, Protocol(), ladder(1.0), load("tiny").budget), policy


def test_a_finished_example_is_not_repeated(tmp_path):
    examples = [dataclasses.replace(e, answer="4") for e in synth.suite(10)]
    model, policy = scripted()
    first = evaluate(examples, model, PolicySpec.parse("full"), tmp_path, judge=EXACT, batch_size=4, **NAMES)
    assert policy.asked == 10
    lines = (tmp_path / "progress.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "progress.jsonl").write_bytes(lines[0] + lines[1][:-20])  # killed while the second batch was written
    again = evaluate(examples, model, PolicySpec.parse("full"), tmp_path, judge=EXACT, batch_size=4, **NAMES)
    assert policy.asked == 16 and again["n"] == 10 and again["accuracy"] == first["accuracy"] == 1.0


@pytest.mark.parametrize("size", [4, 6, 13, 64])
def test_the_gallery_keeps_as_many_episodes_as_it_says(tmp_path, monkeypatch, size):
    """However batches fall, and where the run was cut: the first 5 of 14 that had anything on offer."""
    monkeypatch.setattr("visionthink.evals.runner.GALLERY", 5)
    policy = Counting(["<think>t</think><answer>4</answer>"])
    model = Model(policy, Protocol(), ladder(0.25, 1.0), load("tiny").budget)
    examples = [dataclasses.replace(e, answer="4") for e in synth.suite(15)]
    examples[1] = Example("broken", "q", b"no image", answer="4")

    def run() -> list[str]:
        evaluate(examples, model, PolicySpec.parse("adaptive"), tmp_path, judge=EXACT, batch_size=size, **NAMES)
        return sorted(file.name.split(".")[0] for file in (tmp_path / "views").glob("*.full.png"))

    kept = sorted(e.id for e in (examples[0], *examples[2:6]))
    assert run() == kept
    lines = (tmp_path / "progress.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "progress.jsonl").write_bytes(b"".join(lines[:-1]))  # killed before the last batch was written down
    assert run() == kept


def test_a_gallery_of_one_view_for_all_is_empty(tmp_path):
    model, _ = scripted()
    evaluate(synth.suite(3), model, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)
    assert not (tmp_path / "views").exists()


def test_a_folder_of_another_run_is_refused(tmp_path):
    model, _ = scripted()
    evaluate(synth.suite(2), model, PolicySpec.parse("full"), tmp_path, judge=EXACT, settings={"limit": 2}, **NAMES)
    with pytest.raises(OptionError, match="limit was 2 there and is 3 now; use another folder"):
        evaluate(synth.suite(2), model, PolicySpec.parse("full"), tmp_path, judge=EXACT, settings={"limit": 3}, **NAMES)
    with pytest.raises(OptionError, match="policy was 'full' there and is 'low' now"):
        evaluate(synth.suite(2), model, PolicySpec.parse("low"), tmp_path, judge=EXACT, settings={"limit": 2}, **NAMES)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "--out {out}: config.json is damaged"),
        ("progress.jsonl", "{out}/progress.jsonl, line 1: not a JSON object"),
    ],
)
@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, b"\xff"])
def test_a_file_of_a_run_that_is_no_object_is_named(tmp_path, file, message, content):
    model, _ = scripted()
    (tmp_path / file).write_bytes((content if isinstance(content, bytes) else content.encode()) + b"\n")
    with pytest.raises(InputError) as error:
        evaluate(synth.suite(2), model, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)
    assert str(error.value) == message.format(out=tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"failed": []}, "failed: [] is not an object"),
        ({"batch": "0"}, "batch: '0' is not a whole number"),
        ({"scored": [7]}, "scored[0]: 7 is not an object"),
        ({"scored": [{}]}, "verdict: is missing"),
        ({"more": 1}, "more: there is no such field"),
    ],
)
def test_a_batch_that_is_damaged_is_named(tmp_path, change, reason):
    model, _ = scripted()
    batch = {"batch": 0, "of": "x", "scored": [], "failed": {}} | change
    (tmp_path / "progress.jsonl").write_text(json.dumps(batch) + "\n")
    with pytest.raises(DataError) as error:
        evaluate(synth.suite(2), model, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)
    assert str(error.value) == f"{tmp_path}/progress.jsonl, line 1: not a batch of this program: {reason}"


def test_a_table_that_was_edited_in_between_is_refused(tmp_path):
    model, _ = scripted()
    examples = [dataclasses.replace(e, answer="4") for e in synth.suite(3)]
    evaluate(examples, model, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)
    examples[1] = dataclasses.replace(examples[1], question="Another one?")
    with pytest.raises(OptionError, match="changed since this folder was begun; name a new folder"):
        evaluate(examples, model, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)


def test_a_model_that_could_not_be_called_is_asked_again(tmp_path):
    class Down(Counting):
        def complete(self, histories):
            self.asked += len(histories)
            return [Completion.failed("server", "HTTP 503") for _ in histories]

    examples = [dataclasses.replace(e, answer="4") for e in synth.suite(4)]
    model, policy = scripted()
    down = Model(Down(["-"]), model.protocol, model.menu, model.budget)
    summary = evaluate(examples, down, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)
    assert (summary["unscored"], summary["stop_reasons"]) == (4, {"policy_error": 4})
    summary = evaluate(examples, model, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)
    assert (summary["accuracy"], summary["unscored"], policy.asked) == (1.0, 0, 4)


@pytest.mark.slow
def test_two_at_once_share_nothing(tmp_path):
    command = [sys.executable, "-m", "visionthink", "eval", "mini", "--limit", "24", "--max-new-tokens", "8", "--out"]
    both = [subprocess.Popen([*command, str(tmp_path / name)], stdout=subprocess.DEVNULL) for name in "ab"]
    assert [p.wait(120) for p in both] == [0, 0]
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")


def test_two_processes_never_work_in_one_folder(tmp_path):
    model, _ = scripted()
    with (tmp_path / "progress.jsonl").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process works on this evaluation"):
            evaluate(synth.suite(2), model, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)


def test_bad_input_is_counted_and_named_and_the_rest_is_scored(tmp_path):
    good = [dataclasses.replace(e, answer="4") for e in synth.suite(3)]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    huge = tmp_path / "huge.png"
    Image.new("1", (20000, 6000)).save(huge)
    examples = [
        good[0],
        Example("broken", "q", broken, answer="4"),
        Example("missing", "q", tmp_path / "missing.png", answer="4"),
        good[1],
        Example(good[0].id, "the same id", good[2].image, answer="4"),
        Example("huge", "q", huge, answer="4"),
        Example("no answer", "q", good[2].image),
        good[2],
    ]
    model, _ = scripted()
    summary = evaluate(examples, model, PolicySpec.parse("full"), tmp_path / "out", judge=EXACT, **NAMES)
    assert (summary["n"], summary["unscored"], summary["failed"], summary["accuracy"]) == (4, 1, 4, 1.0)
    failed = {r["example_id"]: r["reason"] for r in map(json.loads, (tmp_path / "out" / "failed.jsonl").read_text().splitlines())}
    assert set(failed) == {"broken", "missing", "huge", f"{good[0].id} (again)"}
    assert "broken.png" in failed["broken"] and "missing.png: no such file" in failed["missing"]
    assert "earlier row" in failed[f"{good[0].id} (again)"]


def test_nothing_to_evaluate(tmp_path):
    model, _ = scripted()
    with pytest.raises(DataError, match="suite mini: no examples"):
        evaluate([], model, PolicySpec.parse("full"), tmp_path, judge=EXACT, **NAMES)
    with pytest.raises(DataError, match=r"every example failed; the first: .*nowhere.png"):
        evaluate(
            [Example("a", "q", tmp_path / "nowhere.png", answer="4")],
            model,
            PolicySpec.parse("full"),
            tmp_path / "o",
            judge=EXACT,
            **NAMES,
        )


def test_a_judge_that_is_down_costs_its_verdicts_only(tmp_path):
    """What the rules decide counts; the rest is unscored, and judged when the judge is back."""
    examples = [
        dataclasses.replace(e, answer=a) for e, a in zip(synth.suite(4), ("4", "5", "an automobile", "a bird"), strict=True)
    ]
    spec = tmp_path / "judge.toml"
    table = '[[judge]]\nkind = "rules"\n[[judge]]\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\ndeadline = 2\ncache = ""\n'
    spec.write_text(table)
    model, _ = scripted()
    summary = evaluate(examples, model, PolicySpec.parse("full"), tmp_path / "o", judge=read_judge(str(spec)), **NAMES)
    assert (summary["n"], summary["unscored"], summary["accuracy"]) == (4, 2, 0.5)
    reasons = [line["reason"] for line in without_times(tmp_path / "o") if line["verdict"] == "unscored"]
    assert len(reasons) == 2 and all("127.0.0.1:9" in r for r in reasons)

    class Back(RulesJudge):
        identity = read_judge(str(spec)).identity

        def compare(self, answers):
            return [dataclasses.replace(v, verdict="wrong") for v in super().compare(answers)]

    again = evaluate(examples, model, PolicySpec.parse("full"), tmp_path / "o", judge=Back(), **NAMES)
    assert (again["unscored"], again["accuracy"]) == (0, 0.25)


def test_logits_that_are_no_numbers_are_unscored(tmp_path, tiny):
    head = tiny.policy.checkpoint.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda m, i, logits: logits.fill_(float("nan")))
    try:
        summary = evaluate(synth.suite(3), tiny, PolicySpec.parse("adaptive"), tmp_path, judge=EXACT, **NAMES)
    finally:
        hook.remove()
    assert (summary["n"], summary["unscored"], summary["accuracy"]) == (3, 3, None)
    assert summary["stop_reasons"] == {"policy_error": 3}


def test_metrics_of_a_benchmark_stand_beside_the_accuracy(tmp_path):
    model, _ = scripted()
    summary = evaluate(
        synth.suite(2),
        model,
        PolicySpec.parse("full"),
        tmp_path,
        judge=EXACT,
        metric=lambda scored: {"n": len(scored), "share": 0.5},
        **NAMES,
    )
    assert summary["metrics"] == {"n": 2, "share": 0.5}
