"""What README and docs tell people to type works as it stands there."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import datasets
import pytest
import torch
import transformers

from visionthink import cli, load
from visionthink.compress.selection import VisionContext
from visionthink.data import synth
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.rewards.spec import read_judge

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {"README.md": ROOT / "README.md"} | {str(page.relative_to(DOCS)): page for page in sorted(DOCS.rglob("*.md"))}
SHORTER = {
    "train": ["--steps", "2", "--prompts-per-step", "2"],
    "sft": ["--steps", "2"],
    "fit": ["--limit", "60"],
    "eval": ["--limit", "12"],
}
"""What a command gets on top here, where it would take minutes."""
TOO_LARGE = ["doctor", "--model", "Qwen/Qwen2.5-VL-7B-Instruct"]
"""A command that may end with status 1: it says so if the model is larger than this machine."""
UPSTREAM = "http://gpu:8000/v1#qwen"
"""A server as pages name it. A server of the tiny model takes its place."""
LONG = {"demo": "trains for minutes", "reproduce": "trains for an hour"}
"""Commands that are only parsed, except `demo --quick`; tests/test_claims.py reproduces in small."""
NOT_RUN = re.compile(r"<!-- not run: (\S+ \S.*) -->")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page, and why it is not run; `<!-- not run: REASON -->` stands right above such a block."""

    language: str
    text: str
    not_run: str | None

    def commands(self) -> list[list[str]]:
        """Words of its lines, without remarks. A # within a word, as in http://host/v1#MODEL, begins none."""
        lines = re.sub(r"(?m)(^|\s)#.*$", "", self.text.replace("\\\n", " ")).splitlines()
        return [words for words in map(shlex.split, lines) if words]


def blocks_of(text: str) -> list[Block]:
    lines, found, i = text.splitlines(), [], 0
    while i < len(lines):
        if lines[i].startswith("```"):
            end = next(j for j in range(i + 1, len(lines)) if lines[j].startswith("```"))
            reason = NOT_RUN.fullmatch(lines[i - 1]) if i else None
            found.append(Block(lines[i][3:], "\n".join(lines[i + 1 : end]) + "\n", reason and reason[1]))
            i = end
        i += 1
    return found


def blocks(language: str, page: Path) -> list[str]:
    return [block.text for block in blocks_of(page.read_text("utf-8")) if block.language == language]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with what a reader has: a drawing of three shapes, and two tables."""
    monkeypatch.chdir(tmp_path)
    shapes = (synth.draw("scene", i, hard=False) for i in range(100))
    three = next(e for e in shapes if e.question == "How many shapes are there?" and e.answer == "3")
    three.image.save("shapes.png")
    drawing = {"bytes": Path("shapes.png").read_bytes(), "path": None}
    row = {"type": "human_test", "question": "How many shapes are there?", "answer": "3", "image": drawing}
    columns = {name: datasets.Value("string") for name in ("type", "question", "answer")} | {"image": datasets.Image()}
    datasets.Dataset.from_list([row], features=datasets.Features(columns)).to_parquet("chartqa-test.parquet")
    Path("rows.csv").write_text("q,image,label\nHow many shapes are there?,shapes.png,3\n")
    return tmp_path


def test_blocks_are_found_with_their_reasons():
    text = (
        "a\n\n```sh\nx a#b  # y\n```\n<!-- not run: needs a GPU -->\n```python\nz\n```\n\n"
        "<!-- not run: here too -->\n\n```sh\n```\n"
    )
    first, *others = blocks_of(text)
    assert first == Block("sh", "x a#b  # y\n", None) and first.commands() == [["x", "a#b"]]
    assert others == [Block("python", "z\n", "needs a GPU"), Block("sh", "\n", None)]


@pytest.mark.parametrize("name", PAGES)
def test_blocks_can_be_read(name):
    """Python compiles, options of `visionthink` exist, targets of `make` exist; whatever is not run says why."""
    text = PAGES[name].read_text("utf-8")
    found = blocks_of(text)
    others = {"shell", "console", "zsh", "py", "python3", "pycon"}
    assert not {block.language for block in found} & others, "write sh, bash or python, so that the block is run"
    assert text.count("<!-- not run") == sum(block.not_run is not None for block in found), "a remark without reason or block"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for block in found:
        if block.language == "python":
            compile(block.text, name, "exec")
        for program, *options in block.commands() if block.language in ("sh", "bash") else ():
            if program == "visionthink":
                cli._parser().parse_args(options)
            elif program == "make":
                assert set(options) <= set(targets)
            else:
                assert block.not_run, f"{name}: {program} is neither visionthink nor make, and no remark says why it is not run"


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Of a parser and of its commands."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found |= {option for command in action.choices.values() for option in options_of(command)}
    return found


def test_every_option_on_the_page_about_scale_exists():
    """In sentences and tables too; `accelerate launch` has options of its own, which have underscores."""
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", PAGES["how-to/scale.md"].read_text("utf-8")))
    others = {name for name in named if "_" in name}
    assert others == {"--config_file", "--machine_rank"}
    assert {"--engine", "--workers", "--gpus-per-worker", "--judge"} <= named
    assert named - others - options_of(cli._parser()) == set()


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> list[str]:
    """What links to the headings of a page end in, as GitHub and others make it."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_one_place(name):
    """A heading that stands twice on a page has one anchor for both, so that links lead to the first."""
    page = PAGES[name]
    assert [anchor for anchor in anchors(page) if anchors(page).count(anchor) > 1] == []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert link.startswith("https://") or (target.exists() and (not anchor or anchor in anchors(target))), link


@contextmanager
def served(options: list[str]) -> Iterator[int]:
    """`visionthink serve` in a process of its own, on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "visionthink", *options, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 300
            while True:
                assert server.poll() is None and time.monotonic() < deadline, f"does not serve: {options}"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield port
        finally:
            server.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_blocks_run_in_the_order_of_their_page(name, desk, capsys):
    """A server runs until the page ends; clients of port 8000 find the last one that was started."""
    names: dict = {"__name__": "page"}
    port = 8000
    if name == "how-to/serving.md":  # the page serves what another one trains
        shutil.copytree(open_checkpoint("tiny").path, "runs/rl/final")
    with ExitStack() as servers:
        for block in blocks_of(PAGES[name].read_text("utf-8")):
            if block.not_run or block.language not in ("sh", "bash", "python"):
                continue
            if block.language == "python":
                code = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
                exec(compile(code, name, "exec", dont_inherit=True), names)
                continue
            if UPSTREAM in block.text:
                upstream = f"http://127.0.0.1:{servers.enter_context(served(['serve']))}/v1#tiny"
                block = dataclasses.replace(block, text=block.text.replace(UPSTREAM, upstream))
            for program, *options in block.commands():
                if program != "visionthink" or (options[0] in LONG and "--quick" not in options):
                    continue
                if options[0] == "serve":
                    port = servers.enter_context(served(options))
                else:
                    more = [] if "--dry-run" in options else SHORTER.get(options[0], [])
                    try:
                        status = cli.main([*options, *more])
                    except SystemExit as end:
                        status = end.code
                    assert status == 0 or (options == TOO_LARGE and status == 1), (options, status, capsys.readouterr().err)
    printed = capsys.readouterr().out
    if name == "tutorials/first-steps.md":
        assert [line for line in printed.splitlines() if line in ("3", "horizontal")] == ["3", "horizontal", "3"]
    if name == "explanation/real-models.md":
        table = "".join(line for line in printed.splitlines(keepends=True) if line.startswith("|"))
        assert table.startswith("| model |") and f"\n{table}\n" in PAGES[name].read_text("utf-8")
    if name == "README.md":
        lines = printed.splitlines()
        assert [line for line in lines if line == "3" or "(0.25,)" in line] == [
            "3 (0.25,)",
            "[('3', (0.25,)), ('horizontal', (0.25, 1.0))]",
            "3",
        ]
        assert (desk / "runs" / "first" / "report.html").is_file()
    if name == "how-to/commands.md":
        assert (desk / "report.html").is_file() and (desk / "runs" / "policies" / "report.html").is_file()
    if name == "how-to/training.md":
        sft = desk / "runs" / "sft"
        losses = [json.loads(line)["loss"] for line in (sft / "metrics.jsonl").read_text().splitlines()]
        assert len(losses) == 20
        assert load(str(sft / "final"), max_new_tokens=8).ask("shapes.png", "How many shapes are there?").answer == "3"
    if name == "how-to/compression.md":
        assert names["session"].report() == {"visual_tokens": 16, "retained": pytest.approx(5 / 6), "retained_last": 0.5}
        assert names["loss"].isfinite() and kept_by(names["FirstHalf"]) == [0, 1]


def kept_by(method) -> list[int]:
    return method(keep=0.5).vision(VisionContext(features=torch.zeros(4, 2), images=(4,), layers=3)).keep.tolist()


def test_the_first_answers_are_those_that_the_page_says(desk, capsys):
    """Without the images of the desk, since the example makes its own."""
    Path("shapes.png").unlink()
    page = PAGES["README.md"]
    exec(blocks("python", page)[0], {})
    first, many = capsys.readouterr().out.splitlines()
    assert (first, many) == ("3 (0.25,)", "[('3', (0.25,)), ('horizontal', (0.25, 1.0))]")
    assert f"# {first}\n" in page.read_text("utf-8") and f"`{many}`" in page.read_text("utf-8")


@pytest.mark.slow
def test_type_checkers_see_what_the_first_answers_are_made_of(tmp_path):
    """The example passes `mypy --strict`, and a misspelled option of `load` does not."""
    (tmp_path / "first.py").write_text(blocks("python", PAGES["README.md"])[0] + 'visionthink.load("tiny", divice="cpu")\n')
    options = ["--strict", "--config-file=", "--cache-dir", str(tmp_path), str(tmp_path / "first.py")]
    said = subprocess.run([sys.executable, "-m", "mypy", *options], cwd=ROOT, capture_output=True, text=True).stdout
    found = [line.partition("error: ")[2] for line in said.splitlines() if "error: " in line and "first.py" in line]
    assert found == ['Unexpected keyword argument "divice" for "load"; did you mean "device"?  [call-arg]'], said


def test_the_compression_example_needs_no_torchvision(desk, monkeypatch):
    """As it stands there, to its end; and with a processor of one's own, where transformers' refuses to be made."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    names: dict = {}
    exec(blocks("python", PAGES["how-to/compression.md"])[0], names)
    checkpoint, inputs = names["checkpoint"], names["inputs"]
    assert names["session"].report() == {"visual_tokens": 16, "retained": pytest.approx(5 / 6), "retained_last": 0.5}
    assert set(inputs) == {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"}
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]] and inputs["mm_token_type_ids"].sum() == 16
    with pytest.raises(ImportError, match="orchvision"):
        transformers.AutoProcessor.from_pretrained(checkpoint.path)


def test_the_judge_file_is_read(tmp_path, monkeypatch):
    [text] = blocks("toml", PAGES["reference/judges.md"])
    (tmp_path / "judge.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    judge = read_judge("judge.toml")
    assert len(judge.judges) == 3 and judge.audit == 0.05
    assert judge.judges[2].endpoint.requests_per_minute == 500 and judge.judges[2].price == (2.5, 10.0)
