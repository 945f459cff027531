"""Curation: labels by counts, work that survives a kill, tables that train and evaluate as they are."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
from PIL import Image
from pyarrow import parquet
from rich.console import Console

from visionthink import Example, Menu, Protocol
from visionthink.cli import main
from visionthink.data import synth
from visionthink.data.curated import label_rows, write_tables
from visionthink.data.curation import Counted, Curator, counted
from visionthink.data.examples import parse_columns, read_examples
from visionthink.data.identity import content_id, image_digest
from visionthink.data.labels import Thresholds, balanced
from visionthink.errors import DataError, OptionError
from visionthink.model import Model
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.pools.pool import Pool
from visionthink.recipes.curate import CurateConfig, curate
from visionthink.recipes.curate import _same_settings as check_settings
from visionthink.resolution import QWEN2_5_VL
from visionthink.rewards.judge import Verdict
from visionthink.rewards.rules.judge import RulesJudge

KILLS = int(os.environ.get("KILLS", 3))
QUIET = Console(file=io.StringIO())


@pytest.mark.parametrize(
    "low, full, unscored, label",
    [
        (8, 8, 0, "low_suffices"),
        (7, 8, 0, "drop"),
        (2, 8, 0, "needs_full"),
        (3, 8, 0, "drop"),
        (0, 6, 0, "needs_full"),
        (0, 5, 0, "drop"),
        (8, 2, 0, "drop"),
        (8, 8, 1, "drop"),
        (0, 8, 1, "drop"),
    ],
)
def test_labels(low, full, unscored, label):
    assert Thresholds().label(low, full, unscored) == label


def test_thresholds_are_free_within_reason():
    assert Thresholds(16, 4).label(9, 13) == "needs_full"
    assert Thresholds(8, 6, wrong=2).label(7, 7) == "low_suffices"
    for bad in ({"rollouts": 0}, {"difference": 9}, {"difference": 0}, {"wrong": 6}):
        with pytest.raises(OptionError):
            Thresholds(**bad)


def test_balanced_selection_does_not_depend_on_order():
    labels = {"a": "needs_full", "b": "low_suffices", "c": "needs_full", "d": "low_suffices", "e": "low_suffices", "f": "drop"}
    chosen = balanced(labels)
    assert len(chosen) == 4 and {"a", "c"} < set(chosen) and "f" not in chosen
    assert balanced(dict(reversed(labels.items()))) == chosen
    assert len(balanced(labels, most=1)) == 2


def test_settings_that_cannot_be_are_refused(tmp_path):
    for bad in ({"limit": -1}, {"select": -1}, {"ladder": "1"}):
        with pytest.raises(OptionError):
            config(tmp_path, **bad)


def config(out: Path, **changes) -> CurateConfig:
    settings = {
        "data": "mini",
        "model": "tiny-base",
        "judge": "exact",
        "rollouts": 4,
        "difference": 2,
        "max_new_tokens": 8,
        "limit": 12,
    }
    return CurateConfig(out=out, **(settings | changes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("curation") / "whole"
    return out, curate(config(out, pool=Pool(workers=2)), QUIET)


def test_what_is_written(whole):
    out, summary = whole
    assert summary["looked_at"] == 12 == sum(summary[k] for k in ("low_suffices", "needs_full", "drop", "rejected"))
    counts = parquet.read_table(out / "counts.parquet").to_pylist()
    assert [c["row"] for c in counts] == list(range(12))
    assert all(0 <= c["correct_low"] <= 4 and 0 <= c["correct_full"] <= 4 for c in counts)
    assert sum(map(sum, summary["correct_low_by_correct_full"])) == 12
    lines = [json.loads(line) for p in (out / "rollouts").iterdir() for line in p.read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == list(range(12))
    assert all(len(line["transcripts"]) == 8 for line in lines)
    assert all([v["level"] for v in t["turns"][0]["views"]] == [0.25] for line in lines for t in line["transcripts"][:4])
    page = (out / "report.html").read_text()
    assert "needs the full view" in page and "http" not in page.replace("https://", "", 0).split("<h2>")[0]


def test_a_second_run_does_nothing_and_labels_may_change(whole, tmp_path):
    out, summary = whole
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    before = (copy / "curated.parquet").read_bytes()
    assert curate(config(copy, pool=Pool(workers=2)), QUIET)["needs_full"] == summary["needs_full"]
    assert (copy / "curated.parquet").read_bytes() == before
    curate(config(copy, difference=4), QUIET)  # labels are made from counts: no rollout is repeated
    with pytest.raises(OptionError, match="rollouts was 4 there and is 8 now"):
        curate(config(copy, rollouts=8), QUIET)


def test_a_folder_that_a_shard_of_an_earlier_version_began_is_finished(whole, tmp_path):
    out, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    half = {json.loads(line)["row"] for line in (copy / "counts" / "rows.jsonl").read_text().splitlines()[:6]}
    for kind in ("counts", "rollouts"):
        lines = (copy / kind / "rows.jsonl").read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["row"] in half]
        (copy / kind / "001-of-002-worker-01.jsonl").write_text("".join(kept))
        (copy / kind / "rows.jsonl").unlink()
    for table in ("curated.parquet", "counts.parquet", "summary.json"):
        (copy / table).unlink()
    curate(config(copy), QUIET)
    assert (copy / "curated.parquet").read_bytes() == (out / "curated.parquet").read_bytes()
    assert (copy / "counts.parquet").read_bytes() == (out / "counts.parquet").read_bytes()
    again = {json.loads(line)["row"] for line in (copy / "counts" / "rows.jsonl").read_text().splitlines()}
    assert (len(half), again) == (6, set(range(12)) - half)


def take_back_verdicts(out):
    """Counts as an outage of the judge leaves them."""
    for path in (out / "counts").iterdir():
        records = map(json.loads, path.read_text().splitlines())
        lines = [record | {"correct_low": 0, "correct_full": 0, "unscored": 8} for record in records]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_after_an_outage_of_the_judge_kept_answers_are_judged_again(whole, tmp_path):
    out, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    take_back_verdicts(copy)
    said = Console(file=io.StringIO())
    curate(config(copy, pool=Pool(workers=2)), said)
    assert "12 rows held answers that could not be judged; judged again, 0 still do" in " ".join(said.file.getvalue().split())
    assert (copy / "curated.parquet").read_bytes() == (out / "curated.parquet").read_bytes()
    assert [c.correct_full for c in counted(copy) if c.unscored] == []


def test_what_one_judge_could_not_judge_a_further_one_is_asked(whole, tmp_path):
    """Nothing is dropped for good by a judge that could not decide; what was decided stays."""
    out, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    take_back_verdicts(copy)
    dropped = label_rows(copy, Thresholds(4, 2))
    assert {(c.label, c.reason) for c in dropped} == {("drop", "8 answers could not be judged")}
    with pytest.raises(OptionError, match="judge was 'exact' there and is 'rules,exact' now"):
        curate(config(copy, judge="rules,exact"), QUIET)
    curate(config(copy, judge="exact, rules"), QUIET)
    assert [c for c in counted(copy) if c.unscored] == []
    assert (copy / "curated.parquet").read_bytes() == (out / "curated.parquet").read_bytes()
    with pytest.raises(OptionError, match="judge was 'exact,rules' there and is 'exact' now"):
        curate(config(copy), QUIET)


def test_a_path_written_in_another_way_is_the_same(tmp_path, monkeypatch):
    """Of the settings alone: what is checked before any work is done."""
    (tmp_path / "data").mkdir()
    rows = tmp_path / "data" / "rows.jsonl"
    rows.touch()
    (tmp_path / "data" / "judge.toml").touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    out = tmp_path / "out"

    def go_on(**changes) -> None:
        check_settings(config(out, **({"data": str(rows), "image_root": str(rows.parent), "judge": "exact"} | changes)))

    go_on()
    monkeypatch.chdir(tmp_path / "data")
    for data, root in (("rows.jsonl", "."), ("../data/rows.jsonl", "../link"), ("../link/rows.jsonl", str(rows.parent))):
        go_on(data=data, image_root=root)
    go_on(judge="exact,judge.toml")
    go_on(judge=f"exact, {tmp_path}/link/judge.toml")
    (tmp_path / "data" / "other.jsonl").touch()
    with pytest.raises(OptionError, match=r"data was '.*rows\.jsonl' there and is '.*other\.jsonl' now"):
        go_on(data="other.jsonl", judge="exact,judge.toml")
    assert json.loads((out / "config.json").read_text())["judge"] == "exact,judge.toml"  # as it was given first
    (tmp_path / "data" / "judge.toml").write_text("audit = 0.5")
    with pytest.raises(OptionError, match=r"judge_file was '' there and is 'audit = 0\.5' now"):
        go_on(judge="exact,judge.toml")


def test_settings_mean_the_same_on_another_machine(tmp_path, monkeypatch):
    """The same command in another place, as where a folder is mounted elsewhere; a judge's name is no folder of that name."""
    for machine in ("first", "second"):
        (tmp_path / machine / "rules").mkdir(parents=True)
        (tmp_path / machine / "rows.jsonl").touch()
        (tmp_path / machine / "judge.toml").touch()
        monkeypatch.chdir(tmp_path / machine)
        check_settings(config(tmp_path / "out", data="rows.jsonl", judge="rules,judge.toml"))
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (stored["data"], stored["judge"]) == ("rows.jsonl", "rules,judge.toml")
    for given, now in (("", "."), ("mini", str(tmp_path / "mini")), ("tiny", str(tmp_path / "tiny"))):
        (tmp_path / "mini").mkdir(exist_ok=True)
        (tmp_path / "tiny").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path)
        name = {"": "image_root", "mini": "data", "tiny": "model"}[given]
        check_settings(config(tmp_path / f"out-{name}", **{name: given}))
        with pytest.raises(OptionError, match=f"{name} was '{given}' there and is '{now}' now"):
            check_settings(config(tmp_path / f"out-{name}", **{name: now}))


def test_a_refused_run_leaves_the_settings_as_they_were(tmp_path):
    check_settings(config(tmp_path, judge="rules"))
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(OptionError, match="rollouts was 4 there and is 8 now"):
        check_settings(config(tmp_path, judge="rules,exact", rollouts=8))
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"suite": "mini", "model": "tiny", "policy": "low", "judge": "exact"}', "is not of a curation; use another folder"),
        ('{"judge": "rules"}', "is not of a curation; use another folder"),
        ("{}", "is not of a curation; use another folder"),
        ("[]", "is damaged"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_the_folder_of_something_else_is_refused(tmp_path, capsys, content, message):
    (tmp_path / "config.json").write_text(content)
    assert main(["curate", "mini", "--model", "tiny", "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path}: config.json {message}" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "config.json").read_text() == content


class CountingModel(Model):
    def __init__(self, *parts):
        super().__init__(*parts)
        self.begun: list[str] = []

    def episode(self, example, menu=None, *, pictures=None):
        self.begun.append(example.id)
        return super().episode(example, menu, pictures=pictures)


class Indefinite:
    """Says of every question that it has no definite answer."""

    identity = "indefinite"

    def compare(self, answers):
        return [Verdict("wrong", "indefinite", "")] * len(answers)

    def usage(self):
        return {}


def test_no_episode_is_begun_in_vain(tmp_path):
    def counting(side: int, **options) -> list[str]:
        policy = ScriptedPolicy(["<answer>red</answer>"])
        model = CountingModel(policy, Protocol(), Menu(), QWEN2_5_VL)
        curator = Curator(model=model, judge=RulesJudge(), thresholds=Thresholds(4, 2), **options)
        example = Example("e", "What colour?", png(side), answer="red")
        with contextlib.suppress(DataError):
            curator.count(0, example)
        return model.begun

    assert len(counting(112)) == 8
    assert len(counting(28)) == 2, "the image is too small: what was needed to see that"
    assert len(counting(112, definite=Indefinite())) == 2


@pytest.mark.slow
def test_killed_at_any_moment_the_result_is_the_same(tmp_path):
    """KILLS=30 for the whole measurement."""
    limit = 30 * KILLS
    curate(config(tmp_path / "whole", pool=Pool(workers=3), limit=limit), QUIET)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "visionthink", "curate", "mini", "--model", "tiny-base", "--judge", "exact"]
    command += ["--rollouts", "4", "--difference", "2", "--max-new-tokens", "8", "--limit", str(limit), "--workers", "3"]
    command += ["--out", str(out)]
    draw, done = random.Random(0), []
    for _ in range(KILLS):
        before, end = len(list(counted(out))), time.monotonic() + 120
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while len(list(counted(out))) == before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)  # until it has begun to work
        time.sleep(draw.uniform(0, 0.2))
        if draw.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)  # workers and all
        else:
            process.kill()  # workers notice, and stop
        process.wait()
        done.append(len(list(counted(out))))
    assert sorted(set(done)) == done and done[0] > 0 and done[-1] < limit, "every kill came after some work and before the end"
    assert subprocess.run(command, capture_output=True).returncode == 0
    for name in ("curated.parquet", "counts.parquet", "rejects.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def png(side: int, grey: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (grey, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def test_bad_rows_are_written_down_and_counted(tmp_path):
    (tmp_path / "a.png").write_bytes(png(112))
    (tmp_path / "small.png").write_bytes(png(28))
    (tmp_path / "text.png").write_text("no image")
    good = {"question": "What colour?", "answer": "red", "image": "a.png"}
    bad = [
        {"question": "What?", "answer": "red"},
        good | {"image": "missing.png"},
        good | {"image": "text.png"},
        good | {"image": "../../etc/passwd"},
        good | {"image": "https://example.com/a.png"},
        good | {"answer": None},
        good | {"answer": {"text": "red"}},
        good | {"question": 3},
        good | {"image": "small.png"},
        good,  # a second time
    ]
    lines = [json.dumps(row).encode() for row in (good, *bad)] + [b"oops", b'{"question": "\xff"}']
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    summary = curate(config(tmp_path / "out", data=str(tmp_path / "rows.jsonl"), limit=0), QUIET)
    assert (summary["rows"], summary["rejected"]) == (13, 12)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [r["row"] for r in rejects] == list(range(1, 13))
    expected = [
        "no image in column image",
        "missing.png",
        "not an image file",
        "lies outside of",
        "the image is an address",
        "no answer in column answer",
        "the answer is nested",
        "the question is a whole number, not text",
        "the image is too small",
        "the same as row 0",
        "not a JSON object",
        "not UTF-8 text",
    ]
    for reject, text in zip(rejects, expected, strict=True):
        assert text in reject["reason"] and reject["file"].endswith("rows.jsonl"), (reject, text)
    with pytest.raises(DataError, match=r"no image in column image|missing\.png"):
        curate(config(tmp_path / "strict", data=str(tmp_path / "rows.jsonl"), limit=0, strict=True), QUIET)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(good | {"question": f"{i}?"}) + "\n" for i in range(13)))
    with pytest.raises(DataError, match="the data has changed since"):  # counts of other rows must not become their labels
        relabel(tmp_path / "out", tmp_path / "rows.jsonl")


def relabel(out: Path, data: Path) -> None:
    counts = next((out / "counts").iterdir())
    record = json.loads(counts.read_text().splitlines()[0])
    hard = record | {"row": 0, "correct_low": 0, "correct_full": 4, "unscored": 0, "rejected": ""}
    easy = record | {"row": 1, "id": "other", "correct_low": 4, "correct_full": 4, "unscored": 0, "rejected": ""}
    counts.write_text("".join(json.dumps(r) + "\n" for r in (hard, easy)))
    table = read_examples(str(data))
    write_tables(out, label_rows(out, Thresholds(4, 2)), table)


def test_images_of_the_validation_set_are_left_out(tmp_path):
    for name, grey in (("a", 90), ("b", 91)):
        (tmp_path / f"{name}.png").write_bytes(png(112, grey))
    Image.open(tmp_path / "b.png").save(tmp_path / "b.bmp")  # the same pixels in another file
    rows = [{"question": f"{n}?", "answer": "red", "image": f"{n}.png"} for n in "ab"]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "val.jsonl").write_text(json.dumps({"question": "other", "answer": "x", "image": "b.bmp"}))
    settings = {"data": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "val.jsonl"), "limit": 0}
    curate(config(tmp_path / "out", **settings), QUIET)
    [reject] = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert reject["row"] == 1 and reject["reason"] == "its image is that of row 0 of the validation set"


@pytest.mark.parametrize("kind", ["parquet", pytest.param("folder", marks=pytest.mark.slow)])
def test_the_released_schema_is_curated_trained_on_and_evaluated(tmp_path, kind, whole):
    """No conversion: what curation writes is what training reads, and both read the released schema."""
    rows = datasets.Dataset.from_list(
        [
            {
                "problem": f"<image>{e.question}",
                "images": [{"bytes": e.image if isinstance(e.image, bytes) else as_png(e.image), "path": None}],
                "original_answer": e.answer,
                "doc_id": i,
                "data_source": "open_source",
                "info": {"use_tool": e.need == "hard"},
            }
            for i, e in enumerate(mini(12))
        ]
    )
    source = tmp_path / ("rows.parquet" if kind == "parquet" else "rows")
    rows.to_parquet(source) if kind == "parquet" else rows.save_to_disk(source)
    summary = curate(config(tmp_path / "out", data=str(source), limit=0), QUIET)
    assert summary["looked_at"] == 12 and summary["agreement"] is not None and summary["selected"] > 0
    curated = tmp_path / "out" / "curated.parquet"
    table = read_examples(str(curated))
    assert {e.need for e in table.values()} == {"easy", "hard"}
    assert main(["train", "tiny", "--data", str(source), "--dry-run", "--out", str(tmp_path / "t1")]) == 0
    assert main(["train", "tiny", "--data", str(curated), "--dry-run", "--out", str(tmp_path / "t2")]) == 0
    assert main(["eval", str(source), "--model", "tiny", "--out", str(tmp_path / "e"), "--max-new-tokens", "8"]) == 0
    assert json.loads((tmp_path / "e" / "summary.json").read_text())["n"] == 12


def mini(n: int):
    from visionthink.recipes import suite

    return suite("mini", n)


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_columns_by_name():
    assert parse_columns("question=q, answer=json.a") == {"question": "q", "answer": "json.a"}
    for bad in ("query=q", "question", "question="):
        with pytest.raises(OptionError, match="columns"):
            parse_columns(bad)


def test_labels_of_rows_with_the_same_content(tmp_path):
    folder = tmp_path / "counts"
    folder.mkdir()
    records = [
        Counted(row=0, id="x", image="i", correct_low=0, correct_full=8),
        Counted(row=1, id="x", image="i", correct_low=0, correct_full=8),
        Counted(row=2, id="y", image="j", correct_low=8, correct_full=8),
        Counted(row=3, rejected="bad"),
    ]
    (folder / "0001-of-0001.jsonl").write_text("".join(json.dumps(vars(r)) + "\n" for r in records) + '{"row": 4, "id"')
    rows = label_rows(tmp_path, Thresholds())
    assert [(r.label, r.selected, r.reason) for r in rows] == [
        ("needs_full", True, ""),
        (None, False, "the same as row 0"),
        ("low_suffices", True, ""),
        (None, False, "bad"),
    ]


def test_an_earlier_conversation_is_part_of_what_an_example_is():
    example = synth.draw("scene", 0)
    after = dataclasses.replace(example, earlier=(("user", "Hello."), ("assistant", "Hello.")))
    digest = image_digest(example.image)
    assert content_id(example, digest) != content_id(after, digest)
