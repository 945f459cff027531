"""What an evaluation found, in sentences: on the page and on the terminal."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from pathlib import Path

import pytest
from episodes import FULL, LOW, scored
from test_run_folders import run_of, shown

from visionthink import __version__
from visionthink.cli import main
from visionthink.evals.metrics import Scored
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.report.page import report
from visionthink.evals.words import all_problems, in_words, overview, problems, share_interval
from visionthink.transcript import Turn
from visionthink.types import StopReason

KNOWING = [scored("a", True, 25, 100), scored("b", True, 25), scored("c", False, 25), scored("d", True, 25)]
"""Makes a request only where it is needed: 200 of 400 tokens."""
FIT = {"family": "fcot", "keep": 0.25, "questions": "generated questions", "tested": 480}
FIT |= {"trained": 0.935, "control": 0.91, "untrained": 0.69, "full": 0.985}


def times(n: int, members: list[Scored]) -> list[Scored]:
    """The same episodes n times, under other ids."""
    return [
        dataclasses.replace(s, transcript=dataclasses.replace(s.transcript, example_id=f"{s.transcript.example_id}{i}"))
        for i in range(n)
        for s in members
    ]


def told(folder: Path, n: int = 10, **runs: list[Scored]) -> list[str]:
    """The paragraphs of runs by policy, each n times as long."""
    folders = [run_of(folder / name, name, times(n, members)) for name, members in runs.items()]
    return in_words([run.to_dict() for run in report(folders, folder / "r.html")])


def test_what_is_above_what_is_below_and_what_is_undecided(tmp_path):
    [knowing] = told(tmp_path / "1", adaptive=KNOWING, low=LOW, full=FULL)
    assert knowing == (
        "m under adaptive answers 75.0 % of 40 questions correctly and reads 50.0 % of the visual tokens of the full views. "
        "Always-full answers 50.0 % correctly and always-low 50.0 %. With as many visual tokens as this run, these accuracies "
        "are expected: the random mix 50.0 % and the mix with the best rates 50.0 %. The run is above always-full (+25.0 points, "
        "95 % interval +12.5 to +40.0), the random mix (+25.0, +16.7 to +33.3) and the mix with the best rates (+25.0, +12.5 to "
        "+37.5)."
    )
    wrong = [scored(name, False, 25) for name in "abcd"]
    [below] = told(tmp_path / "2", adaptive=wrong, low=LOW, full=FULL)
    assert "The run is below always-full (-50.0 points, 95 % interval -65.0 to -35.0), the random mix (-50.0, " in below
    [open_] = told(tmp_path / "3", adaptive=LOW, low=LOW, full=FULL)
    assert "It is undecided whether the run is above or below always-full (+0.0 points, 95 % interval -22.5 to +22.5), " in open_
    assert "The run is" not in open_


def test_few_questions_decide_nothing(tmp_path):
    """All four are answered better than at full resolution, which from so few would be called certain."""
    full = [scored(name, False, 100) for name in "abcd"]
    run = [scored(name, True, 25) for name in "abcd"]
    [paragraph] = told(tmp_path, 1, adaptive=run, low=LOW, full=full)
    assert paragraph.endswith(
        "It is undecided whether the run is above or below always-full (+100.0 points), the random mix (+50.0) and the mix with "
        "the best rates (+50.0): fewer than 20 questions were compared, too few for an interval."
    )
    text = shown(tmp_path / "r.html")
    assert re.search(r"m · adaptive 4 \+100\.0 too few 50\.0 \+50\.0 too few ", text)
    [one] = told(tmp_path / "one", 1, adaptive=[scored("a", True, 25)], low=LOW[:1], full=FULL[:1])
    assert one.startswith("m under adaptive answers 100.0 % of 1 question correctly") and "The run is" not in one


def test_figures_are_over_the_questions_that_all_runs_share(tmp_path):
    full = [s if s.transcript.example_id != "c" else scored("c", None, 100) for s in FULL]
    [paragraph] = told(tmp_path, adaptive=KNOWING, low=LOW, full=full)
    # of a, b and d all are right, b and d at low, a and b at full; 175 of 300 tokens
    assert paragraph.startswith(
        "m under adaptive answers 100.0 % of 30 questions (of 40, those that were judged under low and full too) correctly and "
        "reads 58.3 % of the visual tokens of the full views. Of all 40 that were judged in this run, it answers 75.0 % "
        "correctly. Always-full answers 66.7 % correctly and always-low 66.7 %. "
    )
    assert re.search(r"m · full 66\.7 \[48\.8, 80\.8\] 100\.0 100\.0 30 of 40 ", shown(tmp_path / "r.html"))


def test_a_run_without_others_and_baselines_alone(tmp_path):
    [alone] = told(tmp_path / "1", 1, adaptive=KNOWING)
    assert alone == (
        "m under adaptive answers 75.0 % of 4 questions correctly (95 % interval 30.1 to 95.4 %) and reads 50.0 % of the visual "
        "tokens of the full views. Whether this is worth its cost can only be judged with runs of the same model under low and "
        "full."
    )
    [low] = told(tmp_path / "2", 1, low=LOW)
    assert low == (
        "m under low answers 50.0 % of 4 questions correctly (95 % interval 15.0 to 85.0 %) and reads 25.0 % of the visual "
        "tokens of the full views."
    )
    unjudged = [scored(name, None, 100) for name in "abcd"]
    assert told(tmp_path / "3", 1, full=unjudged) == ["m under full has no accuracy, as none of its answers could be judged."]
    [apart] = told(tmp_path / "4", 1, adaptive=KNOWING, low=LOW, full=unjudged)
    assert apart.endswith("It cannot be compared with low and full, as no question was judged in all three runs.")


def several(folder: Path, n: int = 10, **models: dict[str, list[Scored]]) -> str:
    """The paragraph over runs by model and policy, each n times as long; it stands before the table of the page."""
    folders = []
    for model, runs in models.items():
        for policy, members in runs.items():
            name = f"{model}-{policy}".replace(":", "-")
            folders.append(run_of(folder / name, policy, times(n, members), {"model": model}))
    found = overview([run.to_dict() for run in report(folders, folder / "r.html")])
    assert f" {found} Accuracy and visual tokens " in shown(folder / "r.html")
    return found


def compared(name: str, n: int, mean: float, low: float, high: float) -> dict[str, object]:
    """What `overview` reads of a run beside its random mix."""
    mix = {"mean": mean, "low": low, "high": high, "n": n}
    return {
        "model": name,
        "policy": "adaptive",
        "comparison": {"n": n, "accuracy": 0.9, "retain_layers": 0.5, "mix": 0.9 - mean, "full": 0.95, "against_mix": mix},
    }


def test_a_run_that_is_certainly_above_comes_before_one_that_may_be_further_above():
    sure = compared("sure", 300, 0.05, 0.01, 0.09)
    found = overview([compared("few", 10, 0.3, -0.1, 0.7), sure, compared("unsure", 100, 0.06, -0.01, 0.13)])
    assert found.startswith("Of the 3 runs that are not baselines, sure under adaptive is furthest above its random mix: ")
    assert found.endswith("few under adaptive and unsure under adaptive cannot be distinguished from their random mix.")


def test_one_run_with_an_accuracy_is_no_range():
    runs = [{"model": "m", "policy": p, "accuracy": a, "retain_layers": 0.25} for p, a in (("low", 0.8), ("full", None))]
    assert overview(runs).startswith(
        "Only one of 2 runs has an accuracy: 80.0 % (m under low, with 25.0 % of the visual tokens)."
    )


def test_several_runs_are_one_paragraph_before_the_table_and_each_in_words_behind_it(tmp_path):
    wrong = [scored(name, False, 25) for name in "abcd"]
    knowing, other = {"adaptive": KNOWING, "low": LOW, "full": FULL}, {"adaptive": wrong, "low": LOW, "full": FULL}
    found = several(tmp_path, one=other, two=knowing, three={**other, "adaptive": LOW}, four={"adaptive": KNOWING})
    assert found == (
        "Of the 4 runs that are not baselines, two under adaptive is furthest above its random mix: it answers 75.0 % of 40 "
        "questions correctly and reads 50.0 % of the visual tokens of the full views. A random choice between the low and the "
        "full view is expected to answer 50.0 % correctly at the same cost. Always-full answers 50.0 % correctly. one under "
        "adaptive is below its random mix. three under adaptive cannot be distinguished from its random mix. four under "
        "adaptive cannot be compared with low and full of the same model."
    )
    behind = shown(tmp_path / "r.html").partition(" Accuracy and visual tokens ")[2].partition(" Each run in words ")[2]
    assert behind.startswith("one under adaptive answers 0.0 % of 40 questions correctly and reads 25.0 % of ")
    assert "<details>\n<summary>Each run in words</summary>" in (tmp_path / "r.html").read_text()


def test_many_runs_are_counted_and_those_above_are_named(tmp_path):
    wrong = [scored(name, False, 25) for name in "abcd"]
    low = {f"m{i}": {"adaptive": wrong, "low": LOW, "full": FULL} for i in range(3)}
    better = [scored(name, True, 25) for name in "abcd"]
    found = several(tmp_path, **low, good={"adaptive": KNOWING, "resize:0.5": better, "low": LOW, "full": FULL})
    assert found.startswith("Of the 5 runs that are not baselines, good under resize:0.5 is furthest above its random mix: it ")
    assert found.endswith("good under adaptive is above its random mix as well. 3 other runs are below their random mix.")


def test_several_runs_of_which_none_is_above_its_random_mix(tmp_path):
    lines = {"low": LOW, "full": FULL}
    same = several(tmp_path / "1", m={"adaptive": LOW, "resize:0.5": LOW, **lines})
    assert same.startswith(
        "None of the 2 runs that are not baselines is certainly above its random mix; m under adaptive comes closest: it answers "
    )
    assert same.endswith("m under resize:0.5 cannot be distinguished from its random mix.")
    few = several(tmp_path / "2", 1, m={"adaptive": KNOWING, "resize:0.5": LOW, **lines})
    assert few.endswith("Fewer than 20 questions were compared, too few to decide anything.")


def test_several_runs_without_a_random_mix(tmp_path):
    assert several(tmp_path / "1", 1, m={"low": LOW, "forced:request": [scored(name, True, 100) for name in "abcd"]}) == (
        "The accuracies of 2 runs go from 50.0 % (m under low, with 25.0 % of the visual tokens) to 100.0 % (m under "
        "forced:request, with 100.0 % of the visual tokens). All of them are baselines, with which runs under adaptive or "
        "another policy are compared."
    )
    alone = several(tmp_path / "2", 1, m={"adaptive": KNOWING, "resize:0.5": LOW})
    assert alone.endswith("Which trade-off is best can only be judged with runs of the same models under low and full.")
    unjudged = [scored(name, None, 100) for name in "abcd"]
    none = several(tmp_path / "3", 1, m={"low": unjudged, "full": unjudged})
    assert none == "None of 2 runs has an accuracy, as no answer could be judged."


def test_intervals_of_shares_by_hand():
    assert share_interval(1.0, 1) == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert share_interval(0.5, 4) == pytest.approx((0.1500, 0.8500), abs=1e-4)
    assert share_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


BASELINES = ("low", "trained-full", "random:0.5", "oracle", "forced:direct", "control:blank")
JUDGED = ("adaptive", "gate:vote@0.5", "resize:0.5", "pool:0.25", "low+pool:0.25")


@pytest.mark.parametrize("policy", [*BASELINES, *JUDGED])
def test_who_is_a_baseline(policy):
    assert PolicySpec.parse(policy).is_baseline == (policy in BASELINES)


def silent(name: str) -> Scored:
    made = scored(name, None, 25)
    turn = dataclasses.replace(made.transcript.turns[0], action="answer", note="cannot connect")
    assert isinstance(turn, Turn)
    failed = dataclasses.replace(made.transcript, turns=(turn,), stop_reason=StopReason.POLICY_ERROR, answer=None)
    return dataclasses.replace(made, transcript=failed)


def test_what_does_not_count_is_said_with_its_reasons(tmp_path):
    members = [*LOW, silent("e"), silent("f"), scored("g", None, 25)]
    run = report([run_of(tmp_path / "low", "low", members, {"failed": 1})], tmp_path / "r.html")[0]
    lines = [
        "m under low: 1 example could not be used; failed.jsonl in its folder says why.",
        "m under low: of 7 questions, 2 got no reply from the model and 1 could not be judged; 4 count. Reasons: 2 unscored: "
        "cannot connect; transcripts.jsonl in its folder has them all.",
    ]
    assert problems(run.summary) == lines
    why = {"failed_reasons": ["t.csv, line 11: no answer", "t.csv, line 12: no image"]}
    said = "2 examples could not be used. Reasons: t.csv, line 11: no answer; t.csv, line 12: no image; "
    said += "failed.jsonl in its folder has them all."
    broken = run.summary | {"failed": 2} | why
    full = broken | {"policy": "full"}
    assert all_problems([broken, full])[0] == f"Each of the 2 runs: {said}"
    assert all_problems([broken, full, run.summary | {"failed": 0, "policy": "random:0.5"}])[0].startswith(
        "m under low and m under full: "
    )
    assert all_problems([broken])[0] == f"m under low: {said}"
    text = shown(tmp_path / "r.html")
    assert all(line in text for line in lines) and "m · low 50.0 [15.0, 85.0] 25.0 25.0 4 of 7 " in text


def test_the_fit_of_a_trained_method_stands_beside_it_and_is_said_to_be_of_other_questions(tmp_path):
    folders = [run_of(tmp_path / p, p, s) for p, s in (("low", LOW), ("full", FULL))]
    folders.append(run_of(tmp_path / "learned", "learned:runs/fcot", KNOWING, {"fit": FIT}))
    [*_, run] = report(folders, tmp_path / "r.html")
    [paragraph] = in_words([run.to_dict()])
    assert paragraph.endswith(
        "Its fit measured 93.5 % for the method, 91.0 % for the control and 69.0 % for the untrained method, on 480 questions "
        "of the fit's own (generated questions) and not on this suite."
    )
    text = shown(tmp_path / "r.html")
    assert paragraph in text
    assert "on the fit's own held-out questions and not on this suite" in text
    assert "m · learned:runs/fcot fcot 25.0 480 generated questions 93.5 91.0 69.0 98.5 " in text


def test_the_terminal_and_the_page_say_the_same_and_when_and_how_it_was_measured(tmp_path, capsys):
    options = ["--limit", "6", "--max-new-tokens", "8", "--policy", "adaptive,low,full", "--out", str(tmp_path)]
    assert main(["eval", "mini", *options]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    text = shown(tmp_path / "report.html")
    paragraph = re.search(r"tiny under adaptive answers .*? of 6 questions .* too few for an interval\.", printed)[0]
    assert f"Suite mini {paragraph}" in text
    summary = json.loads((tmp_path / "tiny-low" / "summary.json").read_text())
    assert summary["version"] == __version__ and re.fullmatch(r"\d{4}-\d\d-\d\d", summary["date"])
    assert summary["settings"] == {
        "examples": 6,
        "batch": 64,
        "engine": "transformers",
        "max_new_tokens": 8,
        "limit": 6,
        "ladder": "0.25,1",
    }
    measured = (
        f"evaluated on {summary['date']} visionthink version {__version__} judge exact examples 6 episodes per batch 64 engine "
    )
    measured += "transformers max new tokens 8 limit 6 ladder: shares of the pixels, lowest first 0.25,1 "
    assert measured in text
    assert re.search(rf"Written on \d{{4}}-\d\d-\d\d \d\d:\d\d UTC by visionthink {re.escape(__version__)}\.", text)
    for name in ("low", "full"):
        summary_of = tmp_path / f"tiny-{name}" / "summary.json"
        summary_of.write_text(summary_of.read_text().replace(summary["date"], f"2001-01-0{len(name) - 2}"))
    assert main(["eval", "mini", *options]) == 0  # nothing is asked again: the dates stay
    ran = f"evaluated on {summary['date']} (tiny · adaptive); 2001-01-01 (tiny · low); 2001-01-02 (tiny · full) "
    assert ran in shown(tmp_path / "report.html")


def test_every_run_is_in_every_figure_or_said_not_to_be(tmp_path):
    policies = ["adaptive", "low", "full", "forced:direct", "control:blank", "pool:0.25"]
    folders = [run_of(tmp_path / str(i), p, LOW) for i, p in enumerate(policies)]
    folders.append(run_of(tmp_path / "none", "oracle", [scored(name, None, 25) for name in "abcd"]))
    report(folders, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    figures = re.findall(r"<svg (?!class).*?</svg>", page, re.S)
    assert len(figures) == 5  # accuracy against tokens and seconds, both by family, seconds; operations are not known
    for i, figure in enumerate(figures):
        drawn = set(re.findall(r"<!-- (.*?) -->", html.unescape(figure)))
        assert set(policies) <= drawn, (i, drawn)
    assert "Not in this figure, as its accuracy or its cost is not known: m · oracle." in shown(tmp_path / "r.html")


def test_tables_of_the_page_name_their_columns_in_every_cell(tmp_path):
    """On a narrow screen the head of a table is not shown, and a cell says itself what it is."""
    report([run_of(tmp_path / p, p, s) for p, s in (("adaptive", KNOWING), ("low", LOW), ("full", FULL))], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    [first] = re.findall(r"<tr><td[^>]*>m · adaptive</td>.*?</tr>", page)[:1]
    assert page.count("<summary>What the columns mean</summary>") == 3  # of requests, costs and break-even
    assert re.findall(r'data-column="(.*?)"', first)[:4] == ["model · policy", "accuracy %", "last view %", "every view %"]
    assert page.count("<td") == page.count("<td data-column=")
