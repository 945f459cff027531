"""`visionthink fit` from the command line, its recipes, and the table of trained methods."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from visionthink.cli import main
from visionthink.compress.families import make
from visionthink.compress.learned import Base, describe, save
from visionthink.recipes import fitting
from visionthink.recipes.compressors import ARMS, difference, fit_one, page
from visionthink.recipes.fits import FITS

REAL = [name for name, recipe in FITS.items() if recipe.stand_in]
QUICK = ("fcot_7b", "mod_qwen3_8b")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in REAL])
def test_recipes_of_real_models_can_be_rehearsed(tmp_path, capsys, name):
    out = tmp_path / "it"
    assert main(["fit", name, "--dry-run", "--out", str(out)]) == 0
    assert "nothing was saved" in capsys.readouterr().out and not out.exists()


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
        (["fcot", "--objective", "reconstruct"], "reconstruct"),
    ],
)
def test_bad_options(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *options, "--out", "it"]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "it").exists()


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
    assert "| `fcot` | 4.0 | 0.0 | 0.0 | 87.5 (75.0 to 100.0) | +87.5 (+62.5 to +100.0) | 0.500, 0.500 | 10 |" in text
    assert "| `todre:0.5` | 8.0 | 50.0 | 1.000 |" in text


def test_a_fit_of_the_table_is_not_repeated(tmp_path, monkeypatch):
    def done(recipe, folder):
        assert not folder.exists()
        base = Base(model_type="m", hidden=8, layers=2, tower=8, patches=4, levels=(0,), merger="", first=1, blocks=2)
        for place in (folder, folder / "control"):
            save(place, make("fcot", base, 0.25, {}), {}, {"seed": recipe.config.seed})

    monkeypatch.setattr(fitting, "run_fit", done)
    assert fit_one("fcot", 3, tmp_path) == fit_one("fcot", 3, tmp_path) == {"seed": 3}
    assert set(ARMS) >= {"fcot", "quecc", "setok", "remember", "select", "lis", "mod"}
