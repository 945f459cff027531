"""What README and docs tell people to type works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from visionthink import cli, load
from visionthink.data import synth
from visionthink.rewards.spec import read_judge

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORTER = {"train": ["--steps", "2", "--prompts-per-step", "2"], "eval": ["--limit", "12"], "demo": None, "reproduce": None}
"""What a command gets on top here, where it would take minutes; None is only read."""


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks("bash", page) for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.startswith("visionthink ")]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A folder with a photo of three shapes, as a reader would have one."""
    monkeypatch.chdir(tmp_path)
    shapes = (synth.draw("scene", i, hard=False) for i in range(100))
    three = next(e for e in shapes if e.question == "How many shapes are there?" and e.answer == "3")
    three.image.save("photo.png")
    return tmp_path


def test_every_command_works_in_the_order_it_is_told(desk, capsys):
    told = commands()
    assert len(told) >= 7
    for command in told:
        name, *options = shlex.split(command)[1:]
        more = SHORTER.get(name, [])
        if more is None:
            cli._parser().parse_args([name, *options])
        else:
            assert cli.main([name, *options, *([] if "--dry-run" in options else more)]) == 0, (command, capsys.readouterr().err)
    assert (desk / "report.html").is_file()


def test_the_python_example_gives_what_it_says(desk):
    [code] = blocks("python", ROOT / "README.md")
    names: dict = {}
    exec(code, names)
    *_, shown = code.splitlines()
    assert "# '3', (0.25,), {'visual_tokens': 4, 'visual_tokens_full': 16, ...}" in shown
    result = names["result"]
    assert (result.answer, result.levels) == ("3", (0.25,))
    assert (result.usage["visual_tokens"], result.usage["visual_tokens_full"]) == (4, 16)


def test_fine_tuning_as_it_is_told(desk):
    [code] = blocks("python", ROOT / "docs" / "training.md")
    exec(code, {})
    assert load("runs/sft/final", max_new_tokens=8).ask("photo.png", "How many shapes are there?").answer is not None


def test_the_judge_file_is_read(tmp_path, monkeypatch):
    [text] = blocks("toml", ROOT / "docs" / "judges.md")
    (tmp_path / "judge.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    judge = read_judge("judge.toml")
    assert len(judge.judges) == 3 and judge.audit == 0.05
    assert judge.judges[2].endpoint.requests_per_minute == 500 and judge.judges[2].price == (2.5, 10.0)


@pytest.mark.parametrize("text", blocks("yaml", ROOT / "docs" / "training.md"), ids=lambda t: t.split(":")[0].strip("# "))
def test_accelerate_reads_the_launch_files(text, tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    (tmp_path / "launch.yaml").write_text(text)
    assert load_config_from_file(str(tmp_path / "launch.yaml")).num_processes in (8, 32)
