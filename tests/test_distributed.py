"""Two processes (gloo) do what one does with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from visionthink.policies.checkpoint import open_checkpoint

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "distributed_run.py"


def run(out: Path, processes: int) -> list[list[dict]]:
    out.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([*launch, str(SCRIPT), str(out)], env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads((out / f"rollouts-{i}.json").read_text()) for i in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    return folder, run(folder / "one", 1), run(folder / "two", 2)


def test_same_rollouts_and_rewards(runs):
    _, [one], two = runs
    assert one == [*two[0], *two[1]]
    asked = next(one[i : i + 4] for i in (0, 4) if one[i]["requested"])
    assert [r["requested"] for r in asked] == [True, True, False, False]
    # answers 0 1 after asking, 2 0 directly; the reference is 1 (example 1) or 0 (example 3)
    expected = {"1": [0.5, 1.5, 0.4, 0.4], "3": [1.4, 0.4, 0.5, 1.5]}[asked[0]["example"]]
    assert [r["reward"] for r in asked] == pytest.approx(expected)


def test_a_process_without_a_second_turn_does_not_hang_the_other(runs):
    _, _, two = runs
    assert sorted(any(r["requested"] for r in process) for process in two) == [False, True]


def test_same_update(runs):
    folder, _, _ = runs
    one, two = (torch.load(folder / name / "weights.pt") for name in ("one", "two"))
    start = open_checkpoint("tiny-base").model.state_dict()
    assert max(float((one[k] - start[k]).abs().max()) for k in one) > 1e-4
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-6
