"""What a release consists of agrees with itself: versions, the lock, extras, citations, and what CI runs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import visionthink

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def script(name: str) -> ModuleType:
    """A module of .ci/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


# ------------------------------------------------------------------------------------------------ versions


def test_the_newest_entry_of_the_changelog_is_this_version():
    headings = re.findall(r"(?m)^## \[(.+)\](?: - (\d{4}-\d\d-\d\d))?$", text("CHANGELOG.md"))
    (unreleased, undated), *released = headings
    assert (unreleased, undated) == ("Unreleased", "")
    assert released[0][0] == visionthink.__version__
    assert released == sorted(released, key=lambda entry: Version(entry[0]), reverse=True) and all(date for _, date in released)


def test_the_citation_names_this_version_and_the_papers():
    cff = yaml.safe_load(text("CITATION.cff"))
    [(_, date)] = re.findall(rf"(?m)^## \[({re.escape(visionthink.__version__)})\] - (\S+)$", text("CHANGELOG.md"))
    assert (cff["version"], str(cff["date-released"]), cff["license"]) == (visionthink.__version__, date, PROJECT["license"])
    assert cff["authors"] == [{"name": "The visionthink contributors"}]
    bib = text("CITATION.bib")
    assert f"version = {{{visionthink.__version__}}}" in bib
    papers = [reference["url"].rpartition("/")[2] for reference in cff["references"]]
    assert papers == re.findall(r"arXiv:([\d.]+)", bib) and papers[0] == "2507.13348"
    for reference in cff["references"]:
        assert " and ".join(f"{a['family-names']}, {a['given-names']}" for a in reference["authors"]) in bib


# ------------------------------------------------------------------------------------------------ the lock


def hashes() -> dict[str, list[str]]:
    lock = script("lock")
    return lock.parse(text("requirements.lock")) | lock.parse(text("torch.lock"))


def locked() -> dict[str, Version]:
    found = {}
    for line in hashes():
        requirement = Requirement(line)
        [pinned] = requirement.specifier
        assert pinned.operator == "==", line
        found[canonicalize_name(requirement.name)] = Version(pinned.version)
    return found


def test_every_version_of_the_lock_has_hashes_and_is_that_of_the_constraints():
    pins = [Requirement(line) for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}
    versions = locked()
    assert {name: version for name, version in versions.items() if pinned.get(name) != version} == {}
    assert len(hashes()) == len(versions) > 100
    assert all(found and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in found) for found in hashes().values())


def test_the_lock_allows_several_builds_of_torch():
    [(line, known)] = script("lock").parse(text("torch.lock")).items()
    assert re.fullmatch(r"torch==[\d.]+", line) and len(known) > 1


def closure(extras: set[str]) -> dict[str, list[Requirement]]:
    """What the development environment needs here, by name: what pyproject.toml asks for, and what that asks for in turn."""
    found: dict[str, list[Requirement]] = {}
    asked = [Requirement(line) for line in PROJECT["dependencies"]]
    seen, left = set[str](), set(extras)
    while left:
        seen.add(extra := left.pop())
        for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if requirement.name == "visionthink":
                left |= requirement.extras - seen
            else:
                asked.append(requirement)
    done = set[tuple[str, frozenset[str]]]()
    while asked:
        requirement = asked.pop()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        found.setdefault(name, []).append(requirement)
        if (name, wanted) in done or name == "torch":  # what a build of torch needs is that build's
            continue
        done.add((name, wanted))
        for line in importlib.metadata.distribution(name).requires or []:
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                asked.append(inner)
    return found


def test_the_lock_has_all_that_the_development_environment_asks_for():
    """By the metadata of what is installed, without an index. `make lock` writes the lock anew."""
    versions = locked()
    try:
        needed = closure({"dev"})
    except importlib.metadata.PackageNotFoundError as missing:
        pytest.fail(f"{missing.name} is not installed: run make again")
    assert sorted(needed.keys() - versions.keys()) == []
    wrong = [
        str(r) for name, asked in needed.items() for r in asked if not r.specifier.contains(versions[name], prereleases=True)
    ]
    assert wrong == []


# ------------------------------------------------------------------------------------------------ extras


def test_every_extra_has_a_smoke_test_and_lower_bounds():
    assert list(script("smoke").EXTRAS) == script("extras").extras()
    for extra, lines in {"none": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items():
        for requirement in map(Requirement, lines):
            bounds = [s for s in requirement.specifier if s.operator == ">="]
            assert requirement.name in ("visionthink", "transformers") or len(bounds) == 1, (
                f"{extra}: {requirement} has no lower bound"
            )


def test_what_an_extra_names_itself():
    asked = script("extras").asked("judge")
    assert "visionthink" not in asked and re.fullmatch(r"\d[\d.]*", asked["latex2sympy2_extended"])
    assert asked.keys() >= {"babel", "sympy", "text2num"} and script("extras").asked("local").keys() == {"torch", "transformers"}


# ------------------------------------------------------------------------------------------------ the wheel and CI


def test_the_package_is_typed():
    assert (ROOT / "visionthink" / "py.typed").read_bytes() == b""


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a repository")
def test_the_source_distribution_holds_all_that_the_repository_does():
    """So that its tests pass as well."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    held = tomllib.loads(text("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    by_itself = {"pyproject.toml", ".gitignore"}
    assert {name.partition("/")[0] for name in tracked} == {name.removeprefix("/") for name in held} | by_itself


def test_the_workflow_runs_what_ci_runs_with_pinned_actions_and_reads_alone():
    workflow = yaml.safe_load(text(".github/workflows/ci.yml"))
    assert workflow["permissions"] == {"contents": "read"}
    [job] = workflow["jobs"].values()
    *actions, run = job["steps"]
    assert run["run"] == "bash .ci/run"
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action["uses"]) for action in actions)


def test_ci_says_that_it_does_without_chromium(tmp_path):
    """Where it is not installed and cannot be: `make` and `apt-get` are replaced."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text(text(".ci/run"))
    for name, does in {"make": 'echo "make $*"', "apt-get": "exit 100"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    command = [shutil.which("bash"), tmp_path / ".ci" / "run"]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "make check test test-all\n")
    assert done.stderr == ".ci/run: Chromium is missing and could not be installed: the tests of the playground are skipped\n"


def test_no_file_names_an_index():
    """Which index packages come from is a matter of the machine."""
    for name in "pyproject.toml constraints.txt requirements.lock torch.lock Makefile .ci/run .ci/lock.py .ci/extras.py".split():
        assert not re.search(r"--(extra-)?index-url|https?://", text(name)), name


def test_templates_of_issues_are_read_by_the_platform():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert [path.stem for path in templates] == ["bug", "feature", "wrong_verdict"]
    for path in templates:
        front = yaml.safe_load(path.read_text("utf-8").split("---\n")[1])
        assert front.keys() == {"name", "about", "labels"}, path.name
