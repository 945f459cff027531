"""Installs each extra alone into an empty environment, at the ends of the versions it allows, and tries what it is for.

python .ci/extras.py [--at highest|lowest] [--wheel FILE] [EXTRA ...]

highest: the newest versions, but torch as constraints.txt has it, since index and machine must offer that build
lowest:  the lower bounds of pyproject.toml: exactly those that the extra names itself, as low as possible those of extras that
         it brings along, and the newest of what all these need

Environments are deleted as soon as they were tried; uv's cache is shared between them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = str(Path(sys.executable).with_name("uv"))
BESIDE = {"lmms": ["lmms-eval==0.7.3"]}
"""What an extra stands beside: it would bring along much that is not needed, so it is installed without its requirements."""
BUILT_WITH_TORCH = "deepspeed"
ENDS = ("highest", "lowest")


def run(*command: str | Path) -> str:
    """What a command prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return subprocess.run([str(part) for part in command], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return ["none", *project["optional-dependencies"]]


def resolve(extra: str, at: str, folder: Path) -> Path:
    """The file of exact versions."""
    target, held = folder / "requirements.txt", folder / "held.txt"
    if at == "lowest":
        held.write_text("".join(f"{name}=={bound}\n" for name, bound in asked(extra).items() if bound))
    else:
        held.write_text(re.findall(r"(?m)^torch==.*$", (ROOT / "constraints.txt").read_text("utf-8"))[0])
    options = ["--no-annotate", "--no-header", "--python", sys.executable, "--constraints", held, "-o", target]
    options += [] if extra == "none" else ["--extra", extra]
    options += ["--resolution", "lowest-direct"] if at == "lowest" else []
    run(UV, "pip", "compile", "pyproject.toml", *options)
    return target


def install(extra: str, at: str, wheel: Path, folder: Path) -> Path:
    """The python of a new environment."""
    run(UV, "venv", "--python", sys.executable, folder / "env")
    python = folder / "env" / "bin" / "python"
    into = [UV, "pip", "install", "--python", python]
    requirements = resolve(extra, at, folder)
    lines = requirements.read_text("utf-8").splitlines()
    later = [line for line in lines if line.startswith(BUILT_WITH_TORCH + "==")]
    requirements.write_text("".join(f"{line}\n" for line in lines if line not in later))
    run(*into, "-r", requirements)
    if later:
        run(*into, "setuptools", "wheel", "ninja", "py-cpuinfo")
        run(*into, "--no-build-isolation", "--no-deps", *later)
    run(*into, "--no-deps", wheel, *BESIDE.get(extra, []))
    return python


def asked(extra: str) -> dict[str, str]:
    """What the extra names itself, with the lower bounds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = project["dependencies"] if extra == "none" else project["optional-dependencies"][extra]
    named = [re.match(r"([\w.-]+)(?:\[.*\])?(?:>=([\d.]+))?", line) for line in lines if not line.startswith("visionthink[")]
    return {match[1]: match[2] or "" for match in named if match}


def versions(extra: str, python: Path) -> str:
    """Of what the extra names itself."""
    code = "import sys; from importlib.metadata import version; print(', '.join(f'{x} {version(x)}' for x in sys.argv[1:]))"
    return run(python, "-c", code, *asked(extra)).strip()


def tried(extra: str, at: str, wheel: Path) -> bool:
    """Writes one line for the extra, and what went wrong below it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        try:
            python = install(extra, at, wheel, Path(name))
            run(python, ROOT / ".ci" / "smoke.py", extra)
            found = versions(extra, python)
        except subprocess.CalledProcessError as error:
            say(f"{extra} {at}: FAILED: {' '.join(error.cmd[:6])}\n{error.stdout[-1000:]}{error.stderr[-3000:]}")
        else:
            say(f"{extra} {at}: passed in {time.monotonic() - began:.0f} s ({found})")
            return True
        return False


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--at", choices=ENDS, help="one end only")
    parser.add_argument("--wheel", type=Path, help="default: one that is built now")
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="default: all")
    options = parser.parse_args()
    if unknown := {*options.extras} - {*extras()}:
        parser.error(f"no extra {unknown.pop()}; choose from {', '.join(extras())}")
    ends = [(extra, at) for extra in options.extras or extras() for at in ([options.at] if options.at else ENDS)]
    with tempfile.TemporaryDirectory() as folder:
        if options.wheel is None:
            run(UV, "build", "--wheel", "--out-dir", folder, ".")
        [wheel] = [options.wheel.resolve()] if options.wheel else Path(folder).glob("*.whl")
        passed = [tried(extra, at, wheel) for extra, at in ends]
    say(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
