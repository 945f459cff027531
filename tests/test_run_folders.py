"""Folders of runs as `report` reads them: what is optional, what is unscored, what was mutated. And the page at the end."""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from episodes import FULL, LOW, scored
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mutations import copied_at, places
from PIL import Image
from rich.console import Console

from visionthink.cli import main
from visionthink.errors import DataError
from visionthink.evals.metrics import Scored
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.report.gallery import gallery
from visionthink.evals.report.page import report
from visionthink.evals.report.plots import _annotate, figure, frontier
from visionthink.evals.report.runs import Run, compared, read
from visionthink.evals.run_folder import read_run, view_file, write_run
from visionthink.evals.summary import summarise
from visionthink.evals.table import summary_table
from visionthink.model import load
from visionthink.recipes.frontier import evaluate_all
from visionthink.rewards.rules.judge import RulesJudge
from visionthink.types import Example

UNSAID = re.compile(r"\b(None|nan|NaN|undefined|Undefined)\b")


def shown(page: Path) -> str:
    """What a reader sees of a page."""
    body = page.read_text("utf-8").partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<svg.*?</svg>|<[^>]+>", " ", body, flags=re.S)).split())


def run_of(folder: Path, policy: str, members: list[Scored], more: Mapping[str, Any] = MappingProxyType({})) -> Path:
    folder.mkdir(parents=True)
    summary = summarise(members, suite="s", model="m", policy=policy) | {"judge": "exact", "failed": 0}
    write_run(folder, summary | dict(more), members, {})
    return folder


def test_luck_is_the_same_in_the_table_and_in_the_gallery(tmp_path):
    # always-low is right about b and d; so c is luck, and so is a
    own = [scored(name, True, 25, need="easy") for name in "abcd"]
    lines = {"adaptive": own, "low": LOW, "full": FULL}
    folders = [run_of(tmp_path / policy, policy, members) for policy, members in lines.items()]
    for member in own:
        t = member.transcript
        for file in (view_file(folders[0], t.example_id, 0), *(view_file(folders[0], t.example_id, 0, v) for v in t.views)):
            file.parent.mkdir(exist_ok=True)
            Image.new("1", (1, 1)).save(file)
    runs = compared([read(folder) for folder in folders])
    assert runs[0].comparison["lucky"] == 2 / 4
    assert [(section["title"], len(section["cards"])) for section in gallery(runs)] == [
        ("m · adaptive: luck (correct without a request, where always-low is wrong)", 2),
        ("m · adaptive: other episodes", 2),
    ]


# ------------------------------------------------------------------------------------------------ what is optional


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """Runs of the tiny model on examples without families and needs, and one without an answer."""
    out = tmp_path_factory.mktemp("bare")
    known: dict[str, Any] = {"answer": "red", "aliases": ("crimson",)}
    examples = [
        Example(str(i), f"What colour is number {i}?", Image.new("RGB", (112, 112), (40 * i, 90, 30)), **known if i < 3 else {})
        for i in range(4)
    ]
    policies = [PolicySpec.parse(name) for name in ("adaptive", "low", "full")]
    evaluate_all(
        examples,
        ["tiny"],
        policies,
        out,
        open_model=lambda name: load(name, max_new_tokens=8),
        suite="colours",
        judge=RulesJudge(closed=True),
    )
    return out


@pytest.mark.parametrize("of_another_length", [True, False])
@pytest.mark.parametrize("policies", ["adaptive,low", "low"])
def test_a_changed_table_is_refused_before_anything_starts(tmp_path, capsys, policies, of_another_length):
    """With the remedy, even if only the last policy was run before; the same table is taken."""
    table, out = tmp_path / "t.csv", tmp_path / "out"
    Image.new("RGB", (112, 112)).save(tmp_path / "a.png")
    table.write_text("question,image,answer\nWhat colour?,a.png,red\nWhich word?,a.png,sun\n")
    command = ["eval", str(table), "--max-new-tokens", "4"]
    last = policies.split(",")[-1]
    folder = out / f"tiny-{last}" if "," in policies else out
    main([*command, "--policy", last, "--out", str(folder)])
    main([*command, "--policy", last, "--out", str(folder)])
    row = "Which shape?,a.png,round\n"
    table.write_text(table.read_text() + row if of_another_length else f"question,image,answer\n{row}{row}")
    capsys.readouterr()
    assert main([*command, "--policy", policies, "--out", str(out)]) == 2
    why = f"the examples of {table}, or their number, changed since this folder was begun"
    assert capsys.readouterr().err == f"error: --out {folder}: {why}; name a new folder, or delete this one to begin again\n"


def test_a_table_without_families_leaves_no_none_on_the_page(bare):
    text = shown(bare / "report.html")
    assert "What colour is number 3?" in text and "no reference answer" in text and "reference: red, or crimson" in text
    assert not UNSAID.findall(text)
    assert not UNSAID.findall((bare / "report.csv").read_text())
    [card] = re.findall(r"<article.*?number 0\?.*?</article>", (bare / "report.html").read_text(), re.S)[:1]
    assert '<div class="small"></div>' not in card


def test_what_a_summary_leaves_out_is_not_printed_as_none(tmp_path):
    folder = run_of(tmp_path / "a", "adaptive", [scored("a", True, 25), scored("b", None, 25)])
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("suite", "judge", "failed"):
        del summary[name]
    (folder / "summary.json").write_text(json.dumps(summary))
    report([folder], tmp_path / "r.html")
    text = shown(tmp_path / "r.html")
    assert "judge not recorded" in text and "version not recorded" in text and not UNSAID.findall(text)


# ------------------------------------------------------------------------------------------------ what is unscored


def test_where_nothing_is_scored_there_is_no_accuracy(tmp_path):
    members = [scored(name, None, 25, family="f", need="hard") for name in "ab"]
    folders = [run_of(tmp_path / p, p, members) for p in ("adaptive", "low", "full", "forced:direct", "forced:request")]
    summary = read_run(folders[0]).summary
    assert summary["accuracy"] is None and summary["unscored_reasons"] == {"": 2}
    assert summary["by_family"]["f"]["accuracy"] is None and summary["by_need"]["hard"]["accuracy"] is None
    runs = report(folders, tmp_path / "r.html")
    assert [r.comparison for r in runs] == [{"n": 0}] * 5
    text = shown(tmp_path / "r.html")
    assert "m · adaptive – 25.0 25.0 0 of 2 0.0 – 0.0 of 2 5.0 0 " in text and not UNSAID.findall(text)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table([run.to_dict() for run in runs]))
    assert not UNSAID.findall(console.export_text())


def test_one_mix_over_the_same_examples_everywhere(tmp_path):
    """The answer to c could not be judged at full resolution: the mix of `adaptive` is over a, b and d, in the table of the
    terminal, on the page, in the figures and as JSON."""
    full = [s if s.transcript.example_id != "c" else scored("c", None, 100) for s in FULL]
    run = [scored("a", True, 25, 100), scored("b", True, 25), scored("c", False, 25, 100), scored("d", True, 25)]
    folders = [run_of(tmp_path / p, p, s) for p, s in (("low", LOW), ("full", full), ("adaptive", run))]
    runs = report(folders, tmp_path / "r.html")
    [own] = [r for r in runs if r.policy.is_adaptive]
    # 175 tokens spent of 75 at low and 300 at full: (175 - 75) / 225 of the examples see the full view; both have 2 of 3 right
    assert own.comparison["n"] == 3 and own.comparison["mix"] == pytest.approx(2 / 3)
    assert own.comparison["oracle"]["accuracy"] == 1.0
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(summary_table([r.to_dict() for r in runs]))
    table = console.export_text()
    assert re.search(r"adaptive +75\.0 +62\.5 +75\.0 +66\.7 ", table), table
    assert "mix of m adaptive: over the 3 judged in low and full too, of 4" in " ".join(table.split())
    text = shown(tmp_path / "r.html")
    assert "m · adaptive 75.0 [30.1, 95.4] 62.5 75.0 4 50.0 7.5 0 " in text
    assert "m · adaptive 3 of 4 +33.3 too few 66.7 +33.3 too few " in text
    assert "comparison.mix" in (tmp_path / "r.csv").read_text().splitlines()[0]


def test_models_that_were_trained_for_one_level_stand_beside_the_others_or_are_said_to_be_missing(tmp_path):
    run = [scored("a", True, 25, 100), scored("b", True, 25), scored("c", False, 25), scored("d", True, 25)]
    lines = {"low": LOW, "full": FULL, "adaptive": run}
    folders = [run_of(tmp_path / p, p, s) for p, s in lines.items()]
    [*_, own] = report(folders, tmp_path / "r.html")
    assert own.trained["low"] is own.trained["full"] is None
    assert "Missing: a model that was trained to answer from the low view alone (trained-low)" in shown(tmp_path / "r.html")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary_table([own.to_dict()]))
    assert "also evaluate trained-low and trained-full: its gain may come" in " ".join(console.export_text().split())
    folders.append(run_of(tmp_path / "tl", "trained-low", LOW, {"model": "t"}))
    folders.append(run_of(tmp_path / "other", "trained-full", FULL, {"model": "u", "judge": "another"}))
    [_, _, own, tl, _] = report(folders, tmp_path / "r.html")
    assert (own.trained["low"], own.trained["full"]) == (0.5, None) and own.trained["against_low"]["mean"] == 0.25
    assert tl.policy.routing == "low" and tl.trained is None and tl.policy != PolicySpec.parse("low")
    text = shown(tmp_path / "r.html")
    assert re.search(
        r"Compared with training alone .* m · adaptive 4 50\.0 \+25\.0 too few – – – – Missing: a model .* the full view", text
    )
    assert "comparison.mix_best_rates" in (tmp_path / "r.csv").read_text() and not UNSAID.findall(text)


def test_one_command_evaluates_the_trained_lines(tmp_path, capsys):
    options = ["--limit", "6", "--max-new-tokens", "8", "--trained-low", "tiny-base", "--trained-full", "tiny-base"]
    assert main(["eval", "mini", *options, "--out", str(tmp_path), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [(r["model"], r["policy"]) for r in runs] == [
        ("tiny", "adaptive"),
        ("tiny-base", "trained-low"),
        ("tiny-base", "trained-full"),
    ]
    assert (runs[0]["trained"]["low"], runs[0]["trained"]["full"]) == (runs[1]["accuracy"], runs[2]["accuracy"])
    assert (runs[1]["retain_cumulative"], runs[2]["retain_cumulative"]) == (0.25, 1.0)


def test_the_terminal_of_one_command_shows_the_mix_of_its_report(tmp_path, capsys):
    options = ["--limit", "12", "--max-new-tokens", "8", "--policy", "adaptive,low,full", "--out", str(tmp_path)]
    assert main(["eval", "mini", *options, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert main(["report", *(str(tmp_path / r["folder"]) for r in runs), "--out", str(tmp_path / "again.html"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["runs"]
    assert [r["comparison"] for r in runs] == [r["comparison"] for r in again] and runs[0]["comparison"]["n"] == 12
    assert main(["eval", "mini", *options]) == 0
    mix = f"{100 * runs[0]['comparison']['mix']:.1f}"
    assert re.search(rf"adaptive +\S+ +\S+ +\S+ +{re.escape(mix)} ", capsys.readouterr().out)


def too_long(folder: Path, *questions: str) -> Path:
    Image.new("RGB", (112, 112)).save(folder / "a.png")
    rows = [{"question": q, "answer": "3", "image": "a.png"} for q in questions]
    (folder / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "table.jsonl"


def test_an_evaluation_in_which_nothing_was_answered_is_an_error(tmp_path, capsys):
    table = too_long(tmp_path, *(f"How many? {i} " * 3000 for i in range(3)))
    options = ["--policy", "full", "--max-new-tokens", "8", "--out", str(tmp_path / "o")]
    assert main(["eval", str(table), *options, "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.splitlines()[-1]
    assert last.startswith("error: --model tiny: answered none of the 3 examples under full, 3 because of: the prompt takes ")
    assert f"(all of them: {tmp_path / 'o' / 'transcripts.jsonl'}); the same command asks them again" in last
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert summary["accuracy"] is None and summary["stop_reasons"] == {"policy_error": 3}
    [(reason, count)] = summary["unscored_reasons"].items()
    assert count == 3 and reason.endswith("and the model reads 4096")


def test_where_one_of_several_models_answered_nothing_the_others_are_shown(tmp_path, capsys):
    table = too_long(tmp_path, "How many?")
    models = ["--model", "tiny,http://127.0.0.1:9/v1#m", "--policy", "full", "--max-new-tokens", "8"]
    for as_json in (["--json"], []):
        assert main(["eval", str(table), *models, "--out", str(tmp_path / "o"), *as_json]) == 2
        printed = capsys.readouterr()
        why = "error: --model http://127.0.0.1:9/v1#m: answered none of the 1 examples under full, 1 because of: "
        assert printed.err.splitlines()[-1].startswith(why)
        if as_json:
            answered, silent = json.loads(printed.out)["runs"]
            assert (answered["model"], answered["stop_reasons"]) == ("tiny", {"answered": 1})
            assert (silent["accuracy"], silent["stop_reasons"]) == (None, {"policy_error": 1})
        else:
            assert "tiny" in printed.out and f"open {tmp_path / 'o' / 'report.html'}" in printed.out.replace("\n", "")


def test_an_evaluation_in_which_nothing_was_judged_says_why(tmp_path, capsys):
    table = too_long(tmp_path, "How many?", "How many are there?")
    judge = tmp_path / "judge.toml"
    judge.write_text('[[judge]]\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\ndeadline = 1\ncache = ""\n')
    options = ["--policy", "full", "--max-new-tokens", "8", "--judge", str(judge), "--out", str(tmp_path / "o"), "--json"]
    assert main(["eval", str(table), *options]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["accuracy"] is None
    said = (
        "tiny under full: of 2 questions, 2 could not be judged; none counts, so that there is no accuracy. Reasons: 2 unscored: "
    )
    assert (
        said in printed.err and "127.0.0.1:9" in printed.err and "; transcripts.jsonl in its folder has them all." in printed.err
    )


# ------------------------------------------------------------------------------------------------ policies are values


def test_a_composed_adaptive_policy_is_a_star(tmp_path):
    star = "M 0 -7 L"  # the upper point of a star of size 14
    for policy, is_star in (("adaptive", True), ("adaptive+visionzip:0.5@full", True), ("visionzip:0.5", False), ("low", False)):
        run = read(run_of(tmp_path / policy, policy, LOW))
        assert (star in re.sub(r"\s+", " ", frontier([run]))) == is_star, policy


def test_a_composed_adaptive_policy_has_the_branches_of_its_own_method(tmp_path):
    names = ("adaptive+fastv:0.5", "forced:direct+fastv:0.5", "forced:request+fastv:0.5", "forced:direct", "forced:request")
    runs = compared([read(run_of(tmp_path / str(i), p, LOW if i < 3 else FULL)) for i, p in enumerate(names)])
    assert runs[0].branches["answered_directly"] == {"n": 4, "accuracy_direct": 0.5, "accuracy_request": 0.5}
    assert compared(runs[:1] + runs[3:])[0].branches is None


def test_names_of_the_same_policy_are_equal():
    assert PolicySpec.parse("random:0.5") == PolicySpec.parse("random:.50") != PolicySpec.parse("random:0.25")
    assert PolicySpec.parse("fastv:0.5") == PolicySpec.parse("full+fastv:0.5") != PolicySpec.parse("low+fastv:0.5")


def test_names_are_drawn_as_they_are(tmp_path):
    """No mathematics between dollar signs, no name hidden by an underscore."""
    members = [scored("a", True, 25, family="cost in $\\frac"), scored("b", True, 25, family="of $x^{$")]
    folder = run_of(tmp_path / "a", "adaptive", members, {"model": "_hidden $x^{"})
    report([folder], tmp_path / "r.html")
    assert (
        "of $x^{$" in (tmp_path / "r.html").read_text()
        and "cost in $\\frac" in (tmp_path / "r.html").read_text()
        and "_hidden $x^{" in (tmp_path / "r.html").read_text()
    )


def test_labels_stand_beside_their_points():
    """Also to the left of a point, however narrow the letters are, and one below the other where a point has two."""
    drawn, axes = figure(5.2, 4.2)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    points = {"left": (95.0, 50.0), "right": (5.0, 50.0), "two": (50.0, 90.0)}
    texts = [(points["left"], "illiilliillilli", "red"), (points["right"], "mmm", "red")]
    _annotate(drawn, axes, [*texts, (points["two"], "a", "red"), (points["two"], "b", "red")], list(points.values()))
    left, right, two = ((label.get_window_extent(), axes.transData.transform(label.xy)) for label in axes.texts)
    assert left[0].x1 == pytest.approx(left[1][0] - 9) and right[0].x0 == pytest.approx(right[1][0] + 9)
    assert [(box.y0 + box.y1) / 2 for box, _ in (left, right, two)] == pytest.approx([y for _, (_, y) in (left, right, two)])
    assert axes.texts[2].get_text() == "a\nb"


# ------------------------------------------------------------------------------------------------ what was mutated


@pytest.mark.parametrize(
    "change, message",
    [
        ({"accuracy": 0.9}, "summary.json: says accuracy 0.9, and transcripts.jsonl gives 0.5; evaluate again into this folder"),
        ({"n": 5}, "summary.json: says n 5, and transcripts.jsonl gives 4"),
        ({"unscored": 1}, "summary.json: says unscored 1, and transcripts.jsonl gives 0"),
        ({"policy": "fastv+"}, "summary.json: --policy 'fastv+'"),
        ({"policy": 3}, "summary.json: policy: 3 is not text"),
        ({"judge": ["exact"]}, "summary.json: judge: ['exact'] is not text"),
        ({"metrics": {"score": math.nan}}, "summary.json: not valid JSON"),
        ({"metrics": {"score": [1]}}, "summary.json: metrics.score: [1] is neither a number nor text"),
        ({"failed": "2"}, "summary.json: failed: '2' is not a whole number"),
        ({"architecture": {"vision": {}, "decoder": {}}}, "summary.json: architecture.vision.layers: is missing"),
    ],
)
def test_a_summary_that_cannot_be_used_as_a_whole(tmp_path, change, message):
    folder = run_of(tmp_path / "a", "low", LOW, change)
    with pytest.raises(DataError) as error:
        read_run(folder)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t.update(verdict="maybe"),
            "line 2: not a transcript: verdict: 'maybe' is not one of correct, wrong, unscored",
        ),
        (lambda t: t.update(need="medium"), "line 2: not a transcript: need: 'medium' is not one of easy, hard"),
        (lambda t: t.update(family=3), "line 2: not a transcript: family: 3 is not text"),
        (lambda t: t.update(visual_tokens_full=0), "line 2: not a transcript: visual_tokens_full: 0: must be at least 1"),
        (lambda t: t.update(answers="a"), "line 2: not a transcript: answers: there is no such field"),
        (lambda t: t.pop("reason"), "line 2: not a transcript: reason: is missing"),
        (lambda t: t.update(example_id="a"), "line 2: example a stands there already"),
        (
            lambda t: t["turns"][0]["usage"].update(seconds="0.1"),
            "line 2: not a transcript: turns[0].usage.seconds: '0.1' is not a number",
        ),
        (
            lambda t: t["turns"][0]["usage"].update(output_tokens=-1),
            "line 2: not a transcript: turns[0].usage.output_tokens: -1: must be at least 0",
        ),
        (
            lambda t: t["turns"][0]["views"][0].update(image=1),
            "line 2: not a transcript: turns[0].views[0].image: 1: must be at least 0 and below 1",
        ),
    ],
)
def test_a_transcript_that_cannot_be_used_as_a_whole(tmp_path, change, message):
    folder = run_of(tmp_path / "a", "low", LOW)
    lines = (folder / "transcripts.jsonl").read_text().splitlines()
    second = json.loads(lines[1])
    change(second)
    lines[1] = json.dumps(second)
    (folder / "transcripts.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as error:
        read_run(folder)
    assert f"transcripts.jsonl, {message}" in str(error.value)


def test_a_transcript_nested_to_any_depth_is_refused_by_its_line(tmp_path):
    """Also where JSON is still read, and what it holds can no longer be written into a message."""
    folder = run_of(tmp_path / "r", "full", FULL)
    record = json.loads((folder / "transcripts.jsonl").read_text("utf-8").splitlines()[0])
    for depth in range(700, 1000, 4):
        line = json.dumps(record | {"answer": 0}).replace('"answer": 0', f'"answer": {"[" * depth}{"]" * depth}')
        (folder / "transcripts.jsonl").write_text(line)
        with pytest.raises(DataError, match=r"line 1: not a transcript: (answer: .* is not text|not a JSON object)$"):
            read_run(folder)


def test_ids_that_no_file_can_be_named_after(tmp_path):
    for name in ("a/b", "\ud800", "\0", "x" * 5000, "é" * 300):
        assert len(view_file(tmp_path, name, 0).name.encode()) < 255 and not view_file(tmp_path, name, 0).exists()


QUIET: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 0.5, 10**400, math.nan, math.inf, "", "None", "$x^", "\ud800", "\0", "9", [], {}, [[]]]
    ),
    st.text(max_size=5),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2), max_leaves=3),
)


@st.composite
def mutated(draw: Any, record: Any) -> Any:
    """One place of a record replaced, removed, or put elsewhere."""
    record, parent, last = copied_at(record, draw(st.sampled_from(places(record))))
    match draw(st.sampled_from(("replace", "remove", "add"))):
        case "replace":
            parent[last] = draw(HOSTILE)
        case "remove":
            del parent[last]
        case "add" if isinstance(parent, dict):
            parent[draw(st.text(max_size=3))] = draw(HOSTILE)
        case _:
            parent.append(draw(HOSTILE))
    return record


@st.composite
def damage(draw: Any, files: Mapping[str, str]) -> tuple[str, bytes]:
    """A file of a folder, and what stands in it instead: one value changed, or bytes overwritten."""
    name = draw(st.sampled_from(("summary.json", "transcripts.jsonl", "transcripts.jsonl", "config.json")))
    lines = files[name].splitlines() if name == "transcripts.jsonl" else [files[name]]
    number = draw(st.integers(0, len(lines) - 1))
    if draw(st.integers(0, 4)):
        lines[number] = json.dumps(draw(mutated(json.loads(lines[number]))))
        return name, ("\n".join(lines) + "\n").encode()
    raw = files[name].encode()
    cut = draw(st.integers(0, len(raw) - 1))
    return name, raw[:cut] + draw(st.binary(max_size=3)) + raw[cut + draw(st.integers(0, 3)) :]


def figures(kept: Sequence[Scored]) -> tuple[int, str, int]:
    """Judged, accuracy in percent, unscored: by counting."""
    decided = [s for s in kept if s.verdict.verdict != "unscored"]
    right = sum(s.verdict.verdict == "correct" for s in decided)
    return len(decided), f"{100 * right / len(decided):.1f}" if decided else "–", len(kept) - len(decided)


@pytest.fixture(scope="module")
def files(bare) -> dict[str, str]:
    return {n: (bare / "tiny-adaptive" / n).read_text() for n in ("summary.json", "transcripts.jsonl", "config.json")}


def damaged(folder: Path, files: Mapping[str, str], name: str, content: bytes) -> Run | None:
    """The folder as it is read; None where it is refused by the name of what is damaged."""
    for file, text in files.items():
        (folder / file).write_text(text)
    (folder / name).write_bytes(content)
    try:
        return read(folder)
    except DataError as error:
        said = {
            "summary.json": r"summary\.json: ",
            "transcripts.jsonl": r"transcripts\.jsonl(, line \d+: |: is empty| gives )",
            "config.json": "never",
        }
        assert re.search(said[name], str(error)), error
        return None


@settings(max_examples=200, **QUIET)
@given(data=st.data())
def test_a_damaged_folder_is_used_as_a_whole_or_refused_by_name(files, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    run = damaged(folder, files, *data.draw(damage(files)))
    if run is not None:
        run.to_dict()
        assert (run.summary["n"] - run.summary["unscored"], run.summary["unscored"]) == figures(run.scored)[::2]
        assert json.loads(json.dumps(run.to_dict()), parse_constant=pytest.fail)


@settings(max_examples=12, **QUIET)
@given(data=st.data())
def test_a_damaged_folder_that_is_read_gives_a_page(files, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("page")
    run = damaged(folder, files, *data.draw(damage(files)))
    assume(run is not None)
    report([folder], folder / "r.html")
    judged, accuracy, unscored = figures(run.scored)
    counted = f"{judged} of {len(run.scored)}" if unscored else f"{judged}"
    row = rf" · {re.escape(' '.join(str(run.policy).split()))} {accuracy} (\[\S+ \S+\] )?\S+ \S+ (\S+ )?{counted} "
    assert re.search(row, shown(folder / "r.html"))


@pytest.mark.parametrize(
    "line, message",
    [
        ({"step": "1"}, "line 2: not a logged step"),
        ({"step": 2, "reward": "0.5"}, "line 2: reward: '0.5' is not a number"),
        ({"step": 2, "seconds": [1]}, "line 2: seconds: [1] is not a number"),
    ],
)
def test_a_log_of_training_that_holds_no_numbers(tmp_path, line, message):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "reward": 0.5}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(DataError) as error:
        report([tmp_path], tmp_path / "r.html")
    assert f"metrics.jsonl, {message}" in str(error.value)


def test_a_loss_that_has_diverged_is_left_out_of_the_curve(tmp_path):
    steps = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": math.inf, "seconds": math.inf}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    report([tmp_path], tmp_path / "r.html")
    assert "3 updates." in shown(tmp_path / "r.html") and not UNSAID.findall(shown(tmp_path / "r.html"))
