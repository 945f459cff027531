"""The benchmarks of a training step run, do the same work in every way, and count rightly; their clocks are not looked at."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from visionthink.engine.tree import PrefixTree
from visionthink.evals.flops import DecoderShape, decoder_flops

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHAPE = DecoderShape(layers=2, hidden=8, ffn=16, heads=2, kv_heads=1, head_size=4, vocabulary=10)


def found(script: str, out: Path) -> dict:
    command = [sys.executable, str(BENCHMARKS / script), "--quick", "--json", "--out", str(out)]
    one = os.environ | {"OMP_NUM_THREADS": "1"}  # two threads wait for each other on a busy machine
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=one)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("script, ways, bound", [("grpo_step", 3, 3.13), ("rollout", 2, 2.92)])
def test_a_small_row(tmp_path, script, ways, bound):
    """4 members read a prompt of 60 tokens, of which 12 are visual; 2 ask for 48 more in the same words. That the ways did the
    same work is checked by the script."""
    record = found(f"{script}.py", tmp_path)
    [row] = record["rows"]
    name = "wide 60, G 4, half ask, same words"
    assert row["name"] == name and record["bound"] == {name: bound} and row["n"] == 1
    assert len(row["cpu_seconds"]) == len(row["wall_seconds"]) == ways
    assert all(0 < each["min"] <= each["median"] <= each["max"] for each in row["cpu_seconds"].values())
    assert record["ratio"][name] > 0 and record["ours"][name] > 0 and record["peer"][name] > 0
    assert json.loads((tmp_path / f"{script}.json").read_text()) == record
    table = (tmp_path / f"{script}.md").read_text()
    assert f"| {name} | " in table and f" | {bound:.1f} | 1 |" in table
    assert (tmp_path / f"{script}.svg").read_text().lstrip().startswith("<svg")


@pytest.fixture
def bound(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("step_bound")


def test_what_has_not_been_read_is_counted(bound):
    rows = [np.array([1, 2, 3]), np.array([1, 2, 4, 5]), np.array([1, 2, 3])]
    assert bound.depths(PrefixTree.of(rows)).tolist() == [1, 2, 3, 3, 4]
    # five tokens see 1 + 2 + 3 + 3 + 4 keys, behind two prompts
    assert bound.unknown(rows, []) == (5, 13, 2)
    # the last token of a known prompt is read again, one that was said is not
    assert bound.unknown([np.array([1, 2, 3, 6])], rows) == (1, 4, 1)
    assert bound.unknown(rows[:1], rows) == (1, 3, 1)


def test_operations_of_the_decoder_are_those_of_the_package(bound):
    assert bound.decoder(SHAPE, 5, 25, 3) == decoder_flops(SHAPE, 5, logits=3)
    assert bound.decoder(SHAPE, 2, 2 * 7, 0) == decoder_flops(SHAPE, 2, past=5, logits=0)
    assert (bound.pairs(4, True), bound.pairs(4, False)) == (16, 10)
