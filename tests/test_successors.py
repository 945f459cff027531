"""Numbers of the successors, and their margins over mixes of low and full (recomputed from what the papers print)."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from visionthink.evals import successors
from visionthink.evals.mixes import Family, best_rates, one_rate, own_rates
from visionthink.evals.successors import ADAPTVISION, AWARES, FOOTNOTES, MINIO3


@pytest.mark.parametrize(
    ("retained", "accuracy"), [(0.357, 75.49), (0.613, 78.79), (0.5, 77.59), (0.25, 73.385), (1.0, 80.4617), (1.5, 80.4617)]
)
def test_the_best_rate_for_each_data_set(retained, accuracy):
    families = successors.families_of(dict.fromkeys(successors.of(AWARES)["AwaRes"], retained))
    assert successors.mixed(families, best_rates) == pytest.approx(accuracy, abs=0.007)


@pytest.mark.parametrize(
    ("method", "mix", "by_benchmark", "best_rates"),
    [
        ("VisionThink", 2.4, 1.3, 0.4),
        ("AwaRes", 5.9, 5.8, 4.8),
        ("AwaRes, lambda 0", 5.5, 5.5, 4.0),
        ("AwaRes, no tool cost", 5.0, 4.9, 3.2),
        ("AwaRes, SFT only", 4.1, 3.9, 2.3),
        ("AwaRes, GRPO only", 3.1, 3.0, 2.3),
        ("VisionZip 50", -0.2, -0.2, -2.0),
        ("VisionZip 70", -1.2, -1.2, -2.8),
        ("SparseVLM 50", -2.3, -2.3, -4.1),
        ("SparseVLM 70", -2.5, -2.5, -4.2),
        ("Holo-V 50", -5.9, -5.9, -7.7),
        ("Holo-V 70", -3.7, -3.7, -5.4),
    ],
)
def test_margins_over_the_mixes_at_the_same_share(method, mix, by_benchmark, best_rates):
    [found] = [m for m in successors.margins() if m.method == method]
    assert (found.mix, found.by_benchmark, found.best_rates) == pytest.approx((mix, by_benchmark, best_rates), abs=0.051)


def test_means_are_those_that_the_papers_print():
    found = {m.method: (round(m.accuracy, 2), round(m.retained, 2)) for m in successors.margins()}
    assert found["AwaRes"] == (80.30, 0.36) and found["VisionThink"] == (79.23, 0.61)
    assert found["AwaRes, lambda 0"] == (80.47, 0.42)
    seconds = {m: mean(n.value for n in v.values()) for m, v in successors.of(AWARES, "seconds").items()}
    assert {m: round(v, 2) for m, v in seconds.items()} == {"VisionThink": 2.71, "AwaRes, lambda 0": 0.61}
    characters = successors.of(AWARES, "characters")
    assert [n.value for n in characters["AwaRes, lambda 0"].values()] == [7, 14, 16, 3, 6, 5]
    [adaptvision] = successors.of(ADAPTVISION, "percent of full")["AdaptVision"].values()
    assert (adaptvision.value, adaptvision.retained) == (97.9, 0.33)
    assert successors.of(MINIO3)["Mini-o3"]["V*"].value == 88.2 and successors.of(MINIO3)["Mini-o3"]["V*"].retained is None


def test_every_footnote_belongs_to_a_method():
    assert set(FOOTNOTES) <= {n.method for n in successors.numbers()}


def test_rates_of_a_mix():
    """Two families of ten examples: the full view repairs four answers of one and damages two of the other."""
    families = [
        Family(right_low=5, right_full=9, cost_low=10, cost_full=40, spent=20),
        Family(right_low=8, right_full=6, cost_low=10, cost_full=40, spent=30),
    ]
    assert one_rate(families) == [0.5, 0.5]
    assert own_rates(families) == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert best_rates(families) == [1.0, 0.0]  # 30 tokens are spare, and a full view of the other one is worth nothing
    free = Family(right_low=1, right_full=2, cost_low=10, cost_full=10, spent=10)
    assert best_rates([free, families[0]]) == [1.0, pytest.approx(1 / 3)] and own_rates([free]) == [1.0]
    below = Family(right_low=5, right_full=9, cost_low=10, cost_full=40, spent=5)
    assert best_rates([below]) == one_rate([below]) == [0.0]


def test_the_page_says_what_the_numbers_give():
    page = (Path(__file__).parents[1] / "docs" / "explanation" / "successors.md").read_text("utf-8")
    for m in successors.margins():
        margins = " | ".join(f"{value:+.1f}" for value in (m.mix, m.by_benchmark, m.best_rates))
        assert f"| {m.method} | {m.accuracy:.2f} | {100 * m.retained:.0f} | {margins} |" in page
    assert all(f"- *{name}*: {text}" in page for name, text in FOOTNOTES.items())
    for number in successors.numbers():
        if number.paper == ADAPTVISION:
            assert f"| {number.method} | {number.value:g} | {100 * number.retained:g} |" in page
    for method, found in successors.of(MINIO3).items():
        assert f"| {method} | {' | '.join(f'{n.value:g}' for n in found.values())} |" in page
