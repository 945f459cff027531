"""Verdicts about looks, credit, budgets and gates from numbers, their plan, and one small run from beginning to end."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from visionthink.errors import OptionError
from visionthink.policies.checkpoint import open_checkpoint, save_checkpoint
from visionthink.recipes import starts
from visionthink.recipes.claim import Calibrated, Evaluated
from visionthink.recipes.claim_runs import Run
from visionthink.recipes.claims import CLAIMS, VARIANTS, chosen
from visionthink.recipes.further_claims import best_at
from visionthink.recipes.reproduce import plan, reproduce
from visionthink.recipes.reproduction_page import page, result
from visionthink.recipes.settings import SCALE, SETTINGS, Draws, Scale
from visionthink.recipes.starts import Made
from visionthink.recipes.tiny_look_base import PROTOCOL, extended


def seen(**changes) -> Evaluated:
    values = {"asks": 0.5, "asks_easy": 0.0, "asks_hard": 1.0, "asks_by_family": {}, "accuracy": 0.9, "cost": 0.4}
    return Evaluated(**values | changes)


def judged(name: str, *of_variants: Evaluated | Calibrated) -> str:
    return CLAIMS[name].judge({v: [o] for v, o in zip(CLAIMS[name].variants, of_variants, strict=True)})


def test_what_an_outcome_says():
    o = seen(costs=(1.0,) * 30 + (0.4,) * 20, prices=(0.0,) * 10 + (0.2,) * 20, requests=(0.5,) * 10 + (0.9,) * 10 + (0.3,) * 10)
    assert (o.cost_at_the_end, o.price_at_the_end) == pytest.approx((0.4, 0.2))
    assert o.from_collapse == pytest.approx(0.1)
    assert seen(requests=(0.05,) * 10).from_collapse == pytest.approx(0.05)
    assert (seen().cost_at_the_end, seen().price_at_the_end, seen().from_collapse) == (0.4, 0.0, 0.5)


@pytest.mark.parametrize(
    "dtpo, grpo, priced, asks, verdict",
    [
        (0.9, 0.5, 0.7, 0.4, "reproduced"),
        (0.9, 0.5, 0.8, 0.4, "not reproduced"),
        (0.5, 0.4, 0.7, 0.4, "opposite"),
        (0.9, 0.5, 0.7, 0.1, "not reproduced"),  # hardly ever looks
        (None, 0.5, 0.7, 0.0, "not reproduced"),
    ],
)
def test_crops(dtpo, grpo, priced, asks, verdict):
    assert judged("crops", seen(quadrants=dtpo, asks=asks), seen(quadrants=grpo), seen(quadrants=priced)) == verdict


@pytest.mark.parametrize(
    "quarter, nine, verdict",
    [
        ((0.6, 0.9), (0.85, 0.9), "reproduced"),
        ((0.6, 0.9), (0.7, 0.9), "not reproduced"),  # both pay
        ((0.8, 0.9), (0.85, 0.9), "not reproduced"),  # neither does
        ((0.6, 0.85), (0.7, 0.9), "opposite"),  # saved by being wrong
    ],
)
def test_rungs(quarter, nine, verdict):
    of = [seen(cost=cost, accuracy=accuracy) for cost, accuracy in ((0.8, 0.9), quarter, nine)]
    assert judged("rungs", *of) == verdict
    assert judged("rungs", seen(cost=0.8, asks=0.1), *of[1:]) == "not reproduced"


@pytest.mark.parametrize(
    "alone, forced, cold, verdict",
    [
        (0.0, 0.8, 0.85, "reproduced"),
        (0.0, 0.8, 0.95, "not reproduced"),
        (0.75, 0.8, 0.8, "not reproduced"),  # nothing had to be revived
        (0.0, 0.2, 0.2, "not reproduced"),
        (0.0, 0.1, 0.5, "opposite"),
    ],
)
def test_forced(alone, forced, cold, verdict):
    assert judged("forced", *(seen(asks_hard=gap) for gap in (alone, forced, cold))) == verdict


def test_normalised():
    def of(*ends):
        return judged("normalised", *(seen(requests=(end,) * 20) for end in ends))

    # constant with and without the division, Eq. 5 with and without
    assert of(0.05, 0.3, 0.95, 0.5) == "reproduced"
    assert of(0.05, 0.05, 0.95, 0.5) == "not reproduced"
    assert of(0.3, 0.3, 0.95, 0.5) == "not reproduced"
    assert of(0.3, 0.05, 0.5, 0.95) == "opposite"


def test_centred():
    gaps = [(0.8, 0.7, "reproduced"), (0.8, 0.78, "not reproduced"), (0.7, 0.8, "opposite")]
    for centred, scaled, verdict in gaps:
        assert judged("centred", seen(asks_hard=centred), seen(asks_hard=scaled)) == verdict


def test_a_budget_must_be_met_by_each_seed():
    def of(at_the_end, unseen):
        spent = {
            v: [(b * at, b * on) for at, on in zip(at_the_end, unseen, strict=True)] for v, b in (("0.4", 0.4), ("0.3", 0.3))
        }
        return CLAIMS["budget_met"].judge(
            {f"budget {v}": [seen(costs=(at,) * 20, cost=on) for at, on in s] for v, s in spent.items()}
        )

    assert of([1.04, 0.97], [1.07, 0.94]) == "reproduced"
    assert of([1.2, 0.8], [1.0, 1.0]) == "not reproduced"  # right on average, and in neither
    assert of([1.0, 1.0], [1.2, 1.0]) == "not reproduced"
    assert of([1.3, 1.3], [1.3, 1.3]) == "opposite"


def test_the_best_fixed_price_at_a_cost():
    points = [(0.3, 0.7), (0.5, 0.9), (0.6, 0.8)]
    assert best_at(points, 0.4) == pytest.approx(0.8)  # half of the questions with each
    assert best_at(points, 0.5) == 0.9
    assert best_at(points, 0.9) == 0.9
    assert best_at(points, 0.2) == 0.7
    assert best_at([(0.3, 0.7), (0.5, 0.6), (0.7, 0.9)], 0.5) == pytest.approx(
        0.8
    )  # the one in the middle is worse than a mixture


def test_budget_accuracy():
    prices = [seen(cost=0.5, accuracy=0.9), seen(cost=0.4, accuracy=0.8), seen(cost=0.3, accuracy=0.7)]

    def of(at_forty, at_thirty):
        return judged("budget_accuracy", seen(cost=0.4, accuracy=at_forty), seen(cost=0.3, accuracy=at_thirty), *prices)

    assert of(0.82, 0.71) == "reproduced"
    assert of(0.82, 0.70) == "not reproduced"
    assert of(0.80, 0.705) == "not reproduced"
    assert of(0.78, 0.68) == "opposite"


def test_gate():
    good = Calibrated(harmful=0.05, harmful_tuned=0.48, escalated=0.31, escalated_by_coin=0.89)
    assert [judged(claim.name, good) for claim in chosen(["gate"])] == ["reproduced"] * 3
    bad = Calibrated(harmful=0.25, harmful_tuned=0.1, escalated=0.6, escalated_by_coin=0.5)
    assert [judged(claim.name, bad) for claim in chosen(["gate"])] == ["opposite"] * 3
    middle = Calibrated(harmful=0.11, harmful_tuned=0.3, escalated=0.6, escalated_by_coin=0.62)
    assert [judged(claim.name, middle) for claim in chosen(["gate"])] == ["not reproduced"] * 3


def test_a_claim_that_trains_nothing_on_the_page():
    good = Calibrated(harmful=0.05, harmful_tuned=0.48, escalated=0.31, escalated_by_coin=0.89)
    found = result(CLAIMS["gate_savings"], SETTINGS["untrained"], {"gate": [good, dataclasses.replace(good, escalated=0.35)]})
    text = page([found], ["gate"], 2, Scale())
    assert "| [gate_savings](#gate_savings) | the same | **reproduced** |" in text
    assert (
        "| run | shown in full | by a coin of equal harm |\n|---|---|---|\n| gate | 0.33 (0.31 to 0.35) | 0.89 (0.89 to 0.89) |"
        in text
    )
    assert "Setting **untrained** (nothing is trained): **reproduced**." in text and ".svg" not in text


def test_all_settings_go_together_and_take_less_than_ninety_minutes(monkeypatch):
    """On two cores, with three seeds."""
    monkeypatch.setattr(starts, "digest", lambda base: base)  # the base need not be there
    scale, out = Scale(), Path("nowhere")
    pairs = [(claim, SETTINGS[name]) for claim in chosen(["look", "credit", "budget", "gate"]) for name in claim.settings]
    runs = list(
        dict.fromkeys(
            Run(v, setting if VARIANTS[v].how == "train" else scale.untrained, seed)
            for claim, setting in pairs
            for v in claim.variants
            for seed in range(3)
        )
    )
    configs = {run.variant: run.config(out, scale) for run in runs}
    assert (configs["dtpo"].menu, configs["dtpo"].penalty_name, configs["dtpo"].group_size) == ("ten", "released", 16)
    assert configs["budget 0.4"].rollout_credit().name == "centred" and configs["budget 0.4"].penalty_name == "none"
    assert configs["rung 1/4"].rollout_menu().ladder.levels == (1 / 16, 1 / 4, 1)
    assert (configs["reluctant, forced"].actions(), configs["reluctant, forced"].forced) == (("direct", "request"), 2)
    assert dict(configs["eq5, not scaled"].trl) == {"scale_rewards": "none"}
    first = starts.in_turn(made for run in runs if (made := run.start))
    assert [[str(made) for made in part] for part in first] == [
        ["reluctant, seed 0", "reluctant, seed 1", "reluctant, seed 2", "trials, seed 0"],
        ["revived, seed 0", "revived, seed 1", "revived, seed 2"],
    ]
    said = plan(runs, first, out, scale, cores=2).splitlines()[0]
    minutes = int(said.partition("about ")[2].partition(" minutes")[0])
    assert said == f"69 runs, after 7 of supervised fine-tuning: about {minutes} minutes on 2 cores" and 40 < minutes <= 90


def test_a_base_that_is_not_there(tmp_path):
    away = dataclasses.replace(SETTINGS["look"], base="tiny-look-none")
    with pytest.raises(OptionError, match="--claims crops: starts from tiny-look-none, which is not there: leave this claim out"):
        reproduce(["gate", "crops"], 1, tmp_path, Console(file=io.StringIO()), Scale(settings=(away, SETTINGS["untrained"])))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_small_from_beginning_to_end(tmp_path):
    opened, base = open_checkpoint("tiny-base", dtype=torch.float32), tmp_path / "base"
    tokenizer = extended(opened.tokenizer)
    opened.model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    save_checkpoint(
        base,
        model=opened.model,
        tokenizer=tokenizer,
        image_processor=opened.image_processor,
        protocol=PROTOCOL,
        dtype=torch.float32,
    )
    settings = tuple(
        dataclasses.replace(s, steps=min(s.steps, 2), base=str(base) if s.recipe == "tiny_look" else s.base)
        for s in SETTINGS.values()
    )
    scale = Scale(settings=settings, prompts_per_step=2, evaluated=32, draws=Draws(pool=1100, count=20))
    out, console = tmp_path / "out", Console(file=io.StringIO(), width=160)
    shutil.copytree(base, Made(start="trials", base=str(base), seed=0).path(out))  # in place of minutes of trials
    record = reproduce(["crops", "normalised", "gate"], 1, out, console, scale)
    assert [(c["claim"], c["setting"]["name"]) for c in record["claims"]] == [
        ("crops", "look"),
        ("normalised", "paper"),
        ("gate_harm", "untrained"),
        ("gate_savings", "untrained"),
        ("gate_tuned", "untrained"),
    ]
    gate = record["claims"][3]["values"]
    assert gate["shown in full"]["gate"][0] < gate["by a coin of equal harm"]["gate"][0]
    assert json.loads((out / "runs/paper/eq5, not scaled-0/config.json").read_text())["trl"] == {"scale_rewards": "none"}
    looked = json.loads((out / "runs/look/dtpo-0/outcome.json").read_text())["outcome"]
    assert len(looked["requests"]) == len(looked["costs"]) == 2 and 0.25 <= looked["cost"] <= 1.25
    assert sorted(path.name for path in out.glob("*.svg")) == ["crops-look.svg", "normalised-paper.svg"]
    assert "8 runs: about " in console.file.getvalue()


def test_the_stored_page_is_what_is_written_of_the_stored_results():
    folder = Path(__file__).parents[1] / "docs/explanation/reproduction/further"
    record = json.loads((folder / "reproduction.json").read_text("utf-8"))
    text = page(record["claims"], ["look", "credit", "budget", "gate"], record["seeds"], SCALE)
    title, _, intro, *rest = text.splitlines()
    assert title == "# Claims about training, in miniature"
    assert "- Numbers in the tables are means over seeds, with the lowest and the highest in brackets." in rest
    same_day = record["date"] + intro[len(record["date"]) :]  # `page` names the day on which it is called
    assert [title, "", same_day, *rest] == (folder / "reproduction.md").read_text("utf-8").splitlines()
