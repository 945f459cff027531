"""Saved answers scored again: three kinds of lines, resumed, and compared with another judge."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

from visionthink.cli import main
from visionthink.errors import DataError
from visionthink.evals.answers import read_answers
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.scoring import score
from visionthink.rewards.judge import Answer
from visionthink.rewards.rules.judge import RulesJudge

LINES = [
    {"question": "How many?", "ground_truth": "47", "prediction": "46", "verdict": "correct"},
    {"question": "How much?", "ground_truth": ["47%", "0.47"], "prediction": 47, "verdict": "correct"},
    {"question": "What?", "ground_truth": "car", "prediction": "automobile"},
    {"doc_id": 3, "target": "['a cat', 'cat']", "filtered_resps": ["Cat"], "doc": {"question": "What is it?"}},
    {"doc_id": 4, "target": "12", "resps": [["13"]], "input": "How many?"},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in LINES) + b'oops\n{"question": "x"}\n\xff\n')
    return path


def test_lines_of_every_kind(file):
    read = list(read_answers(file))
    assert read[1].content == Answer("How much?", "47", ("47%", "0.47"))
    assert read[3].content == Answer("What is it?", "Cat", ("a cat", "cat"))
    assert read[4].content == Answer("How many?", "13", ("12",))
    assert [a.content.reason for a in read[5:]] == [
        "line 6: not a JSON object",
        "line 7: no ground_truth; it has 'question'",
        "line 8: not UTF-8 text",
    ]


def test_score_and_confusion(file):
    summary = score(read_answers(file), RulesJudge())
    assert (summary["n"], summary["correct"], summary["wrong"], summary["unscored"]) == (8, 2, 2, 4)
    assert summary["accuracy"] == 0.5
    assert summary["confusion"]["counts"]["correct"] == {"correct": 1, "wrong": 1, "unscored": 0}
    assert summary["confusion"]["agreement"] == 0.5


def test_resume_asks_only_what_is_left(file, tmp_path):
    class Counting(RulesJudge):
        asked = 0

        def compare(self, answers):
            self.asked += len(answers)
            return super().compare(answers)

    out = tmp_path / "scores"
    whole = score(read_answers(file), RulesJudge(), out)
    assert json.loads((out / "summary.json").read_text()) == whole
    lines = (out / "verdicts.jsonl").read_bytes().splitlines(keepends=True)
    (out / "verdicts.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:10])  # killed in the middle of a line
    (out / "summary.json").unlink()
    judge = Counting()
    assert score(read_answers(file), judge, out) == whole
    assert judge.asked == 3  # the one that was unscored, too
    assert json.loads((out / "summary.json").read_text()) == whole
    assert sorted((out / "verdicts.jsonl").read_bytes().splitlines(keepends=True)) == sorted(lines)
    with pytest.raises(DataError, match="holds verdicts of rules"):
        score(read_answers(file), RulesJudge(closed=True), out)


def test_transcripts_are_scored_again(tmp_path, capsys):
    from visionthink.evals.runner import evaluate
    from visionthink.model import load
    from visionthink.recipes import suite

    exact = RulesJudge(closed=True)
    model = load("tiny", max_new_tokens=8)
    summary = evaluate(
        suite("mini", 12), model, PolicySpec.parse("adaptive"), tmp_path, suite="mini", model_name="tiny", judge=exact
    )
    assert summary["judge"] == "exact"
    again = score(read_answers(tmp_path / "transcripts.jsonl"), exact)
    assert again["accuracy"] == summary["accuracy"] and again["confusion"]["agreement"] == 1.0


def test_what_cannot_be_the_folder_of_verdicts(file, tmp_path, capsys):
    """A file, as `--out` used to be; the folder of an evaluation, whose summary would be lost; lines that are no verdicts."""

    def fails(out) -> str:
        assert main(["score", str(file), "--out", str(out)]) == 2
        return capsys.readouterr().err

    (tmp_path / "verdicts.jsonl").touch()
    assert "verdicts.jsonl: is a file; name a folder, which gets verdicts.jsonl and summary.json" in fails(
        tmp_path / "verdicts.jsonl"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}")
    assert "run: holds the summary of something else; name another folder" in fails(tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").read_text() == "{}"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "verdicts.jsonl").write_text('{"verdict": "correct"}\n')
    assert "verdicts.jsonl, line 1: not a verdict; give --out another folder" in fails(tmp_path / "other")


def test_a_full_disk_is_one_line_and_keeps_what_was_judged(tmp_path):
    """The limit on the size of a file stands for the disk."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"question": "How many?", "ground_truth": "3", "prediction": "3", "id": i}) + "\n" for i in range(100))
    )
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000)); "
        "from visionthink.cli import main; sys.exit(main())"
    )
    arguments = ["score", str(rows), "--out", str(tmp_path / "out")]
    ended = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True, check=False)
    file = tmp_path / "out" / "verdicts.jsonl"
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == f"error: {file}: cannot be written (File too large); what is finished is kept"
    assert 64 <= len(file.read_bytes().splitlines()) < 100
    assert main(arguments) == 0
    assert [json.loads(line)["line"] for line in file.read_text().splitlines()] == list(range(1, 101))


def test_command_line(file, tmp_path, capsys):
    assert main(["score", str(file), "--json", "--against", "exact", "--out", str(tmp_path / "scores")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 8
    assert json.loads(out[0]) == {"verdict": "wrong", "by": "rules", "reason": "quantity"}
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert (summary["judge"], summary["n"], summary["correct"], summary["wrong"], summary["unscored"]) == ("rules", 8, 2, 2, 4)
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "print one JSON object for each answer, in order, with verdict, by and reason; the summary is in DIR/summary.json" in text
    )
    assert "--out DIR folder for verdicts.jsonl and summary.json" in text
    assert main(["score", str(file.parent / "no.jsonl")]) == 2
    assert capsys.readouterr().err.endswith("no.jsonl: no such file\n")


@pytest.mark.parametrize(
    "written, why",
    [
        (b"question,answer\nq,a\nr,b\n", "not a JSON object"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(128, 256)), "not UTF-8 text"),
        (b'[\n {\n  "question": "q",\n  "answer": "a"\n }\n]\n', "not a JSON object"),
        (b'{"question": "q", "answer": "a"}\n' * 3, "no ground_truth; it has 'question', 'answer'"),
    ],
)
def test_a_file_of_which_no_line_can_be_used_is_refused(tmp_path, capsys, written, why):
    (tmp_path / "rows").write_bytes(written)
    assert main(["score", str(tmp_path / "rows"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert said.err.startswith(f"error: {tmp_path / 'rows'}: no row can be judged: {why}")
    assert said.err.endswith("; JSON lines are wanted, one object on each line\n") and not (tmp_path / "out").exists()


def test_reasons_are_counted_without_their_lines(tmp_path, capsys):
    bad = [{"question": "q", "answer": "a", "prediction": "b"}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*bad, LINES[0]]))
    summary = score(read_answers(tmp_path / "rows.jsonl"), RulesJudge())
    assert summary["unscored_reasons"] == {"no ground_truth; it has 'question', 'answer', 'prediction'": 3}


def test_a_folder_and_a_packed_file_are_named(tmp_path, capsys):
    assert main(["score", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: is a folder; name a file of JSON lines\n"
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    assert main(["score", str(tmp_path / "rows.jsonl.gz")]) == 2
    assert capsys.readouterr().err.endswith("rows.jsonl.gz: is packed by gzip; unpack it first\n")


def test_a_folder_of_another_judge_is_refused_before_anything_is_judged(file, tmp_path, capsys):
    assert main(["score", str(file), "--out", str(tmp_path / "scores")]) == 0
    said = capsys.readouterr()
    assert "the verdicts in the file (rows), rules (columns)" in said.out
    assert said.err.splitlines()[-1].startswith("judging by rules: 8 of 8 after ")
    assert main(["score", str(file), "--judge", "exact", "--against", "rules", "--out", str(tmp_path / "scores")]) == 2
    verdicts = tmp_path / "scores" / "verdicts.jsonl"
    assert capsys.readouterr().err == f"error: {verdicts}: holds verdicts of rules; give --out another folder\n"
    assert main(["score", str(file), "--against", "exact"]) == 0
    assert "exact (rows), rules (columns)" in capsys.readouterr().out
