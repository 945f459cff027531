"""The compression engine reaches into transformers' models: tests/test_compress.py again, on older versions that are declared."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import transformers

ROOT = Path(__file__).parents[1]
VERSIONS = (
    "5.13.0",  # the oldest
    "5.16.1",  # the last minor in which Qwen2-VL and Qwen2.5-VL hand their layers a rotary embedding for each of three axes
    "5.20.2",  # and a later one with a single embedding; the newest is the one that all other tests run on
)


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))} | {"HF_HUB_OFFLINE": "1"}


def environment(version: str) -> Path:
    """The python of an environment that sees this one's libraries and, in front of them, that transformers with what it needs in
    other versions. Kept in .cache."""
    env = ROOT / ".cache" / f"transformers-{version}"
    libraries = sysconfig.get_paths()["purelib"]
    made_of = hashlib.sha256(repr((libraries, sys.version, (ROOT / "constraints.txt").read_text("utf-8"))).encode()).hexdigest()
    env.parent.mkdir(exist_ok=True)
    (env.parent / ".gitignore").write_text("*\n")
    with open(env.with_suffix(env.suffix + ".lock"), "w") as held:  # two runs of the tests at once build it once
        fcntl.flock(held, fcntl.LOCK_EX)
        stamp, python = env / "made-of", env / "bin" / "python"
        if not stamp.is_file() or stamp.read_text() != made_of:
            shutil.rmtree(env, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
            [site] = (env / "lib").glob("python*/site-packages")
            (site / "libraries.pth").write_text(libraries + "\n")
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
            install = [*pip, "--no-compile", f"transformers=={version}"]
            done = subprocess.run(install, env=clean(), capture_output=True, text=True)
            if done.returncode and "No matching distribution" in done.stderr:
                pytest.skip(f"no package index: pip install transformers=={version}")
            assert done.returncode == 0, done.stderr
            stamp.write_text(made_of)
    return python


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
    code = "import sys, pytest, transformers; print(transformers.__version__, flush=True); sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-p", "no:cacheprovider", "--basetemp", str(folder / "tests"), "tests/test_compress.py"]
    command = [str(environment(version)), "-c", code, *options]
    return subprocess.run(command, cwd=ROOT, env=clean() | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """All versions at once, with one thread each: most of a run is imports and small tensors."""
    with ThreadPoolExecutor(len(VERSIONS)) as pool:
        yield {version: pool.submit(run, version, tmp_path_factory.mktemp("run")) for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.slow
@pytest.mark.network
def test_compression_passes_on_an_older_version(runs: Any, version: str) -> None:
    done = runs[version].result()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, *_, last = done.stdout.splitlines()
    assert first == version
    assert re.match(r"\d+ passed(, \d+ skipped)?(, \d+ warnings?)? in ", last), last
