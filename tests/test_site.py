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
    built = build(ROOT / "mkdocs.yml", out)
    assert built.returncode == 0, built.stderr
    return out


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Warnings count as errors only where they are printed, so that --quiet would let them pass."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config), "--site-dir", str(out)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True)


def test_a_link_or_an_anchor_that_leads_nowhere_is_an_error(tmp_path):
    """On a site of two pages with the same settings."""
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "hooks.py").write_text("")
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    (tmp_path / "mkdocs.yml").write_text(settings[: settings.index("\nnav:")])
    said = {
        "[x](other.md#nowhere)": "does not contain an anchor '#nowhere'",
        "[x](missing.md)": "a link 'missing.md', but the target is not found",
        "[x](/absolute.md)": "absolute link '/absolute.md'",
    }
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n" + "\n\n".join(said))
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode == 1
    assert [text for text in said.values() if text not in built.stderr] == []


def words(page: Path) -> str:
    """What a reader sees, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page.read_text("utf-8"))).split())


def test_every_page_is_built(site):
    sources = [path for kind in ("*.md", "*.ipynb") for path in (ROOT / "docs").rglob(kind)]
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in sources}
    assert pages | {Path("404.html")} == {path.relative_to(site) for path in site.rglob("*.html")}


def test_the_notebook_is_a_page_with_what_its_cells_print_and_draw(site):
    page = site / "tutorials" / "first-look.html"
    said = words(page)
    assert "A first look in a notebook" in said and "model = visionthink.load(" in said
    assert "Which way do the stripes run? horizontal shown: (0.25, 1.0), 20 visual tokens" in said
    assert page.read_text("utf-8").count('src="data:image/png;base64,') == 2
    assert re.search(r'href="first-steps\.html#1-install"', page.read_text("utf-8"))
    assert 'href="first-look.html"' in (site / "tutorials" / "index.html").read_text("utf-8")


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
    assert "Required: folder for the results; an interrupted run continues there" in page


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
