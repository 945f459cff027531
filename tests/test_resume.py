"""A run that is killed (-9) again and again ends like one that was not. `KILLS=20 pytest tests/test_resume.py`: 20 times."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from visionthink.policies.checkpoint import open_checkpoint

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "3"))
STEPS = 8 * KILLS + 8


BUDGET = ("--budget", "visual=0.5")


def start(out: Path, *more: str) -> subprocess.Popen:
    settings = {"steps": STEPS, "prompts-per-step": 2, "group-size": 4, "save-steps": 2, "learning-rate": 1e-3}
    settings |= {"lr-schedule": "constant"}
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "visionthink", "train", "tiny", "--out", str(out), *options, *more],
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # one thread: sums in one order, so that runs can be equal
    )


def lines(out: Path) -> list[dict]:
    file = out / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []


def resume(out: Path) -> list[str]:
    return ["--resume"] if (out / "config.json").exists() else []


def finish(out: Path, *more: str) -> None:
    process = start(out, *resume(out), *more)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


@pytest.mark.parametrize("more", [(), BUDGET], ids=["", "a budget"])
def test_killed_again_and_again(tmp_path, more):
    """What a line says of a budget is where its price stands."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, *more)
    moment, at = random.Random(0), []
    for _ in range(KILLS):
        process, done = start(killed, *resume(killed), *more), len(lines(killed))
        deadline = time.monotonic() + 60
        while len(lines(killed)) <= done and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(moment.uniform(0, 0.5))  # somewhere in the steps and checkpoints that follow
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        at.append(len(lines(killed)))
    finish(killed, *more)
    assert at[0] < STEPS, "the first kill came after the end"
    timing = ("seconds", "step_time", "rollouts_per_second")

    def told(out: Path) -> list[dict]:
        return [{k: v for k, v in line.items() if k not in timing} for line in lines(out)]

    assert [line["step"] for line in lines(killed)] == list(range(1, STEPS + 1))
    assert told(killed) == told(whole)
    one, other = (open_checkpoint(str(out / "final")).model.state_dict() for out in (whole, killed))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_a_full_disk_is_one_line_and_loses_no_checkpoint(tmp_path):
    """A limit on the size of files stands in for a full disk: the optimizer's state is the largest file of a checkpoint."""
    out = tmp_path / "run"
    first = start(out, "--steps", "2")
    first.communicate(timeout=300)
    assert first.returncode == 0
    before = {p.name: p.stat().st_size for p in (out / "checkpoint-2").iterdir()}
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from visionthink.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--prompts-per-step", "2", "--group-size", "4", "--save-steps", "2", "--learning-rate", "1e-3"]
    options += ["--lr-schedule", "constant"]
    result = subprocess.run(
        [sys.executable, "-c", limited, "train", "tiny", "--out", str(out), "--steps", "4", *options, "--resume"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2, result.stderr
    [error] = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "checkpoint" in error and str(out) in error
    assert {p.name: p.stat().st_size for p in (out / "checkpoint-2").iterdir()} == before
    finish(out)
    assert (out / "final" / "model.safetensors").is_file()
