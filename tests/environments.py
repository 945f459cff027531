"""Environments that tests install things into: kept in .cache, and built again only when what they are made of changes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.metadata.spec import construct_metadata_file_2_4
from hatchling.plugin.manager import PluginManager
from packaging.requirements import Requirement

import visionthink

ROOT = Path(__file__).parents[1]
LIBRARIES = sysconfig.get_paths()["purelib"]


def clean() -> dict[str, str]:
    """The environment variables without those of this interpreter and of pytest."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))} | {"HF_HUB_OFFLINE": "1"}


def kept(name: str, made_of: object, build: Callable[[Path], None]) -> Path:
    """The folder of that name in .cache, filled by `build` where it is missing or made of something else."""
    folder = ROOT / ".cache" / name
    digest = hashlib.sha256(repr((LIBRARIES, sys.version, made_of)).encode()).hexdigest()
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / ".gitignore").write_text("*\n")
    with open(folder.parent / f"{name}.lock", "w") as held:  # two processes of the tests at once build it once
        fcntl.flock(held, fcntl.LOCK_EX)
        stamp = folder / "made-of"
        if not stamp.is_file() or stamp.read_text() != digest:
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            stamp.write_text(digest)
    return folder


def virtual(folder: Path) -> Path:
    """Makes a virtual environment that sees this one's libraries behind its own; its python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [site] = (folder / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(LIBRARIES + "\n")
    return folder / "bin" / "python"


def deepspeed_python() -> Path:
    """An interpreter that has DeepSpeed. It is built from source, and needs torch for that, which the environment sees."""
    constraints = ROOT / "constraints.txt"

    def build(folder: Path) -> None:
        install(virtual(folder), "--no-build-isolation", "-c", str(constraints), "deepspeed")

    return kept("deepspeed", constraints.read_text("utf-8"), build) / "bin" / "python"


def traced_python() -> Path:
    """An interpreter that has the extra `otel`."""
    constraints = ROOT / "constraints.txt"
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["otel"]
    wanted = [line for line in asked if not line.startswith("visionthink[")]  # the gateway is here

    def build(folder: Path) -> None:
        install(virtual(folder), "-c", str(constraints), *wanted)

    return kept("otel", (constraints.read_text("utf-8"), wanted), build) / "bin" / "python"


def fuzzing_python() -> Path:
    """An interpreter that has schemathesis."""
    wanted = "schemathesis==4.32.5"
    return kept("schemathesis", wanted, lambda folder: install(virtual(folder), wanted)) / "bin" / "python"


def only(folder: Path, extras: str = "") -> Path:
    """Makes a virtual environment with this checkout and what it needs with some extras, separated by commas, and nothing else;
    its python. Libraries are links to those of this environment, so that nothing is installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [site] = (folder / "lib").glob("python*/site-packages")
    described = construct_metadata_file_2_4(ProjectMetadata(str(ROOT), PluginManager()))
    (site / f"visionthink-{visionthink.__version__}.dist-info").mkdir()
    (site / f"visionthink-{visionthink.__version__}.dist-info" / "METADATA").write_text(described)
    (site / "checkout.pth").write_text(f"{ROOT}\n")
    declared = [line.removeprefix("Requires-Dist: ") for line in described.splitlines() if line.startswith("Requires-Dist: ")]
    open_ends, seen = [("visionthink", frozenset(extras.split(",")))], set()
    while open_ends:
        name, wanted = open_ends.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        lines = declared if name == "visionthink" else metadata.requires(name) or ()
        for line in map(Requirement, lines):
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                with contextlib.suppress(metadata.PackageNotFoundError):  # of another platform
                    if line.name != "visionthink":
                        metadata.version(line.name)
                    open_ends.append((line.name, frozenset(line.extras or {""})))
    for name in {name for name, _ in seen} - {"visionthink"}:
        distribution = metadata.distribution(name)
        for part in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            place = site / part
            if not place.exists():
                place.symlink_to(Path(str(distribution.locate_file(part))))
    return folder / "bin" / "python"


def install(python: Path | None, *what: str) -> None:
    """Installs with this environment's pip; skips the test where there is no package index."""
    where = ["--python", str(python)] if python else []
    pip = [sys.executable, "-m", "pip", *where, "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    done = subprocess.run([*pip, *what], env=clean(), capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip(f"no package index: pip install {' '.join(what)}")
    assert done.returncode == 0, done.stderr
