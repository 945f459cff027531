"""Verdicts from numbers, and one small reproduction from beginning to end."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from visionthink.data.synth import FAMILIES
from visionthink.errors import OptionError
from visionthink.recipes.claim import Evaluated
from visionthink.recipes.claim_runs import Run
from visionthink.recipes.claims import CLAIMS, GROUPS, VARIANTS, chosen
from visionthink.recipes.paper_claims import rank_correlation
from visionthink.recipes.reproduce import plan, reproduce
from visionthink.recipes.reproduction_page import page, result
from visionthink.recipes.settings import SETTINGS, Scale


def outcome(end=0.5, easy=0.0, hard=1.0, accuracy=0.9, families=None, requests=None) -> Evaluated:
    return Evaluated(
        requests=(end,) * 10 if requests is None else requests,
        asks=end,
        asks_easy=easy,
        asks_hard=hard,
        asks_by_family=families or dict.fromkeys(FAMILIES, 0.5),
        accuracy=accuracy,
        cost=0.25 + end,
    )


def test_every_claim_looks_at_runs_that_exist():
    assert {claim.name: claim.source for claim in GROUPS["paper"]} == {
        "penalty": "Fig. 3a",
        "theta": "Fig. 8",
        "weight": "Fig. 8 in spirit",
        "released": "Eq. 5 against the released code",
        "preference": "Fig. 7",
        "sft": "Table 8",
        "cold_start": "Table 9",
        "families": "Fig. 5",
        "general": "Table 6 in spirit",
    }
    for claim in CLAIMS.values():
        assert set(claim.variants) <= set(VARIANTS) and len(claim.reported) > 11
        assert set(claim.settings) <= set(SETTINGS)
    assert sum(map(len, GROUPS.values())) == len(CLAIMS)
    assert [claim.name for claim in GROUPS["paper"] if claim.settings == ("paper", "tiny")] == [
        "penalty",
        "theta",
        "weight",
        "released",
        "sft",
        "families",
    ]
    assert {claim.settings for claim in GROUPS["paper"]} == {("paper", "tiny"), ("paper",)}


def test_the_settings():
    assert {name: s.described for name, s in SETTINGS.items()} == {
        "paper": "120 steps, constant learning rate 0.0004, KL 0.001",
        "tiny": "160 steps, learning rate falling linearly to 0 from 0.0006, KL 0.2",
        "look": "120 steps, learning rate falling linearly to 0 from 0.0003, KL 0.1",
        "untrained": "nothing is trained",
    }
    config = Scale().config(SETTINGS["tiny"])
    assert (config.steps, config.learning_rate, config.lr_schedule, config.kl_coef) == (160, 6e-4, "linear", 0.2)
    config = Scale(prompts_per_step=2).config(SETTINGS["paper"])
    assert (config.steps, config.learning_rate, config.lr_schedule, config.kl_coef) == (120, 4e-4, "constant", 0.001)
    assert (config.prompts_per_step, config.save_steps, config.group_size) == (2, 120, 8)


def test_the_estimate(tmp_path):
    # 0.0375 s for each example of a step with 8 rollouts, 2 s and 0.009 s for each question of a run
    assert Scale().seconds(SETTINGS["paper"]) == pytest.approx(72 + 7.4)
    assert Scale().seconds(SETTINGS["untrained"], "evaluate") == pytest.approx(7.4)
    assert Scale().seconds(SETTINGS["untrained"], "calibrate") == pytest.approx(110)
    steps = dataclasses.replace(SETTINGS["tiny"], steps=400)
    assert Scale(prompts_per_step=7, evaluated=0).seconds(steps) == pytest.approx(105 + 2)
    runs = [Run("eq5", SETTINGS["paper"], 0), Run("eq5", SETTINGS["paper"], 1), Run("gate", SETTINGS["untrained"], 0)]
    assert plan(runs, [], tmp_path, Scale(), cores=2) == (  # 268.8 s on two cores
        "3 runs: about 2 minutes on 2 cores\n"
        "paper: 120 steps, constant learning rate 0.0004, KL 0.001; 2 runs\n"
        "untrained: nothing is trained; 1 runs"
    )


def test_settled_is_the_last_twenty_steps_against_the_twenty_before():
    assert outcome(requests=(0.9,) * 60 + (0.25,) * 20 + (0.5,) * 20).change == pytest.approx(0.25)
    assert outcome(requests=(0.5, 0.25, 0.125, 0.125)).change == -0.25  # a short run: its halves
    assert outcome(requests=()).change is None


def test_what_has_not_settled_is_shown():
    still, moving = outcome(requests=(0.5,) * 40), outcome(requests=(0.25,) * 20 + (0.5,) * 20)
    runs = {"eq5": [still, moving], "sft": [outcome(easy=0.3, requests=()), outcome(easy=0.5, requests=())]}
    found = result(CLAIMS["sft"], SETTINGS["paper"], runs)
    assert found["verdict"] == "reproduced"
    assert (found["changes"], found["settled"]) == ({"eq5": [0.0, 0.25]}, {"eq5": 1})
    assert found["values"] == {"requests on easy": {"eq5": [0.0, 0.0], "sft": [0.3, 0.5]}}
    assert found["setting"] == {
        "name": "paper",
        "recipe": "tiny",
        "base": "tiny-base",
        "learning_rate": 4e-4,
        "lr_schedule": "constant",
        "kl_coef": 0.001,
        "steps": 120,
    }
    text = page([found], ["paper"], 2, Scale())
    assert "| [sft](#sft) | Table 8 | **reproduced**, 1 of 2 runs settled |" in text
    assert "Setting **paper** (120 steps, constant learning rate 0.0004, KL 0.001): **reproduced**." in text
    assert "| eq5 | 0.00 (0.00 to 0.00) | +0.12 (+0.00 to +0.25) | 1 of 2 |" in text
    assert "| sft | 0.40 (0.30 to 0.50) |  | not trained |" in text
    assert "![over the steps](sft-paper.svg)" in text


@pytest.mark.parametrize(
    "none, constant, eq5, verdict",
    [
        (1.0, 0.0, 0.6, "reproduced"),
        (0.95, 0.3, 0.5, "not reproduced"),
        (0.2, 0.8, 0.5, "opposite"),
        (0.5, 0.51, 0.5, "not reproduced"),
        (1.0, 0.0, 0.95, "not reproduced"),
    ],
)
def test_penalty(none, constant, eq5, verdict):
    runs = {"none": [outcome(none)], "constant": [outcome(constant)], "eq5": [outcome(eq5)]}
    assert CLAIMS["penalty"].judge(runs) == verdict


def test_theta_must_rise_everywhere():
    def judged(*ends):
        return CLAIMS["theta"].judge({v: [outcome(e)] for v, e in zip(CLAIMS["theta"].variants, ends, strict=True)})

    assert judged(0.4, 0.5, 0.5, 0.9) == "reproduced"
    assert judged(0.4, 0.9, 0.5, 0.9) == "not reproduced"  # falls in between
    assert judged(0.5, 0.5, 0.5, 0.52) == "not reproduced"
    assert judged(0.9, 0.5, 0.4, 0.3) == "opposite"


def test_means_over_seeds_decide():
    runs = {"eq5": [outcome(easy=0.1), outcome(easy=0.1)], "sft": [outcome(easy=0.05), outcome(easy=0.3)]}
    assert CLAIMS["sft"].judge(runs) == "reproduced"
    runs = {"long cold start": [outcome(accuracy=0.9)], "cold start": [outcome(accuracy=0.93)], "eq5": [outcome(accuracy=0.8)]}
    assert CLAIMS["cold_start"].judge(runs) == "opposite"


def test_learning_nothing_reproduces_nothing():
    def judged(claim, **outcomes):
        return CLAIMS[claim].judge({name.replace("_", " "): [o] for name, o in outcomes.items()})

    def gaps(*hard):
        return dict(zip(CLAIMS["weight"].variants, ([outcome(hard=h)] for h in hard), strict=True))

    assert CLAIMS["weight"].judge(gaps(0.9, 0.95, 0.9)) == "reproduced"
    assert CLAIMS["weight"].judge(gaps(0.0, 0.0, 0.0)) == "not reproduced"
    assert CLAIMS["weight"].judge(gaps(0.0, 0.9, 0.9)) == "opposite"
    assert judged("sft", eq5=outcome(end=0.0), sft=outcome(easy=0.3)) == "not reproduced"
    assert judged("preference", eq5=outcome(0.05), reluctant=outcome(0.06)) == "not reproduced"
    assert judged("preference", eq5=outcome(0.05), reluctant=outcome(0.5)) == "opposite"


def test_rank_correlation():
    assert rank_correlation([1, 2, 3], [10, 20, 90]) == 1
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == -1
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)


def test_families():
    needed = {name: family.hard_share for name, family in FAMILIES.items()}
    assert CLAIMS["families"].judge({"eq5": [outcome(families=needed)]}) == "reproduced"
    assert CLAIMS["families"].judge({"eq5": [outcome()]}) == "not reproduced"


@pytest.mark.slow
def test_a_reproduction_goes_on_where_it_was(tmp_path):
    short = tuple(dataclasses.replace(setting, steps=min(setting.steps, 2)) for setting in SETTINGS.values())
    scale = Scale(settings=short, prompts_per_step=2, evaluated=24)
    console = Console(file=io.StringIO(), width=160)
    record = reproduce(["released", "sft"], 1, tmp_path, console, scale)
    assert [(c["claim"], c["setting"]["name"]) for c in record["claims"]] == [
        ("released", "paper"),
        ("released", "tiny"),
        ("sft", "paper"),
        ("sft", "tiny"),
    ]
    on_easy = [record["claims"][i]["values"]["requests on easy"] for i in (2, 3)]
    assert set(on_easy[0]) == {"eq5", "sft"}
    assert on_easy[0]["sft"] == on_easy[1]["sft"]
    page = (tmp_path / "reproduction.md").read_text()
    assert "| [sft](#sft) | Table 8 |" in page and "DocVQA 7/14" in page
    assert (
        "- **tiny**: 2 steps, learning rate falling linearly to 0 from 0.0006, KL 0.2, of `tiny-base`; 2 examples x 8 rollouts"
    ) in page
    assert "<svg" in (tmp_path / "released-tiny.svg").read_text()
    folders = sorted(str(f.relative_to(tmp_path / "runs")) for f in (tmp_path / "runs").glob("*/*"))
    assert folders == ["paper/eq5-0", "paper/released-0", "tiny/eq5-0", "tiny/released-0", "untrained/sft-0"]
    assert json.loads((tmp_path / "runs" / "tiny" / "eq5-0" / "config.json").read_text())["kl_coef"] == 0.2
    assert "5 runs, after 1 of supervised fine-tuning: about" in console.file.getvalue()
    saved = tmp_path / "runs" / "paper" / "released-0" / "outcome.json"
    assert len(json.loads(saved.read_text())["outcome"]["requests"]) == 2
    before = saved.stat().st_mtime_ns
    reproduce(["released"], 1, tmp_path, console, scale)
    assert saved.stat().st_mtime_ns == before
    assert "4 runs, of which 4 are done: about 0 minutes on" in console.file.getvalue()
    reproduce(["released"], 1, tmp_path, console, dataclasses.replace(scale, evaluated=12))
    assert saved.stat().st_mtime_ns != before


def test_groups_are_claims():
    assert [claim.name for claim in chosen(["look", "theta", "rungs"])] == ["crops", "rungs", "forced", "theta"]
    with pytest.raises(OptionError, match=r"--claims 'x': choose from paper, look, credit, budget, gate, penalty, theta"):
        chosen(["theta", "x"])
