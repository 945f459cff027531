"""Verdicts from numbers, and one small reproduction from beginning to end."""

from __future__ import annotations

import dataclasses
import json

import pytest
from rich.console import Console

from visionthink.data.synth import FAMILIES
from visionthink.errors import OptionError
from visionthink.recipes.claims import CLAIMS, VARIANTS, Outcome, rank_correlation
from visionthink.recipes.reproduce import Scale, reproduce


def outcome(end=0.5, easy=0.0, hard=1.0, accuracy=0.9, families=None) -> Outcome:
    return Outcome(
        requests=(end,) * 10,
        asks=end,
        asks_easy=easy,
        asks_hard=hard,
        asks_by_family=families or dict.fromkeys(FAMILIES, 0.5),
        accuracy=accuracy,
    )


def test_every_claim_looks_at_runs_that_exist():
    assert {name: claim.source for name, claim in CLAIMS.items()} == {
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
        assert set(claim.variants) <= set(VARIANTS) and len(claim.paper) > 20


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
    scale, quiet = Scale(steps=2, prompts_per_step=2, evaluated=24), Console(quiet=True)
    record = reproduce(["released", "sft"], 1, tmp_path, quiet, scale)
    assert [c["claim"] for c in record["claims"]] == ["released", "sft"]
    assert set(record["claims"][1]["values"]) == {"eq5", "sft"}
    page = (tmp_path / "reproduction.md").read_text()
    assert "| [sft](#sft) | Table 8 |" in page and "DocVQA 7/14" in page
    assert "<svg" in (tmp_path / "released.svg").read_text()
    saved = tmp_path / "runs" / "released-0" / "outcome.json"
    assert len(json.loads(saved.read_text())["outcome"]["requests"]) == 2
    before = saved.stat().st_mtime_ns
    reproduce(["released"], 1, tmp_path, quiet, scale)
    assert saved.stat().st_mtime_ns == before
    reproduce(["released"], 1, tmp_path, quiet, dataclasses.replace(scale, evaluated=12))
    assert saved.stat().st_mtime_ns != before
    with pytest.raises(OptionError, match="--claims 'x': choose from penalty, theta"):
        reproduce(["x"], 1, tmp_path, quiet)
