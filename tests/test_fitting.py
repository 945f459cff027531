"""`visionthink fit` from the command line, its recipes, and the table of trained methods."""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from visionthink.cli import main
from visionthink.cli.fitting import _print
from visionthink.compress.families import make
from visionthink.compress.learned import Base, describe, save
from visionthink.errors import DataError
from visionthink.recipes import fitting
from visionthink.recipes.compressors import ARMS, difference, fit_one, page
from visionthink.recipes.fits import FITS

REAL = [name for name, recipe in FITS.items() if recipe.stand_in]
QUICK = ("fcot_7b", "mod_qwen3_8b")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in REAL])
def test_recipes_of_real_models_can_be_rehearsed(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", name, "--dry-run"]) == 0
    assert "nothing was saved" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    assert not (Path(tempfile.gettempdir()) / "visionthink-fit").exists()


def test_a_table_of_ones_own(tmp_path, capsys):
    rows = []
    for i in range(20):
        Image.new("RGB", (112, 112), (12 * i, 0, 0)).save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"question": "What colour?", "image": f"{i}.png", "answer": "red"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    options = [
        "--data",
        str(tmp_path / "rows.jsonl"),
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--out",
        str(tmp_path / "it"),
        "--json",
    ]
    assert main(["fit", "fcot", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["tested"]) == (18, 2) and report["trained"]["tokens"] == 4
    assert describe(tmp_path / "it").fit["samples"] == 18
    assert main(["fit", "fcot", *options, "--limit", "10"]) == 0
    assert (report := json.loads(capsys.readouterr().out))["samples"] == 8 and report["tested"] == 2


def rows_of(folder, count: int, **last) -> str:
    """A table of so many rows, the last of which is another."""
    Image.new("RGB", (112, 112), "red").save(folder / "red.png")
    rows = [{"question": "What colour?", "image": "red.png", "answer": "red"}] * (count - 1)
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, rows[0] | last]))
    return str(folder / "rows.jsonl")


@pytest.mark.parametrize(("count", "limit", "found"), [(12, 100, (10, 2)), (10, None, (9, 1)), (30, 20, (16, 4))])
def test_a_limit_above_the_rows_of_a_table(tmp_path, tiny, count, limit, found):
    table = rows_of(tmp_path, count)
    (train, test), unreadable = fitting.divided(table, fitting.opened(table, limit), tiny, limit)
    assert unreadable == {}
    assert (len(train), len(test)) == found


@pytest.mark.parametrize("limit", [None, 10, 100])
def test_a_table_of_few_rows(tmp_path, limit):
    with pytest.raises(DataError, match=r"rows.jsonl: 9 rows; ten are the least"):
        fitting.opened(rows_of(tmp_path, 9), limit=limit)


def test_rows_that_cannot_be_used_are_left_out(tmp_path, capsys, caplog):
    table = Path(rows_of(tmp_path, 12))
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    noise = Image.frombytes("RGB", (112, 112), random.Random(0).randbytes(3 * 112 * 112))
    noise.save(tmp_path / "whole.jpg", quality=95)
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:8000])
    (tmp_path / "text.png").write_text("no image")
    rows[1] |= {"image": "half.jpg"}
    rows[3] |= {"answer": ""}
    rows[5] |= {"image": "nowhere.png"}
    rows[7] |= {"image": "text.png"}
    table.write_text("\n".join(json.dumps(row) for row in [*rows, *rows[-2:]]))
    out = tmp_path / "it"
    options = ["--steps", "1", "--batch-size", "2", "--out", str(out), "--json"]
    assert main(["fit", "lis", "--data", str(table), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["samples"], report["tested"]) == (9, 1)
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert [reject["example_id"] for reject in rejects] == ["1", "3", "5", "7"]
    reasons = [reject["reason"] for reject in rejects]
    assert [reason.partition(" (")[0] for reason in reasons] == [
        f"{table}, line 2: {tmp_path}/half.jpg: damaged or truncated image",
        f"{table}, line 4: no answer in column answer",
        f"{table}, line 6: {tmp_path}/nowhere.png: no such file",
        f"{table}, line 8: {tmp_path}/text.png: not an image file that can be read",
    ]
    assert [record.message for record in caplog.records] == [f"{reason}; left out" for reason in reasons]
    files = ["compressor.json", "compressor.safetensors", "control"]
    assert sorted(path.name for path in out.iterdir()) == [*files, "rejects.jsonl"]
    (out / "compressor.json").unlink()  # as a fit that replaces this one does before it is killed
    assert main(["fit", "lis", "--data", rows_of(tmp_path, 10), *options]) == 0
    assert sorted(path.name for path in out.iterdir()) == files


def test_a_table_of_few_rows_that_can_be_used(tmp_path, capsys):
    table = rows_of(tmp_path, 10, image="nowhere.png")
    assert main(["fit", "fcot", "--data", table, "--out", str(tmp_path / "it")]) == 2
    assert f"--data {table}: 9 of 10 rows can be used; ten are the least, one of them to measure on" in capsys.readouterr().err
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--objective", "reconstruct"], "fcot reconstructs nothing"),
        (["--out", "/proc/it"], "--out /proc/it: /proc is not a folder that can be written to"),
        (["--out", "taken"], "--out taken: holds something else than a fitted method"),
        (["--resume"], "--resume: no unfinished fit in it"),
    ],
)
def test_what_can_be_refused_early_is_refused_before_a_model_is_loaded(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    assert main(["fit", "fcot", "--model", "no-model", "--out", "it", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and "no-model" not in error and not (tmp_path / "it").exists()


@pytest.mark.parametrize(
    ("options", "message"), [(["--keep", "0.3"], "fcot keep 0.3: mixes"), (["--model", "no-model"], "no-model")]
)
def test_what_can_be_refused_is_refused_before_questions_are_drawn(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.setattr(fitting, "generated", None)
    assert main(["fit", "fcot", *options, "--out", str(tmp_path / "it")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fcott"], "unknown method 'fcott'; did you mean 'fcot'? choose from fcot, "),
        (["fcot_7b"], "fcot_7b: needs --data, a table of examples to learn from"),
        (["fcot", "--keep", "0.3"], "fcot keep 0.3: mixes whole cells; choose 0.5, 0.25, 0.125, 0.0625, 1"),
        (["fcot", "--keep", "0"], "fcot keep 0.0: a share, above 0 and at most 1"),
        (["lis", "--keep", "1.5"], "lis keep 1.5: a share, above 0 and at most 1"),
        (["fcot", "--model", "http://localhost:1/v1#m"], "is an endpoint, and fitting needs the weights"),
        (["fcot", "--objective", "guess"], "--objective 'guess': choose from answers, distill, reconstruct"),
        (["fcot", "--steps", "0"], "--steps 0: must be above 0"),
        (["fcot", "--limit", "3"], "--limit 3: must be at least 10"),
        (["fcot", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["fcot", "--objective", "reconstruct"], "fcot reconstructs nothing; choose answers or distill"),
    ],
)
def test_bad_options(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *options, "--out", "it"]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "it").exists()


def test_what_the_page_says_of_recipes():
    page = (Path(__file__).parents[1] / "docs/how-to/learned-compression.md").read_text("utf-8")
    said = dict(re.findall(r"^\| `(\w+(?:_\*)?)` \| ([\d.]+ \| \w+ \| \d+ \| \d+ \| [\d.e-]+) \|$", page, re.M))
    found = {
        re.sub("_(3b|7b|qwen3_8b)$", "_*", name): f"{r.keep:g} | {c.objective} | {c.steps} | {c.batch_size} | {c.learning_rate:g}"
        for name, r in FITS.items()
        if (c := r.config)
    }
    assert said == found


def test_a_library_that_is_not_there_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert main(["fit", "fcot", "--limit", "10", "--out", str(tmp_path / "it")]) == 2
    assert "accelerate is not installed; pip install 'visionthink[train]'" in capsys.readouterr().err


def test_the_difference_from_the_control_is_printed(capsys):
    found = {"accuracy": 0.5, "divergence": 0.25, "tokens": 4.0}
    kinds = {"full": "1111", "untrained": "0000", "control": "0000", "trained": "1111"}
    _print({"tested": 4, **{kind: {**found, "right": right} for kind, right in kinds.items()}}, "saved to it")
    said = capsys.readouterr().out
    assert "trained - control: +100.0 points (95 % interval +100.0 to +100.0: undecided)\nsaved to it\n" in said
    assert re.search(r"trained control +4\.0 +50\.0 +0\.250", said)


def test_several_gpus_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert main(["fit", "fcot", "--out", str(tmp_path / "it")]) == 2
    assert "fit: trains on one GPU, and there are 8; choose one with CUDA_VISIBLE_DEVICES=0" in capsys.readouterr().err


def test_a_folder_in_which_a_fit_was_killed_is_taken_again(tmp_path, capsys):
    (tmp_path / "it" / ".partial").mkdir(parents=True)
    (tmp_path / "it" / "control").mkdir()
    assert main(["fit", "lis", "--steps", "1", "--limit", "10", "--batch-size", "2", "--out", str(tmp_path / "it")]) == 0
    assert describe(tmp_path / "it").family == describe(tmp_path / "it" / "control").family == "lis"


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["fit", "fcot", "--out", str(tmp_path)]) == 2
    assert "holds something else than a fitted method; name another folder" in capsys.readouterr().err
    assert (tmp_path / "notes.txt").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ the table


def fitted(trained: str, control: str) -> dict[str, object]:
    kinds = {"untrained": "0000", "control": control, "trained": trained}
    return {"tested": 4} | {
        kind: {"accuracy": right.count("1") / 4, "right": right, "tokens": 4.0, "divergence": 0.5, "seconds": 10.0}
        for kind, right in kinds.items()
    }


def test_a_method_against_its_control():
    """Per question over two seeds: 1 - 0, 1 - 0, 1 - 1, .5 - .5."""
    found = difference([fitted("1111", "0011"), fitted("1110", "0010")])
    assert found.mean == pytest.approx(0.5) and found.low == 0 and found.high == 1 and not found.sure


def test_the_table():
    text = page(
        {"fcot": [fitted("1111", "0000"), fitted("1110", "0000")]},
        {"todre:0.5": {"tokens": 8.0, "accuracy": 0.5, "divergence": 1}},
    )
    assert "| `fcot` | 4.0 | 0.0 | 0.0 | 87.5 (75.0 to 100.0) | +87.5 (+62.5 to +100.0), undecided | 0.500, 0.500 | 10 |" in text
    assert "| `todre:0.5` | 8.0 | 50.0 | 1.000 |" in text


def test_a_fit_of_the_table_is_not_repeated_unless_its_settings_changed(tmp_path, monkeypatch):
    runs = []

    def done(recipe, folder, resume):
        runs.append(recipe.config.steps)
        base = Base(model_type="m", hidden=8, layers=2, tower=8, patches=4, levels=(0,), merger="", first=1, blocks=2)
        save(folder, make("fcot", base, 0.25, {}), {}, asdict(recipe.config))

    monkeypatch.setattr(fitting, "run_fit", done)
    assert fit_one("fcot", 3, tmp_path) == fit_one("fcot", 3, tmp_path) == asdict(replace(ARMS["fcot"].config, seed=3))
    assert runs == [500]
    shorter = replace(ARMS["fcot"], config=replace(ARMS["fcot"].config, steps=7))
    monkeypatch.setitem(ARMS, "fcot", shorter)
    assert fit_one("fcot", 3, tmp_path)["steps"] == 7
    assert runs == [500, 7]
    assert set(ARMS) >= {"fcot", "quecc", "setok", "remember", "select", "lis", "mod"}
