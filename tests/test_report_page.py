"""Six policies in one command, and the page they end on, in a real browser."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess

import pytest
from PIL import Image

from visionthink.cli import main
from visionthink.evals.report.plots import COLOURS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def visionthink(*arguments: str) -> None:
    assert main(list(arguments)) == 0


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    out = tmp_path_factory.mktemp("six")
    policies = "adaptive,low,full,random,oracle,forced:direct,forced:request"
    options = ["--limit", "48", "--max-new-tokens", "8", "--model", "tiny,tiny-base", "--policy", policies]
    visionthink("eval", "mini", *options, "--out", str(out))
    return out


def test_one_command_makes_every_run_and_the_page(six):
    folders = sorted(p.name for p in six.iterdir() if p.is_dir())
    assert len(folders) == 14 and {"tiny-adaptive", "tiny-base-adaptive", "tiny-random", "tiny-forced-direct"} <= set(folders)
    summaries = {f: json.loads((six / f / "summary.json").read_text()) for f in folders}
    for model in ("tiny", "tiny-base"):
        mix, own = summaries[f"{model}-random"], summaries[f"{model}-adaptive"]
        assert mix["policy"].startswith("random:0.") and own["policy"] == "adaptive"
    page = (six / "report.html").read_text("utf-8")  # matplotlib names each text of a figure in a comment
    assert "<!-- full view only where it turns wrong into right -->" in page and "<!-- oracle router -->" not in page
    rows = list(csv.DictReader((six / "report.csv").read_text().splitlines()))
    assert len(rows) == 14
    tuned = next(r for r in rows if r["folder"] == "tiny-adaptive")
    assert float(tuned["comparison.against_mix.mean"]) > 0.05 and float(tuned["comparison.against_mix.low"]) > 0
    assert tuned["comparison.n"] == tuned["n"] == "48"
    assert float(tuned["branches.asked.accuracy_direct"]) < float(tuned["branches.asked.accuracy_request"])
    assert float(tuned["flops_cached"]) < float(tuned["flops"])


def test_json_of_everything(six, tmp_path, capsys):
    visionthink("report", str(six / "tiny-adaptive"), str(six / "tiny-low"), "--out", str(tmp_path / "r.html"), "--json")
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [r["policy"] for r in runs] == ["adaptive", "low"] and runs[0]["comparison"] is None  # always-full was not given


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_in_a_browser(six, tmp_path):
    page = six / "report.html"
    base = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND"]
    dumped = subprocess.run(
        [*base, *offline, "--enable-logging=stderr", "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in dumped.stderr, dumped.stderr
    assert (
        dumped.stdout.count("<svg") - dumped.stdout.count('<svg class="boxes"') == 6
    )  # three frontiers, requests and accuracy by family, time
    for title in (
        "Accuracy against cost",
        "Requests compared with need",
        "Both decisions by force",
        "Cost of an example",
        "requests that paid",
    ):
        assert title in dumped.stdout
    for width in (1300, 390):
        shot = six / f"report-{width}.png"
        size = f"--window-size={width},9000"
        subprocess.run(
            [*base, *offline, size, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=120, check=True
        )
        image = Image.open(shot).convert("RGB")
        drawn = {colour for _, colour in image.getcolors(image.width * image.height)}
        for colour in COLOURS[:2]:  # of both models, in the plots
            assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in drawn


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_retention_stands_beside_accuracy_and_nothing_behind_a_scrollbar(six):
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        for width in (1300, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto((six / "report.html").as_uri(), timeout=120_000)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            row = page.locator("table").first.locator("tbody tr").first
            names = ("accuracy %", "last view %", "every view %")
            boxes = [row.locator(f"[data-column='{name}']").bounding_box() for name in names]
            assert len({round(box["y"]) for box in boxes}) == 1  # one beside the other
            assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        browser.close()
