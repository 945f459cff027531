"""The engine, compression and attention reach into models of transformers: their tests, on older versions that are declared."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import transformers
from environments import ROOT, clean, install, kept, virtual

VERSIONS = (
    "5.13.0",  # the oldest
    "5.16.1",  # the last minor in which Qwen2-VL and Qwen2.5-VL hand their layers a rotary embedding for each of three axes
    "5.20.2",  # and a later one with a single embedding; the newest is the one that all other tests run on
)


TESTS = [f"tests/test_{name}.py" for name in ("compress", "attention", "engine", "prefix_tree", "local")]


def environment(version: str) -> Path:
    """The python of an environment that sees this one's libraries and, in front of them, that transformers with what it needs in
    other versions."""

    def build(folder: Path) -> None:
        install(virtual(folder), f"transformers=={version}")

    return kept(f"transformers-{version}", (ROOT / "constraints.txt").read_text("utf-8"), build) / "bin" / "python"


def minor(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def test_the_versions_reach_from_the_oldest_declared_to_this_one() -> None:
    [declared] = {
        requirement
        for group in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"].values()
        for requirement in group
        if re.match(r"transformers\b[^\[]", requirement)
    }
    oldest = re.fullmatch(r"transformers>=(\d+\.\d+),<6", declared)
    assert oldest and minor(VERSIONS[0]) == minor(oldest[1])
    minors = [*map(minor, VERSIONS), minor(transformers.__version__)]
    assert minors == sorted(set(minors)) and len(minors) >= 3


def run(version: str, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys, pytest; from importlib.metadata import version; print(version('transformers'), flush=True)"
    code += "; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-p", "no:cacheprovider", "--basetemp", str(folder / "tests"), *TESTS]
    command = [str(environment(version)), "-c", code, *options]
    return subprocess.run(command, cwd=ROOT, env=clean() | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("version", VERSIONS)
def test_what_reaches_in_passes_on_an_older_version(tmp_path: Path, version: str) -> None:
    done = run(version, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, *_, last = done.stdout.splitlines()
    assert first == version
    assert re.match(r"\d+ passed(, \d+ skipped)?(, \d+ warnings?)? in ", last), last
