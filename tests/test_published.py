"""The page of runs on benchmarks that papers print."""

from __future__ import annotations

from episodes import scored
from test_run_folders import UNSAID, run_of, shown

from visionthink.evals.report.page import report


def test_awares_stands_beside_a_run_on_one_of_its_benchmarks(tmp_path):
    run = [scored("a", True, 25, 100), scored("b", True, 200, full=800), scored("c", False, 25)]
    more = {"benchmark": "docvqa", "metrics": {"anls": 0.91, "n": 3}}
    report([run_of(tmp_path / "adaptive", "adaptive", run, more)], tmp_path / "r.html")
    text = shown(tmp_path / "r.html")
    # examples at 125, 25 and 25 % of their full views; 350 of 1000 tokens in all
    assert "m · adaptive 91.00 at 58, of sums 35 – – –" in text
    assert "AwaRes (paper) 94.43 at 28 +5.9 +5.8 +4.8" in text and "full view (paper) 94.00 at 100 – – –" in text
    assert "AwaRes, GRPO only: In effect this is an always-low model after reinforcement learning" in text
    assert "Compared with the paper" in text and not UNSAID.findall(text)


def test_other_benchmarks_have_no_such_table(tmp_path):
    more = {"benchmark": "mme", "metrics": {"total": 2300.0}}
    report([run_of(tmp_path / "low", "low", [scored("a", True, 25)], more)], tmp_path / "r.html")
    text = shown(tmp_path / "r.html")
    assert "Compared with the paper" in text and "Compared with AwaRes" not in text
