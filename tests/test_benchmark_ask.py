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
    found = json.loads(done.stdout)["wide"]
    assert [(row["batch"], row["kind"], row["asked"]) for row in found["answered"]] == [
        (1, "full", 0.0),
        (1, "adaptive", pytest.approx(1 / 3)),
        (10, "full", 0.0),
        (10, "adaptive", pytest.approx(1 / 3)),
    ]
    full, adaptive = found["answered"][:2]
    # nothing can be reused at full resolution; what is asked for is read behind what is known
    assert full["ratio_of_operations"] == 1 and adaptive["ratio_of_operations"] == pytest.approx(1.18, abs=0.005)
    assert adaptive["of_full_operations"] == pytest.approx(0.58, abs=0.005)
    shares = {row["way"]: row["share_of_operations"] for row in found["prefilled"]}
    assert shares == {"stock": pytest.approx(1.18, abs=0.005), "ours": pytest.approx(0.93, abs=0.005)}
    clocks = [row[name] for row in found["answered"] for name in ("stock_ms", "ours_ms")]
    assert all(0 < clock["least"] <= clock["median"] <= clock["most"] for clock in clocks)
