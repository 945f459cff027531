"""The command line as other tools rely on it: JSON on stdout, one line on stderr, exit status 0 or 2."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from visionthink.cli import main
from visionthink.data import synth
from visionthink.evals.table import summary_table
from visionthink.policies.checkpoint import resolve


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(capsys, *argv: str) -> str:
    status, out, err = run(capsys, *argv)
    assert status == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err.removeprefix("error: ").strip()


@pytest.fixture
def picture(tmp_path):
    example = synth.draw("scene", 3)
    example.image.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_ask(capsys, picture):
    status, out, err = run(capsys, "ask", str(picture), "-q", "How many shapes are there?", "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert set(result) == {"answer", "levels", "looks", "stop_reason", "usage", "turns", "notes"}
    assert result["levels"] in ([0.25], [0.25, 1.0])
    usage = result["usage"]
    assert usage["visual_tokens_full"] == 16 and usage["visual_tokens"] in (4, 20)
    assert {"retain_final", "retain_cumulative", "output_tokens", "seconds"} <= set(usage)


def test_ask_for_people_and_for_several_images(capsys, picture):
    status, out, _ = run(capsys, "ask", str(picture), "-q", "How many shapes are there?")
    assert status == 0 and "visual tokens, 16 for the full view alone" in out
    status, out, _ = run(capsys, "ask", str(picture), str(picture), "-q", "How many shapes are there?", "--json")
    both = json.loads(out)
    assert both["usage"]["visual_tokens_full"] == 32
    assert [(v["image"], v["box"], v["visual_tokens"]) for v in both["turns"][0]["views"]] == [
        (0, [0, 0, 112, 112], 4),
        (1, [0, 0, 112, 112], 4),
    ]


def test_ask_full_and_low(capsys, picture):
    for ladder, levels in [("1", [1.0]), ("0.25", [0.25])]:
        _, out, _ = run(capsys, "ask", str(picture), "-q", "How many shapes are there?", "--ladder", ladder, "--json")
        assert json.loads(out)["levels"] == levels


def test_tokens(capsys):
    _, out, _ = run(capsys, "tokens", "--size", "2048x1024", "--json")
    result = json.loads(out)
    assert result["visual_tokens_full"] == 2701
    assert [(e["level"], e["visual_tokens"]) for e in result["levels"]] == [(0.25, 648), (1.0, 2701)]
    assert [(e["width"], e["height"]) for e in result["levels"]] == [(1008, 504), (2044, 1036)]
    _, out, _ = run(capsys, "tokens", "--size", "2048x1024", "--family", "qwen3-vl", "--json")
    assert json.loads(out)["visual_tokens_full"] == 2048
    status, out, _ = run(capsys, "tokens", "--size", "224x224", "--family", "qwen3-vl")
    assert status == 0 and "lower levels would save no tokens" in out


def test_tokens_of_an_image(capsys, picture):
    _, out, _ = run(capsys, "tokens", str(picture), "--json")
    assert json.loads(out)["visual_tokens_full"] == 16


def test_bad_images(capsys, tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    Image.new("RGB", (300, 1)).save(tmp_path / "thin.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    noise.save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:9000])
    for name, reason in [
        ("missing.png", "no such file"),
        ("empty.png", "the file is empty"),
        ("text.png", "not an image file that can be read"),
        ("half.png", "damaged or truncated image"),
        ("thin.png", "aspect ratio above 200"),
    ]:
        message = fails(capsys, "ask", str(tmp_path / name), "-q", "?")
        assert message.startswith(str(tmp_path / name)) and reason in message
    message = fails(capsys, "ask", str(tmp_path / "whole.png"), "-q", "?", "--max-megapixels", "0.001")
    assert message == f"{tmp_path / 'whole.png'}: 90x90 px is more than the limit of 0.001 MP"


def test_odd_images_are_handled_and_said(capsys, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("CMYK", (112, 112)).save(tmp_path / "cmyk.jpg")
    frames = [Image.new("RGB", (112, 112), c) for c in ("red", "green")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    for name, note in [
        ("dot.png", "ladder collapsed to 1: a lower level would save no tokens"),
        ("cmyk.jpg", "CMYK converted to RGB"),
        ("film.gif", "first of 2 frames used"),
    ]:
        status, out, _ = run(capsys, "ask", str(tmp_path / name), "-q", "How many shapes are there?", "--json")
        assert status == 0 and note in json.loads(out)["notes"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["tokens"], "give an image or --size"),
        (["tokens", "--size", "10"], "expected WIDTHxHEIGHT"),
        (["tokens", "--size", ""], "expected WIDTHxHEIGHT"),
        (["tokens", "--size", "10x10", "--family", "x"], "--family 'x': choose from qwen2.5-vl"),
        (["tokens", "--size", "10x10", "--ladder", "2"], "ladder 2: levels are shares"),
        (["tokens", "--size", "1x500"], "aspect ratio above 200"),
        (["fly"], "argument COMMAND: 'fly' is unknown; choose from ask"),
        (["eval", "mini", "--policy", "x", "--limit", "2", "--out", "OUT"], "--policy 'x': choose one of adaptive"),
        (["eval", "mini", "--policy", "random:2", "--limit", "2", "--out", "OUT"], "with P from 0 to 1"),
        (["eval", "maxi", "--out", "OUT"], "unknown suite 'maxi'; choose from mini"),
        (["eval", "mini", "--limit", "0", "--out", "OUT"], "--limit 0: must be at least 1"),
        (["eval", "mini", "--limit", "2", "--model", "./nowhere", "--out", "OUT"], "model ./nowhere: no such folder"),
        (["eval", "mini", "--limit", "2", "--dialect", "x", "--out", "OUT"], "unknown dialect 'x'"),
        (["eval", "mini", "--limit", "2", "--max-new-tokens", "0", "--out", "OUT"], "--max-new-tokens 0: must be at least 1"),
        (["train", "huge", "--out", "OUT"], "unknown recipe 'huge'"),
        (["train", "tiny", "--out", "OUT", "--colour", "red"], "unrecognized arguments: --colour; did"),
        (["train", "tiny", "--out", "OUT", "--steps"], "argument --steps: expected one argument"),
        (["train", "tiny", "--out", "OUT", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["train", "tiny", "--out", "OUT", "--theta=x"], "argument --theta: invalid float value: 'x'"),
        (["train", "tiny", "--out", "OUT", "--learning-rate", "nan"], "learning_rate nan: must be a number"),
        (["train", "tiny", "--out", "OUT", "--steps", "1", "--resume"], "--resume: no run in"),
        (["eval", "mini", "--limit", "2", "--batch-size", "0", "--out", "OUT"], "--batch-size 0: must be at least 1"),
        (
            ["eval", "mini", "--limit", "2", "--policy", "oracle", "--ladder", "1", "--out", "OUT"],
            "need something to ask for",
        ),
        (["tokens", "--size", "9" * 5000 + "x5"], "expected WIDTHxHEIGHT"),
        (["tokens", "--size", "²x5"], "expected WIDTHxHEIGHT"),
        (["ask", "x.png", "-q", "?", "--max-megapixels", "nan"], "--max-megapixels nan: must be a number above 0"),
        (["demo", "--out", "/"], "--out /: the folder is not empty"),
        (["report", "nowhere", "--out", "r.html"], "nowhere: no summary.json"),
        (["ask", "x.png"], "required: -q/--question"),
        (["ask", "x.png", "-q", " "], "argument -q/--question: is empty"),
        (["train", "tiny", "--out", "OUT", "--lr", "1"], "unrecognized arguments: --lr; did"),
        (["ask", "x.png", "-q", "what \udcff is it?"], "--question: not valid UTF-8"),
        (["ask", "x.png", "-q", "?", "--model", ""], "argument --model: is empty"),
        (["eval", "mini", "--out", ""], "argument --out: is empty"),
        (["reproduce", "--claims", ""], "argument --claims: is empty"),
        (["train", "tiny", "--out", "OUT", "--seed", "4294967296"], "seed 4294967296: must be below"),
        (["train", "tiny", "--out", "OUT", "--data", "empty.jsonl"], "empty.jsonl: is empty"),
        (["eval", "mini", "--judge", "", "--out", "OUT"], "argument --judge: is empty"),
        (["eval", "mini", "--columns", "question=q", "--out", "OUT"], "mini: is generated; --benchmark, --split, --columns"),
        (["eval", "mini", "--image-root", "/nope", "--out", "OUT"], "mini: is generated; --benchmark, --split, --columns"),
        (
            ["eval", "null.jsonl", "--columns", "question=question,question=answer", "--out", "OUT"],
            "columns 'question=answer': question is named already, as question",
        ),
        (["curate", "mini", "--model", "tiny", "--columns", "answer=a", "--out", "OUT"], "mini: is generated; --columns and"),
        (["curate", "mini", "--model", "./nope", "--out", "OUT"], "model ./nope: no such folder"),
        (["eval", "mini", "--out", "afile"], "--out afile: is a file; name a folder"),
        (["eval", "mini", "--out", "afile/x"], "afile is not a folder that can be written to"),
        (["curate", "mini", "--model", "tiny", "--out", "afile"], "--out afile: is a file; name a folder"),
        (["demo", "--out", "afile"], "--out afile: is a file; name a folder"),
        (["demo", "--out", "/proc/x"], "--out /proc/x: /proc is not a folder that can be written to"),
        (["reproduce", "--out", "afile"], "--out afile: is a file; name a folder"),
        (["train", "tiny", "--out", "afile"], "--out afile: is a file; name a folder"),
        (["report", "nowhere", "--out", "."], "--out .: is a folder; name the page, as report.html"),
        (["report", "afile", "--out", "r.html"], "afile: is a file; name the folder of a run"),
        (["eval", "mini", "--limit", "2", "--out", "foreign"], "--out foreign: holds the summary of something else"),
        (["eval", "--from-lmms", "logs", "--out", "foreign"], "--out foreign: holds the summary of something else"),
        (["train", "tiny", "--model", "http://localhost:1/v1#m", "--out", "OUT"], "http://localhost:1/v1#m: is an endpoint, and"),
        (["train", "tiny", "--out", "OUT", "--data", "null.jsonl"], "null.jsonl: none of the first lines is a JSON object"),
    ],
)
def test_bad_options(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "null.jsonl").write_text("{}\nnull\n")
    (tmp_path / "afile").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "summary.json").write_text("{}")
    assert message in fails(capsys, *(str(tmp_path / "out") if a == "OUT" else a for a in argv))
    assert not (tmp_path / "out").exists() and (tmp_path / "foreign" / "summary.json").read_text() == "{}"


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(Exception, match="no such file"):
        main(["ask", "missing.png", "-q", "?", "--debug"])


def test_evaluate_and_report(capsys, tmp_path):
    for policy in ("low", "full", "adaptive", "oracle", "random:0.5", "forced:request"):
        folder = tmp_path / policy.replace(":", "-")
        status, out, err = run(
            capsys, "eval", "mini", "--limit", "24", "--policy", policy, "--max-new-tokens", "8", "--out", str(folder), "--json"
        )
        begun, ended = err.splitlines()
        assert (status, begun) == (0, f"tiny {policy}: 0 of 24") and ended.startswith(f"tiny {policy}: 24 of 24 after ")
        summary = json.loads(out)
        assert (summary["n"], summary["unscored"], summary["failed"]) == (24, 0, 0)
        assert len((folder / "transcripts.jsonl").read_text().splitlines()) == 24
        assert sum(g["n"] for g in summary["by_need"].values()) == 24
        assert sum(g["n"] for g in summary["by_family"].values()) == 24
        expected = {"low": 0.25, "full": 1.0, "forced:request": 1.25}
        if policy in expected:
            assert summary["retain_cumulative"] == expected[policy]
        if policy == "oracle":
            assert summary["request_ratio"] == summary["by_need"]["hard"]["n"] / 24
            assert summary["by_need"]["easy"]["request_ratio"] == 0
    page = tmp_path / "report.html"
    folders = [str(p) for p in tmp_path.iterdir() if p.is_dir()]
    assert run(capsys, "report", *folders, "--out", str(page))[0] == 0
    text = page.read_text()
    again = tmp_path / "again.html"
    inside = [str(path) for path in tmp_path.iterdir()]
    assert (
        str(page) in inside and len(inside) == 8
    )  # a folder of folders, and all that stands in it with the page and its figures
    for named in ([str(tmp_path)], inside):
        assert run(capsys, "report", *sorted(named), "--out", str(again))[0] == 0
        assert again.with_suffix(".csv").read_text().splitlines()[0] == page.with_suffix(".csv").read_text().splitlines()[0]
        assert sorted(again.with_suffix(".csv").read_text().splitlines()) == sorted(
            page.with_suffix(".csv").read_text().splitlines()
        )
        again.unlink()
        again.with_suffix(".csv").unlink()
    low = ("eval", "mini", "--limit", "24", "--policy", "low", "--max-new-tokens", "8", "--out", str(tmp_path / "low"))
    status, out, err = run(capsys, *low)
    assert (status, err) == (0, "tiny low: all 24 were done before\n")
    folder = tmp_path / "low"
    last = f"results in {folder}; for a page of them: visionthink report {folder} --out {folder}.html"
    assert out.splitlines()[-1] == last
    assert text.count("<svg ") - text.count('<svg class="boxes"') == 6 and text.count("data:image/png;base64,") >= 12
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons", ""
    )


def test_markup_in_names_is_only_text(capsys, tmp_path):
    shutil.copytree(resolve("tiny"), tmp_path / "m[bold]x")
    name = str(tmp_path / "m[bold]x")
    options = ["--limit", "6", "--max-new-tokens", "8", "--model", name]
    assert run(capsys, "eval", "mini", *options, "--out", str(tmp_path / "[red]a"))[0] == 0
    status, _, err = run(capsys, "report", str(tmp_path / "[red]a"), "--out", str(tmp_path / "[x].html"))
    assert status == 0 and "[x].html" in err


def test_the_table_of_results_fits_a_terminal_of_80_columns():
    need = {"easy": {"request_ratio": 0.5}, "hard": {"request_ratio": 1.0}}
    row = {"model": "trained", "policy": "random:0.484", "accuracy": 1.0, "by_need": need, "output_tokens": 12.5}
    console = Console(width=80, record=True, file=io.StringIO())
    row |= {"retain_final": 1.0, "retain_cumulative": 1.25}
    console.print(summary_table([row, row | {"policy": "adaptive"}]))
    text = console.export_text()
    for value in ("trained", "random:0.484", "100.0", "125.0", "12.5", "accuracy", "50.0"):
        assert value in text
    assert "…" not in text and "asks" in text
    console.print(summary_table([row | {"by_need": {}}]))  # a table of one's own, whose needs nobody knows
    assert "asks" not in console.export_text()


def test_a_question_longer_than_the_context_is_said(capsys, tmp_path):
    Image.new("RGB", (112, 112)).save(tmp_path / "a.png")
    error = fails(capsys, "ask", str(tmp_path / "a.png"), "-q", "How many? " * 3000)
    assert "no answer: the prompt takes 12" in error and "the model reads 4096" in error


def test_damaged_evaluation_folders(capsys, tmp_path):
    def message() -> str:
        return fails(capsys, "report", str(tmp_path), "--out", str(tmp_path / "r.html"))

    (tmp_path / "summary.json").write_text("{}")
    assert "summary.json: not the summary of an evaluation" in message()
    summary = {"model": "m", "policy": "low", "accuracy": None, "retain_cumulative": 1}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert "no transcripts.jsonl" in message()
    (tmp_path / "transcripts.jsonl").write_bytes(b"{}\n")
    assert "transcripts.jsonl, line 1: not a transcript" in message()
    (tmp_path / "transcripts.jsonl").write_bytes(b"\xff\xfe\n")
    assert "transcripts.jsonl, line 1: not a transcript" in message()
    (tmp_path / "transcripts.jsonl").write_bytes(b"")
    assert "transcripts.jsonl: is empty" in message()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n3\n')
    assert "metrics.jsonl, line 2: not a logged step" in message()


def listed(command: str, capsys) -> tuple[str, dict[str, list[str]]]:
    """The usage line of a command's help, and the options of each group in order."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    groups, found = re.split(r"\n\n(?=[a-z][a-z, ]*:\n)", text), {}
    for group in groups[1:]:
        title, _, body = group.partition(":\n")
        found[title] = re.findall(r"^  (--?[a-z-]+)", body, re.M)
    return text.splitlines()[0], found


def test_help_begins_with_what_a_newcomer_needs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    usage, options = listed("ask", capsys)
    assert usage == "usage: visionthink ask -q TEXT IMAGE [IMAGE ...] [OPTION ...]"
    rare = ["how the model runs", "a model behind an endpoint", "what the model may ask for, and how"]
    assert [*options] == ["positional arguments", "options", *rare]
    assert options["options"] == ["-h", "-q", "--model", "--json"]
    assert options[rare[2]] == ["--menu", "--ladder", "--dialect", "--boundary", "--canonical"]
    usage, options = listed("eval", capsys)
    assert usage == "usage: visionthink eval --out DIR [SUITE] [OPTION ...]"
    assert [*options] == ["positional arguments", "options", "how a table is read", *rare, "other results to compare with"]
    assert options["options"] == ["-h", "--model", "--policy", "--out", "--judge", "--limit", "--json"]
    usage, options = listed("train", capsys)
    assert usage == "usage: visionthink train RECIPE [OPTION ...]"
    assert options["options"] == ["-h", "--out", "--show", "--resume", "--dry-run", "--launch", "--processes", "--json"]


@pytest.mark.parametrize("command", ["ask", "tokens", "serve", "eval", "calibrate", "train", "reproduce"])
def test_help_names_the_page_that_lists_names_instead_of_listing_them(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert not {"deepeyes-v5", "compact_ids", "pointer-224", "budget_7b", "gate_savings"} & {*re.findall(r"[\w-]+", text)}
    for page in re.findall(r"docs/[\w/-]+\.md", text):
        assert (Path(__file__).parents[1] / page).is_file(), page


def test_help_of_every_command():
    for command in ("", "ask", "tokens", "demo", "train", "eval", "report", "score", "curate", "reproduce"):
        result = subprocess.run(
            [sys.executable, "-m", "visionthink", *command.split(), "--help"], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0 and result.stdout.startswith("usage: visionthink"), result.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("eval --out runs", "eval: takes a SUITE, or --from-lmms LOGS"),
        ("eval --from-lmms mine.jsonl --out runs", "not named as lmms-eval names its samples, DATE_TIME_samples_TASK.jsonl"),
        ("eval mini --model tiny,,tiny-base --out runs", "--model 'tiny,,tiny-base': a name is empty"),
        ("eval mini --policy adaptive+visionzip:0.5@high --out runs", "a method acts on every view, @low or @full"),
        ("eval mini --judge extra.toml --out runs", "extra cannot be sent (Object of type date is not JSON serializable)"),
        ("eval mini --judge omit.toml --out runs", "omit holds names of fields"),
        ("report . --out page.csv", "--out page.csv: names the page; the figures go to a .csv file beside it"),
        ("curate table.jsonl --model tiny --ladder 1 --out runs", "--ladder 1: needs two levels to compare"),
        ("tokens --size 100x100 --ladder 1,0.25", "ladder 1,0.25: levels must increase"),
        ("train tiny --report-to mlflow --out runs", "unknown report_to 'mlflow'; choose none, trackio, wandb or tensorboard"),
        ("serve --cache-salt", "--cache-salt: is for an upstream that is vLLM"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(capsys, tmp_path, monkeypatch, command, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text("{}\n")
    (tmp_path / "table.jsonl").write_text("{}\n")
    for name, setting in {"extra": "extra = {day = 2026-01-01}", "omit": "omit = [1]"}.items():
        (tmp_path / f"{name}.toml").write_text(f'[[judge]]\nurl = "http://127.0.0.1:1/v1"\nmodel = "x"\n{setting}\n')
    assert said in fails(capsys, *command.split())
    assert not (tmp_path / "runs").exists() and not (tmp_path / "page.csv").exists()
