"""The benchmark of compression runs and counts rightly; its clocks are not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from visionthink.compress.names import NAMES

KEEPS = (0.25, 0.5, 0.7)
BEFORE_DECODER = ("visionzip", "todre", "drop-random", "drop-uniform")


@pytest.fixture(scope="module")
def found():
    script = Path(__file__).parents[1] / "benchmarks" / "compression.py"
    command = [sys.executable, str(script), "--quick", "--json", "--model", "tiny", "--device", "cpu"]
    one = os.environ | {"OMP_NUM_THREADS": "1"}  # two threads wait for each other on a busy machine
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_method_has_a_row_or_a_reason(found):
    lengths = sorted({row["visual_tokens"] for row in found["ours"]})
    assert lengths == [16, 64]
    rows = {(r["visual_tokens"], r["method"], r["keep"]): r for r in found["ours"]}
    assert set(rows) == {(n, name, keep) for n in lengths for name in NAMES for keep in KEEPS}
    for (visual, method, keep), row in rows.items():
        if "reason" in row:
            assert method.startswith("sparsevlm") and f"keep {keep}" in row["reason"]
            continue
        assert 0 < row["retained"] < 1 and 0 < row["cache_ratio"] < 1 and row["cache_bytes"] > 0
        assert 0 <= row["agree"] <= row["readings"] == 2 and row["kl"] >= 0
        assert min(row["prefill_ms"], row["decode_ms"], row["prefill_ratio"], row["decode_ratio"]) > 0
        if method in BEFORE_DECODER:
            assert row["retained"] == round(keep * visual) / visual
        assert found["ratio"][f"tiny {visual}"][f"{method}:{keep:g}"] == row["prefill_ratio"]


def test_peers_are_the_plain_model_and_smaller_images(found):
    plain = [r for r in found["peer"] if r["method"] == "plain"]
    resized = [r for r in found["peer"] if r["method"] == "resize"]
    assert [r["visual_tokens"] for r in plain] == [16, 64] and {r["retained"] for r in plain} == {1.0}
    assert all(r["kl"] == 0 and r["agree"] == r["readings"] and r["cache_ratio"] == 1 for r in plain)
    assert {(r["visual_tokens"], r["keep"]): round(r["retained"] * r["visual_tokens"]) for r in resized} == {
        (16, 0.25): 4,
        (16, 0.5): 9,
        (16, 0.7): 9,
        (64, 0.25): 16,
        (64, 0.5): 36,
        (64, 0.7): 49,
    }


def test_hooks_are_gone_and_what_is_not_measured_is_empty(found):
    assert found["hooks"]["tiny"]["hooks_left"] == 0 and found["bound"]["hooks"] == 1.01
    for state in ("closed", "open"):
        for interval in (found["hooks"]["tiny"][state]["prefill"], found["hooks"]["tiny"][state]["step"]):
            assert 0 < interval["low"] <= interval["median"] <= interval["high"]
    assert found["faster_from"] == {}  # of the wide model alone


def test_break_even_is_that_of_the_formula(found):
    assert [image["visual_tokens"] for image in found["break_even"]] == [256, 1369, 2701]
    for image in found["break_even"]:
        assert image["direct"] < 1 < image["request_cached"] < image["request"]
        assert {row["method"] for row in image["methods"]} == {f"{name}:{keep:g}" for name in NAMES for keep in KEEPS}
        for row in image["methods"]:
            assert image["tower_share"] < row["flops"] < 1
            mixed = image["direct"] + row["rate"] * (image["request"] - image["direct"])
            assert mixed == pytest.approx(row["flops"])
            assert row["cheaper"] == ("below" if row["rate"] > 0 else "never")
