"""Curation and evaluation on Ray: what two actors give is what the local pool gives, whoever is killed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from environments import ROOT, install, kept, virtual
from ray_kills import TABLES, command, differences, killed, rows, same_again
from servers import replying
from test_pools import assert_same_run

from visionthink.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.network]

WANTED = "ray[data]==2.60.0"
KILLS = int(os.environ.get("KILLS", 1))
TEXT_AND_IMAGE = ["--rollouts", "4", "--difference", "2", "--max-new-tokens", "8", "--model", "tiny-base", "--judge", "exact"]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """An environment with Ray, behind which stand this one's libraries and this repository."""
    home = kept("ray", WANTED, lambda folder: install(virtual(folder), WANTED))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # by default workers step back behind whatever else runs here
        patch.setenv("RAY_raylet_start_wait_time_s", "300")  # a busy machine is slow, and not broken
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
        yield str(home / "bin" / "python")


def run(python: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([python, "-m", "visionthink", *arguments], cwd=cwd, capture_output=True, text=True, timeout=600)


def test_curated_labels_are_those_of_the_local_pool(python, tmp_path):
    """Of a table at an address, whose images are in it."""
    settings = [*TEXT_AND_IMAGE, "--limit", "12", "--out"]
    assert main(["curate", "mini", *settings, str(tmp_path / "mini")]) == 0
    table = tmp_path / "mini" / "curated.parquet"
    assert main(["curate", str(table), *settings, str(tmp_path / "local")]) == 0
    ray = ["--engine", "ray", "--workers", "2"]
    done = run(python, "curate", f"file://{table}", *settings, "ray", *ray, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in TABLES:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name


def test_an_evaluation_is_that_of_one_process(python, tmp_path):
    """Two batches of 64 and one of 2, whose members are the same whoever runs them."""
    settings = ["eval", "mini", "--limit", "130", "--max-new-tokens", "8", "--out"]
    assert main([*settings, str(tmp_path / "local")]) == 0
    done = run(python, *settings, str(tmp_path / "ray"), "--engine", "ray", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "local", tmp_path / "ray")
    done = run(python, *settings, str(tmp_path / "ray"), cwd=tmp_path)
    assert done.returncode == 0, "a folder of Ray's goes on without it"


def test_killed_at_any_moment_the_result_is_the_same(python, tmp_path):
    """Workers, and then the process that asked: KILLS=10 for the whole measurement."""
    limit = 20 * KILLS
    with replying(same_again) as server:
        whole = command(python, server.url, tmp_path / "whole", limit, "--workers", "2")
        assert subprocess.run(whole, capture_output=True).returncode == 0
        done = killed(python, server.url, tmp_path / "killed", kills=KILLS, limit=limit)
    assert [who for who, _ in done] == ["worker"] * KILLS + ["driver"] * KILLS
    assert differences(tmp_path / "killed", tmp_path / "whole", limit) == []
    assert len(rows(tmp_path / "killed")) == limit


SCRIPT = """
import sys
from pool_work import Squares
from visionthink.errors import VisionThinkError
from visionthink.pools.pool import Pool
found = []
try:
    for finished in Pool(ray=True, workers=2).results(Squares({work}), range(8)):
        found.append(finished.record["number"])
except VisionThinkError as error:
    print("error:", error)
print("found:", sorted(found))
"""


@pytest.mark.parametrize(
    ("work", "message"),
    [("refused=3", "row 3: cannot be squared"), ("fatal=3", "--engine ray: a worker failed; run the command again to go on: ")],
)
def test_an_item_that_cannot_be_done_ends_the_work(python, tmp_path, work, message):
    """Also one that ends its worker each time: it is not tried for ever."""
    script = SCRIPT.format(work=work)
    done = subprocess.run([python, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines() if line.startswith(("error: ", "found: ")))
    assert told["error"].startswith(message) and 3 not in json.loads(told["found"])


def test_a_cluster_that_is_not_there_is_named(python, tmp_path):
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:9"}
    command = [python, "-m", "visionthink", "curate", "mini", *TEXT_AND_IMAGE, "--engine", "ray", "--out", str(tmp_path / "o")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: RAY_ADDRESS 127.0.0.1:9: no cluster is there")
