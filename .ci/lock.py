"""Writes requirements.lock and torch.lock: the development environment, every version and the hashes of its files.

python .ci/lock.py

Versions are those of constraints.txt; what it does not name yet is written as the newest, and has to be added there. Of torch an
index has one build and a machine may offer another one (for CPUs alone), of the same version: the hashes of both are kept, in a
file of its own, since pip would not look at the second one beside the first. CUDA libraries that come with a build of torch are
left out, since they belong to that build.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, TORCH = ROOT / "requirements.lock", ROOT / "torch.lock"
OF_CUDA = ("nvidia-", "cuda-", "triton")
HEAD = "# Written by `make lock` from pyproject.toml and constraints.txt: {}.\n"


def resolved() -> dict[str, list[str]]:
    """Hashes by requirement, for every platform. Wheels that this machine offers beside its index are not looked at."""
    clean = {name: value for name, value in os.environ.items() if name not in ("UV_FIND_LINKS", "UV_EXTRA_INDEX_URL")}
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "compile", "pyproject.toml", "--extra", "dev", "--constraints", "constraints.txt", "--universal"]
    command += [
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
        "--quiet",
        "--python-version",
        "3.11.5",
    ]  # the lowest that mkdocs-material works with
    text = subprocess.run(command, cwd=ROOT, env=clean, check=True, stdout=subprocess.PIPE, text=True).stdout
    return parse(text)


def parse(text: str) -> dict[str, list[str]]:
    """Hashes by requirement, of a file of requirements."""
    lines = [line for line in text.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
    return {line.split(" --hash=")[0].strip(): re.findall(r"--hash=(\S+)", line) for line in lines}


def builds_of_torch(version: str) -> set[str]:
    """Hashes of the build that this machine installs, and of those that the lock knows of the same version."""
    known = parse(TORCH.read_text("utf-8")) if TORCH.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "-d", folder]
        subprocess.run([*pip, version], check=True)
        [file] = Path(folder).iterdir()
        said = subprocess.run([sys.executable, "-m", "pip", "hash", file], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {*known.get(version, []), *re.findall(r"--hash=(\S+)", said)}


def write(file: Path, what: str, found: dict[str, list[str]]) -> None:
    lines = [" \\\n    ".join([name, *(f"--hash={each}" for each in hashes)]) for name, hashes in found.items()]
    file.write_text(HEAD.format(what) + "\n".join(lines) + "\n", "utf-8")


def main() -> None:
    found = {name: hashes for name, hashes in resolved().items() if not name.startswith(OF_CUDA)}
    [torch] = [name for name in found if name.startswith("torch==")]
    version, hashes = torch.partition(" ;")[0], found.pop(torch)
    write(LOCK, "the development environment but for torch", found)
    write(TORCH, "builds of torch that are known", {version: sorted({*hashes, *builds_of_torch(version)})})


if __name__ == "__main__":
    main()
