"""The lines every table carries, by hand; and the paper's own numbers through the same accounting."""

from __future__ import annotations

import dataclasses
import statistics

import pytest
from episodes import FULL, LOW, scored

from visionthink.evals import paper
from visionthink.evals.bootstrap import bootstrap
from visionthink.evals.comparison import Lines, beside_trained, branches, compare, mix, oracle, router
from visionthink.evals.metrics import retention
from visionthink.evals.mixes import one_rate, own_rates

LINES = Lines.of(LOW, FULL)


def test_a_run_beside_the_lines():
    run = [scored("a", True, 25, 100), scored("b", True, 25), scored("c", False, 25, 100), scored("d", False, 25, 100)]
    found = compare(run, LINES)
    assert found["n"] == 4
    assert found["against_low"]["mean"] == 0.0 and found["against_full"]["mean"] == 0.0
    # 400 - 25 of 400 - 100 spare tokens: the coin would always see the full view
    assert found["mix"] == 0.5 and found["against_mix"]["mean"] == 0.0
    assert found["router"] == {"precision": 1 / 3, "recall": 1.0, "false_requests": 2 / 3, "gain": pytest.approx(1 / 3)}
    assert found["router_known"] is None
    assert found["group_a"] == {"n": 2, "accuracy": 0.5, "request_ratio": 1.0}
    assert found["group_b"] == {"n": 2, "accuracy": 0.5, "request_ratio": 0.5}
    assert (found["damage"], found["repair"], found["lucky"]) == (0.0, 0.25, 0.0)
    assert found["oracle"] == {"accuracy": 0.75, "request_ratio": 0.25, "retain_cumulative": 200 / 400}


def test_damage_and_luck():
    run = [scored("a", False, 25), scored("b", True, 25), scored("c", True, 25), scored("d", True, 25)]
    found = compare(run, LINES)
    assert (found["damage"], found["repair"], found["lucky"]) == (0.25, 0.25, 0.25)
    assert found["mix"] == 0.5 and found["against_low"]["mean"] == 0.25


def test_recognising_the_data_set_is_not_skill():
    """One family needs the full view, the other does not: a run that asks in the first beats the mix over all, and not the mix
    within each family."""
    low = [scored(f"x{i}", False, 25, family="x") for i in range(4)] + [scored(f"y{i}", True, 25, family="y") for i in range(4)]
    full = [scored(s.transcript.example_id, True, 100, family=s.transcript.family) for s in low]
    run = [scored(f"x{i}", True, 100, family="x") for i in range(4)] + low[4:]
    own = {s.transcript.example_id: s for s in run}
    lines = Lines.of(low, full)
    over_all = mix(own, lines, list(own), one_rate)
    assert sum(over_all.values()) / 8 == 0.75  # half of the tokens: half of the first family is repaired
    within = mix(own, lines, list(own), own_rates)
    assert sum(within.values()) / 8 == 1.0
    found = compare(run, lines)
    assert found["against_mix"]["mean"] == 0.25 and found["against_mix_by_family"]["mean"] == 0.0
    assert found["mix_best_rates"] == 1.0 and found["against_mix_best_rates"]["mean"] == 0.0


def test_the_mix_with_the_best_rates_spends_where_the_full_view_gains_most():
    """The run asks in the family that gains nothing: a mix that knows better spends the same tokens in the other one."""
    low = [scored(f"x{i}", i < 3, 25, family="x") for i in range(4)] + [scored(f"y{i}", False, 25, family="y") for i in range(4)]
    full = [scored(s.transcript.example_id, True, 100, family=s.transcript.family) for s in low]
    run = [scored(f"x{i}", True, 25, 100, family="x") for i in range(3)] + low[3:]
    found = compare(run, Lines.of(low, full))
    # 300 tokens are spare, and a full view instead of a low one takes 75: x gains .25 a question and y 1
    assert (found["mix"], found["mix_by_family"], found["mix_best_rates"]) == (3 / 8 + 0.5 * 5 / 8, 4 / 8, 7 / 8)
    assert found["against_mix_best_rates"]["mean"] == -0.5
    alone = [dataclasses.replace(s, transcript=dataclasses.replace(s.transcript, family=None)) for s in run]
    assert compare(alone, Lines.of(low, full))["mix_best_rates"] is None


def test_the_known_need():
    run = [scored("a", True, 25, 100, need="hard"), scored("b", True, 25, need="easy"), scored("c", False, 25, need="hard")]
    assert compare(run, LINES)["router_known"] == {"precision": 1.0, "recall": 0.5, "false_requests": 0.0, "gain": 0.5}


def test_what_is_unscored_takes_no_part():
    run = [scored("a", None, 25, 100), scored("b", True, 25), scored("new", True, 25)]
    found = compare(run, LINES)
    assert found["n"] == 1 and found["against_full"]["n"] == 1
    assert compare([scored("a", None, 25)], LINES) == {"n": 0}
    assert Lines.of([scored("a", None, 25)], FULL).low == {}


def test_rows_of_two_tables_are_not_paired():
    """Their ids are row numbers: the questions differ."""
    other = [dataclasses.replace(s, transcript=dataclasses.replace(s.transcript, question="another")) for s in LOW]
    assert compare(other, LINES) == {"n": 0}
    assert branches(other, LOW, LOW)["asked"]["n"] == 0


def test_routers_without_cases():
    assert router({"a": False}, {"a": False}) == {"precision": None, "recall": None, "false_requests": 0.0, "gain": None}
    assert oracle(LINES, ["c"])["accuracy"] == 0.0


def test_both_branches():
    run = [scored("a", True, 25, 100), scored("b", True, 25)]
    direct = [scored("a", False, 25), scored("b", True, 25)]
    request = [scored("a", True, 25, 100), scored("b", False, 25, 100)]
    assert branches(run, direct, request) == {
        "asked": {"n": 1, "accuracy_direct": 0.0, "accuracy_request": 1.0},
        "answered_directly": {"n": 1, "accuracy_direct": 1.0, "accuracy_request": 0.0},
    }


def test_bootstrap():
    interval = bootstrap([1.0] * 30 + [0.0] * 70)
    assert interval.mean == 0.3 and interval.n == 100 and interval == bootstrap([1.0] * 30 + [0.0] * 70)
    # the standard error of a share of .3 over 100 is .0458; 1.96 of them on either side
    assert interval.low == pytest.approx(0.21, abs=0.021) and interval.high == pytest.approx(0.39, abs=0.021)
    assert bootstrap([0.5] * 9).low == bootstrap([0.5] * 9).high == 0.5
    assert bootstrap([]) is None
    assert interval.sure and not bootstrap([1.0, -1.0]).sure


def test_table_8_of_the_paper_through_our_accounting():
    """Its request ratios give 61.3 % of the visual tokens with every view counted, 52.2 % with the last one alone."""
    final, cumulative = [], []
    for name, ratio in paper.table_8().items():
        asked = round(1000 * ratio)
        run = [scored(f"{name}{i}", True, 25, 100) if i < asked else scored(f"{name}{i}", True, 25) for i in range(1000)]
        final.append(retention(run, cumulative=False))
        cumulative.append(retention(run, cumulative=True))
        assert (final[-1], cumulative[-1]) == pytest.approx(paper.retained(ratio))
    assert len(final) == 6
    assert round(statistics.mean(cumulative), 3) == 0.613
    assert round(statistics.mean(final), 4) == 0.5225


def test_table_2_of_the_paper_recomputed():
    averages = {(a.method, a.retained): a for a in paper.table_2()}
    assert len(averages) == 11
    assert {key for key, a in averages.items() if not a.holds} == {("FastV", "50"), ("VisionZip-FT130K", "50")}
    assert averages["FastV", "50"].recomputed == pytest.approx(95.15, abs=0.01)
    assert round(averages["VisionZip-FT130K", "50"].recomputed, 1) == 94.8
    assert round(averages["VisionThink", "51.3"].recomputed, 1) == 101.4
    assert round(averages["Down-Sample", "25"].recomputed, 1) == 92.1


def test_numbers_of_the_paper():
    printed = paper.by_benchmark()
    assert printed["ChartQA"] == {"Vanilla Qwen2.5-VL-7B": 79.8, "Down-Sample": 62.9, "VisionThink": 79.8}
    assert printed["MMMU"]["VisionThink"] == 51.2


def test_beside_models_that_were_trained_for_one_level():
    """Training alone repairs a and b; the run has one answer more than the trained low line, at three full views' worth."""
    low = [scored("a", True, 25), scored("b", True, 25), scored("c", False, 25), scored("d", False, 25)]
    full = [scored("a", True, 100), scored("b", True, 100), scored("c", True, 100), scored("d", True, 100)]
    run = [scored("a", True, 25), scored("b", True, 25), scored("c", True, 25, 100), scored("d", False, 25)]
    found = beside_trained(run, low, full)
    assert (found["n"], found["low"], found["full"]) == (4, 0.5, 1.0)
    assert (found["against_low"]["mean"], found["against_full"]["mean"]) == (0.25, -0.25)
    # 100 of 300 spare tokens: a third of the full views, each worth half an answer
    assert found["mix_best_rates"] == pytest.approx(0.5 + 1 / 3 * 0.5)
    assert found["against_mix_best_rates"]["mean"] == pytest.approx(0.75 - 2 / 3)
    alone = beside_trained(run, None, full)
    assert (alone["low"], alone["against_low"], alone["mix_best_rates"]) == (None, None, None) and alone["full"] == 1.0
    assert beside_trained(run, None, None) == dict.fromkeys(found) | {"n": 4}
