"""A curation on Ray whose workers, and then its own process, are killed (-9) at random moments; it is started again each time.

`python tests/ray_kills.py OUT [--kills 10]` with the python of an environment that has Ray; prints what was killed after how many
rows, and fails where the result differs from an uninterrupted run of the local pool. The model is a server that answers after a
moment, always the same to the same request, so that workers start fast and none of them is slow because the machine is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from servers import replying, said

TABLES = ("curated.parquet", "counts.parquet", "rejects.jsonl")
SETTINGS = ["--judge", "exact", "--rollouts", "4", "--difference", "2", "--max-new-tokens", "8"]
ANSWERS = ("yes", "no", "left", "right", "2", "3", "red", "square")
PATIENCE = 600
"""Seconds until something must have been finished."""


def same_again(request: dict[str, Any]) -> tuple[int, Any]:
    """A reply that follows from the request; some are right."""
    time.sleep(0.1)
    drawn = hashlib.sha256(json.dumps(request["messages"]).encode()).digest()[0]
    return 200, said({"content": f"<think>t</think><answer>{ANSWERS[drawn % len(ANSWERS)]}</answer>"})


def command(python: str, model: str, out: Path, limit: int, *more: str) -> list[str]:
    mini = [python, "-m", "visionthink", "curate", "mini", "--model", model, *SETTINGS]
    return [*mini, "--limit", str(limit), "--out", str(out), *more]


def rows(out: Path) -> list[int]:
    """Rows that are written down, in the order of writing."""
    file = out / "counts" / "rows.jsonl"
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line)["row"] for line in lines if line.endswith(b"\n")]


def children(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    found = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]
    return [*found, *(pid for child in found for pid in children(child))]


def actors(driver: int) -> list[int]:
    """The workers that Ray has started for a process on this machine, by the names that it gives them."""
    named = {}
    for pid in children(driver):
        try:
            named[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
    return [pid for pid, name in named.items() if name.startswith(b"ray::") and b"MapBatches(_Actor)" in name]


def until(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "it came to its end before it was killed"
        assert time.monotonic() < end, "nothing was finished"
        time.sleep(0.02)


def killed(python: str, model: str, out: Path, *, kills: int, limit: int, seed: int = 0) -> list[tuple[str, int]]:
    """Kill a worker `kills` times in one run, then the process that asked as often; what was killed, and after how many rows."""
    draw, done = random.Random(seed), list[tuple[str, int]]()

    def start() -> subprocess.Popen:
        ray = command(python, model, out, limit, "--engine", "ray", "--workers", "2")
        return subprocess.Popen(ray, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    process, before = start(), 0
    for _ in range(kills):
        until(lambda: len(rows(out)) > before and actors(process.pid), process)  # noqa: B023
        time.sleep(draw.uniform(0, 0.5))
        before = len(rows(out))
        for pid in draw.sample(actors(process.pid), 1):
            os.kill(pid, signal.SIGKILL)
            done.append(("worker", before))
    for number in range(kills):
        process = process if number == 0 else start()
        until(lambda: len(rows(out)) > before, process)  # noqa: B023
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        process.wait()
        process.stderr.close()
        before = len(rows(out))
        done.append(("driver", before))
    last = start()
    _, told = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0, told.decode()
    return done


def differences(out: Path, whole: Path, limit: int) -> list[str]:
    """What is not as it is in an uninterrupted run: tables, and rows that were counted twice."""
    wrong = [name for name in TABLES if (out / name).read_bytes() != (whole / name).read_bytes()]
    return wrong + ([] if sorted(rows(out)) == list(range(limit)) else ["rows"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    limit = 20 * options.kills
    with replying(same_again) as server:
        subprocess.run(command(sys.executable, server.url, options.out / "whole", limit), check=True, stdout=subprocess.DEVNULL)
        done = killed(sys.executable, server.url, options.out / "killed", kills=options.kills, limit=limit)
    wrong = differences(options.out / "killed", options.out / "whole", limit)
    sys.stdout.write(json.dumps({"rows": limit, "killed": done, "differences": wrong}) + "\n")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
