"""Writes requirements.lock: the development environment, every version and the hashes of its files.

python .ci/lock.py

Versions are those of constraints.txt; what it does not name yet is written as the newest, and has to be added there. Of torch an
index has one build and a machine may offer another one (for CPUs alone), of the same version: the hashes of both are kept. CUDA
libraries that a build of torch brings along are left out, since they belong to that build.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
OF_CUDA = ("nvidia-", "cuda-", "triton")
HEAD = """\
# Written by `make lock` from pyproject.toml and constraints.txt: the development environment with the hashes of its files.
# torch has the hashes of several builds; CUDA libraries are installed with the build that needs them.
"""


def resolved() -> dict[str, list[str]]:
    """Hashes by requirement, for every platform. Wheels that this machine offers beside its index are not looked at."""
    clean = {name: value for name, value in os.environ.items() if name not in ("UV_FIND_LINKS", "UV_EXTRA_INDEX_URL")}
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "compile", "pyproject.toml", "--extra", "dev", "--constraints", "constraints.txt", "--universal"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--python-version", "3.11"]
    text = subprocess.run(command, cwd=ROOT, env=clean, check=True, stdout=subprocess.PIPE, text=True).stdout
    return parse(text)


def parse(text: str) -> dict[str, list[str]]:
    """Hashes by requirement, of a file of requirements."""
    lines = [line for line in text.replace("\\\n", "").splitlines() if line and not line.startswith("#")]
    return {line.split(" --hash=")[0].strip(): re.findall(r"--hash=(\S+)", line) for line in lines}


def builds_of_torch(version: str) -> set[str]:
    """Hashes of the build that this machine installs, and of those that the lock knows of the same version."""
    known = parse(LOCK.read_text("utf-8")) if LOCK.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "-d", folder]
        subprocess.run([*pip, version], check=True)
        [file] = Path(folder).iterdir()
        said = subprocess.run([sys.executable, "-m", "pip", "hash", file], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {*known.get(version, []), *re.findall(r"--hash=(\S+)", said)}


def main() -> None:
    found = {name: hashes for name, hashes in resolved().items() if not name.startswith(OF_CUDA)}
    [torch] = [name for name in found if name.startswith("torch==")]
    plain = torch.partition(" ;")[0]
    found = {plain if name == torch else name: hashes for name, hashes in found.items()}
    found[plain] = sorted({*found[plain], *builds_of_torch(plain)})
    lines = [" \\\n    ".join([name, *(f"--hash={each}" for each in hashes)]) for name, hashes in found.items()]
    LOCK.write_text(HEAD + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
