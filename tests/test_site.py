"""The documentation is built as a site, from the pages, the docstrings and the parsers; warnings are errors."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import visionthink
from visionthink import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")
    return out


def words(page: Path) -> str:
    """What a reader sees, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page.read_text("utf-8"))).split())


def test_every_page_is_built(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert pages | {Path("404.html")} == {path.relative_to(site) for path in site.rglob("*.html")}


def test_pages_load_nothing_from_elsewhere(site):
    """Links lead out, and nothing else does: fonts, scripts and pictures are files of the site."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert re.findall(r"<(?:link|script|img|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", text) == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//[^)]*", style.read_text("utf-8")) == [], style


def test_the_page_about_the_command_line_has_every_command_and_option(site):
    page = words(site / "reference" / "cli.html")
    [commands] = [a for a in cli._parser()._actions if a.dest == "command"]
    assert {"ask", "eval", "train", "serve"} <= set(commands.choices)
    for name, command in commands.choices.items():
        assert f'<h2 id="{name}">' in (site / "reference" / "cli.html").read_text("utf-8")
        assert command.description in page
        for action in command._actions:
            assert {option for option in action.option_strings if option not in page} <= {"-h", "--help", "--debug"}
    assert "Required: folder for checkpoints, metrics.jsonl and the final model" in page


def test_the_pages_about_python_have_the_whole_public_interface(site):
    """Each name of `visionthink.__all__`, at the place that it comes from."""
    anchors = {
        a for page in (site / "reference" / "api").glob("*.html") for a in re.findall(r'id="([\w.]+)"', page.read_text("utf-8"))
    }
    expected = {f"visionthink.{visionthink._HOMES[name]}.{name}" for name in visionthink.__all__}
    assert expected - anchors == set()
    assert "image: ImageSource | Sequence [ ImageSource ]".replace(" ", "") in words(site / "reference/api/index.html").replace(
        " ", ""
    )
