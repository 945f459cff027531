"""The benchmark of answering runs, and both ways say the same; its clocks are not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "ask.py"


def test_the_operations_of_a_question_that_asks():
    """3 questions about 672 x 672 px, of which one asks: 144 visual tokens, and 576. That both ways say the same is checked by
    the script."""
    command = [sys.executable, str(SCRIPT), "--quick", "--json", "--shape", "wide"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kinds = [f"wide, batch {batch}, {kind}" for batch in (1, 10) for kind in ("full", "adaptive")]
    assert [row["name"] for row in found["rows"]] == list(found["ratio"]) == kinds
    # nothing can be reused at full resolution; what is asked for is read behind what is known
    assert found["bound"] == dict(zip(kinds, [1.0, 1.18, 1.0, 1.18], strict=True))
    assert [row["of_full_bound"] for row in found["rows"]] == [1.0, 0.58, 1.0, 0.58]
    assert [row["asked"] for row in found["rows"]] == pytest.approx([0, 1 / 3, 0, 1 / 3])
    assert {row["name"]: row["bound"] for row in found["prefill"]} == {"wide, stock": 1.18, "wide, ours": 0.93}
    clocks = [clock for row in (*found["rows"], *found["prefill"]) for clock in row["cpu_seconds"].values()]
    assert all(0 < clock["min"] <= clock["median"] <= clock["max"] for clock in clocks)
