"""Work over many workers: everything is done once, errors come through, and whoever dies takes nothing finished along."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pool_work import Squares

from visionthink.cli import main
from visionthink.durable import lines_of_one
from visionthink.errors import DataError, OptionError, StorageError
from visionthink.evals.batches import architecture_of
from visionthink.model import load
from visionthink.pools.pool import Pool
from visionthink.rewards.usage import total


def squares(pool: Pool, work: Squares, count: int) -> dict[int, int]:
    return {f.record["number"]: f.record["square"] for f in pool.results(work, range(count))}


@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_is_done_once(workers):
    found = list(Pool(workers=workers).results(Squares(), range(20)))
    assert sorted(f.record["number"] for f in found) == list(range(20))
    assert len({f.worker for f in found} - {str(os.getpid())}) == (workers if workers > 1 else 0)


def test_more_workers_than_items():
    assert squares(Pool(workers=3), Squares(), 2) == {0: 0, 1: 1} and squares(Pool(workers=2), Squares(), 0) == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_worker_finds_wrong_is_raised(workers):
    with pytest.raises(DataError, match=r"^row 3: cannot be squared$"):
        squares(Pool(workers=workers), Squares(refused=3), 6)


def test_a_worker_that_dies_ends_the_work_and_what_was_finished_is_there():
    found = []
    with pytest.raises(DataError, match=r"^a worker ended with status 7; run the command again to go on$"):
        for finished in Pool(workers=2).results(Squares(fatal=5), range(100)):
            found.append(finished.record["number"])
    assert {0, 1, 2, 3, 4} <= set(found) and 5 not in found


@dataclass(frozen=True)
class Unopened:
    """Work that ends a process which only reads it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_worker_that_dies_before_it_has_read_an_item_ends_the_work():
    with pytest.raises(DataError, match=r"^a worker ended with status 9; run the command again to go on$"):
        list(Pool(workers=2).results(Unopened(), range(100)))


def test_pools_that_cannot_be_are_refused():
    for options, message in (
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"gpus_per_worker": 1.0}, "--gpus-per-worker: is for --engine ray; processes of one machine take its GPUs in turn"),
        ({"ray": True, "gpus_per_worker": 1.5}, "--gpus-per-worker 1.5: must be a share up to 1, or a whole number"),
        ({"ray": True, "gpus_per_worker": -1.0}, "--gpus-per-worker -1: must be a share up to 1, or a whole number"),
        ({"ray": True, "gpus_per_worker": float("nan")}, "--gpus-per-worker nan: must be a share up to 1, or a whole number"),
    ):
        with pytest.raises(OptionError) as error:
            Pool(**options)
        assert str(error.value) == message


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")
@pytest.mark.parametrize("command", [["curate", "mini", "--model", "tiny"], ["eval", "mini"]])
def test_without_ray_one_line_says_what_to_install(command, tmp_path, capsys):
    assert main([*command, "--engine", "ray", "--out", str(tmp_path / "o")]) == 2
    expected = "error: --engine ray: Ray Data is not installed; pip install 'visionthink[ray]'\n"
    assert capsys.readouterr().err == expected and not (tmp_path / "o").exists()


@pytest.mark.parametrize("engine", ["", "sglang", "ray,ray", "vllm,transformers", "ray,vllm,transformers"])
def test_engines_that_do_not_exist_are_refused(engine, tmp_path, capsys):
    assert main(["eval", "mini", "--engine", engine, "--out", str(tmp_path / "o")]) == 2
    assert "--engine" in capsys.readouterr().err


def test_an_address_is_no_folder_to_write_to(capsys):
    assert main(["eval", "mini", "--out", "s3://bucket/runs"]) == 2
    expected = "error: --out s3://bucket/runs: is an address; name a folder, as lines are appended to files in it\n"
    assert capsys.readouterr().err == expected


def test_a_model_without_weights_has_the_same_shape():
    described = load("tiny", device="meta", dtype=torch.float32)
    assert {weight.device.type for weight in described.policy.checkpoint.model.parameters()} == {"meta"}
    assert architecture_of(described) == architecture_of(load("tiny"))


def test_only_a_held_lock_means_that_another_process_works(tmp_path, monkeypatch):
    file = tmp_path / "lines.jsonl"
    with lines_of_one(file, what="run"), pytest.raises(StorageError) as error, lines_of_one(file, what="run"):
        pass
    assert str(error.value) == f"{file}: another process works on this run"
    for number, why in ((errno.ENOLCK, "No locks available"), (errno.EOPNOTSUPP, "Operation not supported")):

        def no_locks(*_, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", no_locks)  # as NFS without its lock daemon answers
        with pytest.raises(StorageError) as error, lines_of_one(file, what="run"):
            pass
        told = f"its file system cannot lock files ({why}); name a folder on another one, or mount it with locks"
        assert str(error.value) == f"{file}: {told}"


def test_what_judging_cost_over_workers():
    one = {"1/seen": 10, "1/passed_on": 0.5, "2/seen": 5, "2/passed_on": 0.0, "2/cost": 0.25}
    two = {"1/seen": 30, "1/passed_on": 0.1, "2/seen": 3, "2/passed_on": 1.0, "2/cost": 0.5}
    assert total([one, two, {}]) == pytest.approx(
        {"1/seen": 40, "1/passed_on": 0.2, "2/seen": 8, "2/passed_on": 0.375, "2/cost": 0.75}
    )
    assert total([{"1/seen": 0, "1/passed_on": 0.0}]) == {"1/seen": 0, "1/passed_on": 0.0}


@pytest.mark.slow
def test_an_evaluation_by_two_processes_is_that_of_one(tmp_path):
    """A policy with one lane for all, and one with many that takes out tokens."""
    command = ["eval", "mini", "--limit", "70", "--model", "tiny", "--max-new-tokens", "8"]
    command += ["--policy", "adaptive,oracle+fastv:0.5", "--out"]
    for name, more in (("one", []), ("two", ["--workers", "2"])):
        assert main([*command, str(tmp_path / name), *more]) == 0
    for folder in ("tiny-adaptive", "tiny-oracle+fastv-0.5"):
        assert_same_run(tmp_path / "one" / folder, tmp_path / "two" / folder)


def assert_same_run(one, two) -> None:
    """Everything but times: transcripts with ids and log-probabilities, verdicts, figures, failures and pictures."""

    def transcripts(folder) -> list[dict]:
        lines = [json.loads(line) for line in (folder / "transcripts.jsonl").read_text().splitlines()]
        for line in lines:
            for turn in line["turns"]:
                del turn["usage"]["seconds"], turn["usage"]["first_token_seconds"]
        return lines

    def figures(found):
        return {k: figures(v) for k, v in found.items() if "seconds" not in k} if isinstance(found, dict) else found

    assert transcripts(one) == transcripts(two)
    assert figures(json.loads((one / "summary.json").read_text())) == figures(json.loads((two / "summary.json").read_text()))
    assert (one / "failed.jsonl").read_bytes() == (two / "failed.jsonl").read_bytes()
    pictures = {file.name: file.read_bytes() for file in (one / "views").glob("*")}
    assert pictures == {file.name: file.read_bytes() for file in (two / "views").glob("*")}


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Killed, and not asked."""
    code = (
        "from visionthink.pools.pool import Pool\nfrom pool_work import Squares\nimport os, signal\n"
        "if __name__ == '__main__':\n"
        "    found = Pool(workers=2).results(Squares(), range(10**9))\n"
        "    workers = set()\n"
        "    while len(workers) < 2: workers.add(next(found).worker)\n"
        "    print(*workers, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "script.py").write_text(code)
    here = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    said = subprocess.run([sys.executable, str(tmp_path / "script.py")], env=here, stdout=subprocess.PIPE, text=True, timeout=120)
    assert said.returncode == -9 and len(said.stdout.split()) == 2
    for pid in map(int, said.stdout.split()):
        end = time.monotonic() + 60
        while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
