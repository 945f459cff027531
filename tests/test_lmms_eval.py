"""The plug-in inside lmms-eval itself, in the environment that docs/how-to/lmms-eval.md tells to build."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from environments import ROOT, clean, install, kept, virtual
from PIL import Image

from visionthink import load
from visionthink.data import synth
from visionthink.errors import DataError
from visionthink.evals.integrations.lmms_requests import read_messages
from visionthink.evals.lmms_logs import evaluate_logs, read_lmms_logs
from visionthink.evals.run_folder import read_run
from visionthink.rewards.spec import read_judge

PAGE = (ROOT / "docs" / "how-to" / "lmms-eval.md").read_text("utf-8")


def told(beginning: str) -> list[str]:
    """Lines of the page's commands."""
    lines = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M) for line in block.splitlines()]
    return [line for line in lines if line.startswith(beginning)]


@pytest.fixture(scope="session")
def lmms(tmp_path_factory) -> Path:
    """`bin` of the page's environment; it sees this environment's libraries, so torch is there already."""
    recipe = told("pip install")
    extra = re.search(r"^lmms = \[.*?^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.S | re.M)
    assert extra and len(recipe) == 3
    wheels = tmp_path_factory.mktemp("wheel")
    build_wheel = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(ROOT)]
    subprocess.run([sys.executable, "-m", *build_wheel], check=True, capture_output=True)
    [wheel] = map(str, wheels.glob("*.whl"))

    def build(folder: Path) -> None:
        python = virtual(folder)
        for line in recipe[1:]:
            install(python, *(word.replace(".[lmms]", f"{wheel}[lmms]") for word in shlex.split(line)[2:]))

    env = kept("lmms-venv", (recipe, extra[0]), build)
    install(env / "bin" / "python", "--no-deps", "--force-reinstall", wheel)
    return env / "bin"


@pytest.fixture(scope="session")
def stock(lmms, tmp_path_factory):
    """(folder, report) of tests/lmms_stock.py."""
    out = tmp_path_factory.mktemp("stock")
    command = [lmms / "python", ROOT / "tests" / "lmms_stock.py", out]
    done = subprocess.run(command, cwd=out, env=clean() | {"HF_HOME": str(out / "hf")}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, json.loads((out / "report.json").read_text())


# ------------------------------------------------------------------------------------------------ stock tasks, scripted model


@pytest.mark.slow
@pytest.mark.network
def test_stock_tasks_give_exactly_the_known_scores(stock):
    _, report = stock
    assert report["four"]["scores"] == {
        "chartqa": {"relaxed_overall": 3 / 5, "relaxed_human_split": 2 / 3, "relaxed_augmented_split": 1 / 2},
        "docvqa_val": {"anls": pytest.approx((1 + 6 / 7 + 0) / 3, abs=1e-12)},
        "mme": {"mme_perception_score": (200 + 50) / 2, "mme_cognition_score": 200},
        "pope": {
            "pope_accuracy": 3 / 5,
            "pope_precision": 2 / 3,
            "pope_recall": 2 / 3,
            "pope_f1_score": 2 / 3,
            "pope_yes_ratio": 3 / 5,
        },
        "realworldqa": {"exact_match": 2 / 3},
        "ocrbench": {"ocrbench_accuracy": 2 / 1000},
    }


@pytest.mark.slow
@pytest.mark.network
def test_run_level_numbers_are_exact(stock):
    """25 episodes of 16 visual tokens in full and 4 at a quarter; 4 of them ask; a turn says 3 tokens in half a second."""
    numbers = stock[1]["four"]["throughput"]
    assert numbers == {
        "total_gen_tokens": 3 * (25 + 4),
        "total_elapsed_time": 14.5,
        "avg_speed": 6.0,
        "avg_latency": 14.5 / 25,
        "avg_request_ratio": 4 / 25,
        "avg_retain_final": (21 * 4 + 4 * 16) / (25 * 16),
        "avg_retain_cumulative": (21 * 4 + 4 * 20) / (25 * 16),
        "avg_visual_tokens": (21 * 4 + 4 * 20) / 25,
        "avg_output_tokens": 3 * (25 + 4) / 25,
        "avg_failed": 0,
        "avg_unanswered": 1,
    }


@pytest.mark.slow
@pytest.mark.network
def test_the_batch_size_changes_nothing(stock):
    _, report = stock
    assert report["one"] == report["four"]


@pytest.mark.slow
@pytest.mark.network
def test_stock_tasks_cannot_score_the_tags(stock):
    """Why the answer alone is the default."""
    scores = stock[1]["full"]["scores"]
    assert scores["chartqa"]["relaxed_overall"] == scores["pope"]["pope_accuracy"] == scores["docvqa_val"]["anls"] == 0
    assert stock[1]["full"]["answers"]["chartqa"][0] == "So: <answer>47</answer>"  # lmms-eval takes the thinking away itself


@pytest.mark.slow
@pytest.mark.network
def test_nothing_of_the_long_list_is_needed(stock):
    assert stock[1]["modules"] == []


@pytest.mark.slow
@pytest.mark.network
def test_arguments_are_refused_in_one_line(stock):
    refused = stock[1]["refusals"]
    assert refused.pop("pretrained=tiny,polcy=full,scale=2").startswith(
        "--model_args: visionthink has no polcy, scale; it has pretrained, policy, menu, ladder, "
    )
    for arguments, name in {
        "pretrained=tiny,policy=oracle": "policy=oracle",
        "pretrained=tiny,policy=cautious": "'cautious'",
        "pretrained=tiny,output=text": "output=text",
        "pretrained=tiny,ladder=0.25,1": "a ladder is written 0.25:1",
        "pretrained=tiny,batch_size=auto": "batch_size auto",
        "policy=full": "pretrained is missing",
    }.items():
        message = refused.pop(arguments)
        assert name in message and "\n" not in message and not message.startswith("accepted")
    assert refused == {}


@pytest.mark.slow
@pytest.mark.network
def test_what_cannot_be_asked_is_an_empty_answer_and_a_line(stock):
    found = stock[1]["troubles"]
    assert found["answers"] == ["fine", "fine", "", "", "", "", "fine", ""]
    lines = {line["example_id"]: line for line in found["sidecar"]}
    assert len(lines) == len(found["sidecar"]) == 8
    assert {name: line["failed"] for name, line in lines.items() if "failed" in line} == {
        "mixed/test/2": "the request holds no image",
        "mixed/test/3": "the request holds video; text and images are supported",
        "mixed/test/5": "no/such.png: no such file",
        "mixed/test/0#2": "the task cannot read the document (image file is truncated)",
    }
    assert lines["mixed/test/4"]["stop_reason"] == "policy_error"
    assert lines["mixed/test/4"]["turns"][0]["note"] == "out of memory"
    assert lines["mixed/test/6"]["metadata"] == {"doc_id": 6, "split": "test", "model": "model", "policy": "adaptive"}


# ------------------------------------------------------------------------------------------------ back into our transcripts


def logs_of(stock, name: str = "four") -> Path:
    return stock[0] / name / "scripted"


@pytest.mark.slow
@pytest.mark.network
def test_logs_come_back_with_their_scores_and_costs(stock):
    run = read_lmms_logs(logs_of(stock))
    assert (run.model, run.policy, run.failed) == ("scripted", "adaptive", [])
    assert len(run.tasks) == 6 and len(run.scored) == 25
    verdicts: dict[str, str] = defaultdict(str)
    for s in run.scored:
        verdicts[s.transcript.family] += s.verdict.verdict[0]
    assert verdicts == {
        "chartqa": "cwccw",
        "docvqa_val": "cuw",
        "mme": "ccwccc",
        "pope": "ccwcw",
        "realworldqa": "ccw",
        "ocrbench": "ccw",
    }
    by = {s.transcript.family: s.verdict.by for s in run.scored}
    assert (by["chartqa"], by["mme"]) == ("lmms-eval:relaxed_overall", "lmms-eval:mme_cognition_score")
    asked = {s.transcript.example_id for s in run.scored if s.transcript.requested}
    assert asked == {"chartqa/test/3", "mme/test/4", "pope/test/1", "ocrbench/test/1"}
    sold = next(s.transcript for s in run.scored if s.transcript.example_id == "docvqa_val/validation/0")
    assert (sold.reference, sold.aliases) == ("Acme Ltd", ("ACME",))


@pytest.mark.slow
@pytest.mark.network
def test_what_lmms_eval_grades_in_between_goes_to_the_judge(stock):
    graded = read_lmms_logs(logs_of(stock), judge=read_judge("exact")).scored
    invoice = next(s for s in graded if s.transcript.example_id == "docvqa_val/validation/1")
    assert (invoice.verdict.verdict, invoice.verdict.by) == ("wrong", "exact")
    assert sum(s.verdict.by.startswith("lmms-eval:") for s in graded) == 24


@pytest.mark.slow
@pytest.mark.network
def test_one_task_by_its_file_and_a_run_by_its_stamp(stock):
    folder = logs_of(stock)
    assert {s.transcript.family for s in read_lmms_logs(folder / "20260102_030405_samples_pope.jsonl").scored} == {"pope"}
    assert len(read_lmms_logs(folder / "20260102_030405").scored) == 25


@pytest.mark.slow
@pytest.mark.network
def test_the_folder_is_that_of_an_evaluation(stock, tmp_path):
    summary = evaluate_logs(logs_of(stock), tmp_path / "run")
    saved = read_run(tmp_path / "run")
    again, scored = saved.summary, saved.scored
    assert again == summary and len(scored) == 25
    assert summary["suite"] == "chartqa,docvqa_val,mme,ocrbench,pope,realworldqa"
    assert summary["accuracy"] == 16 / 24 and summary["unscored"] == 1 and summary["retain_cumulative"] == 0.41
    assert (tmp_path / "run" / "failed.jsonl").read_text() == ""


@pytest.fixture
def copied(stock, tmp_path) -> Path:
    return Path(shutil.copytree(logs_of(stock), tmp_path / "scripted"))


@pytest.mark.slow
@pytest.mark.network
def test_without_the_sidecar_there_are_no_costs(copied):
    [sidecar] = copied.glob("*_visionthink.jsonl")
    kept = sidecar.rename(copied.parent / "kept.jsonl")
    with pytest.raises(DataError, match="only the plug-in's transcripts say what the answers cost"):
        read_lmms_logs(copied)
    assert len(read_lmms_logs(copied, sidecar=kept).scored) == 25


@pytest.mark.slow
@pytest.mark.network
def test_the_sidecar_of_another_run_is_noticed(stock, copied):
    [other] = logs_of(stock, "full").glob("*_visionthink.jsonl")
    with pytest.raises(DataError, match="which is of another run"):
        read_lmms_logs(copied, sidecar=other)


@pytest.mark.slow
@pytest.mark.network
def test_a_sample_that_was_not_asked_is_named(copied):
    [sidecar] = copied.glob("*_visionthink.jsonl")
    lines = sidecar.read_text().splitlines(keepends=True)
    sidecar.write_text("".join(line for line in lines if '"pope/test/2"' not in line))
    with pytest.raises(DataError, match=r"sample 2 of 20260102_030405_samples_pope.jsonl: not in .*cache"):
        read_lmms_logs(copied)


@pytest.mark.slow
@pytest.mark.network
def test_two_runs_in_a_folder_are_told_apart(copied):
    shutil.copy(copied / "20260102_030405_samples_pope.jsonl", copied / "20260103_030405_samples_pope.jsonl")
    with pytest.raises(DataError, match=r"samples of 2 runs; give one of .*20260102_030405, .*20260103_030405"):
        read_lmms_logs(copied)


@pytest.mark.slow
@pytest.mark.network
def test_without_results_no_number_is_taken_for_a_score(copied):
    (copied / "20260102_030405_results.json").unlink()
    assert {s.verdict.verdict for s in read_lmms_logs(copied).scored} == {"unscored"}


@pytest.mark.slow
@pytest.mark.network
def test_a_metric_where_less_is_better_is_no_verdict(copied):
    file = copied / "20260102_030405_results.json"
    results = json.loads(file.read_text())
    results["higher_is_better"]["realworldqa"]["exact_match"] = False
    file.write_text(json.dumps(results))
    scored = read_lmms_logs(copied / "20260102_030405_samples_realworldqa.jsonl").scored
    assert [s.verdict.verdict for s in scored] == ["unscored"] * 3


@pytest.mark.parametrize("name", ["missing", "20260102_030405_visionthink.jsonl"])
def test_other_files_are_refused(tmp_path, name):
    if name != "missing":
        (tmp_path / name).write_text("{}\n")
    with pytest.raises(DataError, match=name):
        read_lmms_logs(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("20260102_030406_visionthink.jsonl", "{file}, line 1: not a transcript of the plug-in"),
        ("20260102_030405_samples_t.jsonl", "{file}, line 1: not a sample of lmms-eval"),
        ("20260102_030405_results.json", None),
    ],
)
@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_file_that_is_no_object_is_named(tmp_path, file, message, content):
    """Without results no number is a score; the other files are needed."""
    (tmp_path / "20260102_030405_samples_t.jsonl").write_text('{"doc_id": 0, "target": "a", "filtered_resps": ["a"]}\n')
    failed = {"example_id": "t-0", "failed": "no image", "family": "t", "metadata": {"doc_id": 0}}
    (tmp_path / "20260102_030406_visionthink.jsonl").write_text(json.dumps(failed) + "\n")
    (tmp_path / file).write_text(content + "\n")
    if message is None:
        assert [f.reason for f in read_lmms_logs(tmp_path).failed] == ["no image"]
        return
    with pytest.raises(DataError) as error:
        read_lmms_logs(tmp_path)
    assert str(error.value) == message.format(file=tmp_path / file)


# ------------------------------------------------------------------------------------------------ the tiny model, by command line

TASK = """\
task: shapes
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: shapes.parquet
test_split: test
output_type: generate_until
doc_to_visual: !function shapes.images
doc_to_text: !function shapes.question
doc_to_target: answer
process_results: !function shapes.score
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
CODE = """\
def images(doc):
    return [doc[name].convert("RGB") for name in ("image", "second") if doc[name] is not None]

def question(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]

def score(doc, results):
    return {"exact_match": float(results[0] == doc["answer"])}
"""
FAMILY = [synth.draw("scene", i, hard=bool(i % 2)) for i in range(8)]
ASKED = [*FAMILY, dataclasses.replace(FAMILY[0], id="two images", image=(FAMILY[0].image, FAMILY[1].image))]


@pytest.fixture(scope="session")
def by_command(lmms, tmp_path_factory) -> Path:
    """Where the page's command was given: eight scenes, then one request about two images and one without any."""
    import datasets

    desk = tmp_path_factory.mktemp("desk")
    tasks = desk / "tasks"
    tasks.mkdir()
    (tasks / "shapes.yaml").write_text(TASK)
    (tasks / "shapes.py").write_text(CODE)

    def png(image: Image.Image) -> dict:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    rows = [{"question": e.question, "answer": e.answer, "image": png(e.image), "second": None} for e in FAMILY]
    rows += [rows[0] | {"second": rows[1]["image"]}, rows[0] | {"image": None}]
    columns = {"question": datasets.Value("string"), "answer": datasets.Value("string")}
    columns |= {"image": datasets.Image(), "second": datasets.Image()}
    datasets.Dataset.from_list(rows, features=datasets.Features(columns)).to_parquet(tasks / "shapes.parquet")

    [line] = told("lmms-eval ")
    line = line.replace("pretrained=Qwen/Qwen2.5-VL-7B-Instruct", "pretrained=tiny,max_new_tokens=64")
    line = re.sub(r"--tasks \S+", "--tasks shapes --include_path tasks", line)
    program, *options = shlex.split(line)
    env = clean() | {"HF_HOME": str(desk / "hf")}
    done = subprocess.run([lmms / program, *options], cwd=desk, env=env, capture_output=True, text=True)
    (desk / "log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
    return desk


@pytest.mark.slow
@pytest.mark.network
def test_the_command_of_the_page_gives_scores_and_our_numbers(by_command):
    [file] = (by_command / "logs" / "tiny").glob("*_results.json")
    results = json.loads(file.read_text())
    ours = load("tiny", max_new_tokens=64).run(ASKED)
    right = sum(t.answer == t.reference for t in ours)
    assert results["results"]["shapes"]["exact_match,none"] == pytest.approx(right / 10)
    numbers = results["throughput"]
    assert numbers["avg_failed"] == 1
    assert numbers["avg_request_ratio"] == sum(t.requested for t in ours) / 9 > 0
    assert numbers["avg_retain_final"] == pytest.approx(sum(t.visual_tokens_final for t in ours) / (10 * 16))
    assert numbers["avg_retain_cumulative"] == pytest.approx(sum(t.visual_tokens for t in ours) / (10 * 16))
    assert numbers["avg_output_tokens"] == sum(t.output_tokens for t in ours) / 9
    assert numbers["avg_flops"] > numbers["avg_flops_cached"] > 1e6


@pytest.mark.slow
@pytest.mark.network
def test_the_log_says_what_failed_and_where_the_transcripts_are(by_command):
    log = (by_command / "log").read_text()
    assert "shapes/test/9: the request holds no image; lmms-eval is given an empty answer" in log
    assert re.search(r"transcripts are in logs/tiny/\d{8}_\d{6}_visionthink.jsonl", log)


@pytest.mark.slow
@pytest.mark.network
def test_its_logs_are_the_transcripts_of_the_model(by_command, tmp_path):
    run = read_lmms_logs(by_command / "logs" / "tiny")
    ours = load("tiny", max_new_tokens=64, batch_size=1).run(ASKED)  # there in one batch, here one by one
    assert [[t.text for t in s.transcript.turns] for s in run.scored] == [[t.text for t in o.turns] for o in ours]
    assert [s.verdict.verdict == "correct" for s in run.scored] == [o.answer == o.reference for o in ours]
    assert [f.example_id for f in run.failed] == ["shapes/test/9"]
    summary = evaluate_logs(by_command / "logs" / "tiny", tmp_path / "run")
    assert (summary["model"], summary["policy"], summary["n"], summary["failed"]) == ("tiny", "adaptive", 9, 1)


# ------------------------------------------------------------------------------------------------ without lmms-eval


def test_the_entry_point_imports_nothing_heavy():
    code = (
        "import sys, visionthink.evals.integrations.lmms_plugin as p, visionthink.evals.lmms_logs\n"
        "sys.exit(', '.join({'torch', 'transformers', 'lmms_eval', 'loguru', 'datasets'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


IMAGE = {"type": "image", "url": "a.png"}


def words(text: str) -> dict:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("content", "question"),
    [
        ([IMAGE, words("Why?")], "Why?"),
        ([IMAGE, words("Look."), words("Why?")], "Look.\nWhy?"),
        ([words("Look:"), IMAGE, words("Why?")], "Look:\n<image>\nWhy?"),
        ([words("Why?"), IMAGE], "Why?\n<image>"),
        ([IMAGE, words("In <image>: why?")], "In <image>: why?"),
    ],
)
def test_messages_become_a_question(content, question):
    example = read_messages([{"role": "user", "content": content}], "t/test/0", "t", {"doc_id": 0})
    assert (example.question, example.image, example.family) == (question, "a.png", "t")


def test_a_system_message_stands_before_the_question():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [IMAGE, words("Why?")]}]
    example = read_messages(messages, "t/test/0", "t", {})
    assert (example.earlier, example.question) == ((("system", "Be brief."),), "Why?")


def test_several_images_and_earlier_turns_are_read():
    messages = [
        {"role": "user", "content": [words("Look: "), IMAGE, words("What is it?")]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [words("And this?"), IMAGE]},
    ]
    example = read_messages(messages, "t/test/0", "t", {})
    assert example.earlier == (("user", "Look: \n<image>\nWhat is it?"), ("assistant", "A cat."))
    assert (example.question, len(example.images)) == ("And this?\n<image>", 2)
    assert len(read_messages([{"role": "user", "content": [IMAGE] * 3}], "t/test/0", "t", {}).images) == 3


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": "Why?"}], "no image"),
        ([{"role": "user", "content": [IMAGE, {"type": "audio", "url": "a.wav"}]}], "holds audio"),
        (
            [{"role": "user", "content": [IMAGE]}, {"role": "assistant", "content": "a"}],
            "last message is of the assistant",
        ),
    ],
)
def test_other_messages_are_refused(messages, reason):
    with pytest.raises(DataError, match=reason):
        read_messages(messages, "t/test/0", "t", {})
