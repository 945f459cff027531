"""A fit that is killed (-9) goes on from its last checkpoint, and ends like one that was not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from visionthink.cli import main
from visionthink.compress.learned import describe

STEPS = 120
"""Checkpoints after 50, 100 and 120 updates."""


def start(out: Path, *more: str) -> subprocess.Popen:
    options = ["--steps", str(STEPS), "--limit", "30", "--batch-size", "4", "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "visionthink", "fit", *more, *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # one thread: sums in one order, so that fits can be equal
    )


def finish(out: Path, *more: str) -> str:
    process = start(out, *more)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    return errors.decode()


def kill_after(checkpoint: Path, out: Path, *more: str) -> None:
    """Kill a fit when a checkpoint is whole, a moment later."""
    process = start(out, *more)
    deadline = time.monotonic() + 240
    while not (checkpoint / "trainer_state.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert process.returncode == -signal.SIGKILL, "the kill came after the end"
    assert not (out / "compressor.json").exists()


def digests(out: Path) -> dict[str, str]:
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(out.rglob("*.safetensors"))}


def results(out: Path) -> dict[str, object]:
    """The report without times."""
    return json.loads(json.dumps(describe(out).fit), object_hook=lambda o: {k: v for k, v in o.items() if k != "seconds"})


@pytest.mark.slow
@pytest.mark.parametrize("more", [("mod",), ("lis",), ("fcot", "--objective", "distill")], ids=lambda more: more[0])
def test_killed_in_the_middle_of_both(tmp_path, more):
    """`mod` has an adapter, `lis` anneals a part of its loss by `progress`, and its control has nothing to train."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole, *more)
    checkpoints = killed / ".checkpoints"
    kill_after(checkpoints / "trained" / "checkpoint-50", killed, *more)
    if more != ("lis",):
        kill_after(checkpoints / "control" / "checkpoint-50", killed, *more, "--resume")
    said = finish(killed, *more, "--resume")
    assert digests(killed) == digests(whole) and len(digests(whole)) == (4 if more == ("mod",) else 2)
    assert results(killed) == results(whole) and not checkpoints.exists()
    if more == ("lis",):
        assert "lis, trained: 50 of 120" in said or "lis, trained: 100 of 120" in said
    else:
        assert f"{more[0]}, trained: all 120 were done before" in said


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory) -> Path:
    """A fit that was killed after its first checkpoint."""
    out = tmp_path_factory.mktemp("fit") / "it"
    kill_after(out / ".checkpoints" / "trained" / "checkpoint-50", out, "fcot")
    return out


def again(out: Path, *more: str, method: str = "fcot") -> int:
    return main(["fit", method, "--steps", str(STEPS), "--limit", "30", "--batch-size", "4", "--out", str(out), *more])


@pytest.mark.slow
def test_an_unfinished_fit_is_not_begun_anew_and_goes_on_with_its_settings_alone(unfinished, capsys):
    def refusal(*more: str, method: str = "fcot") -> str:
        assert again(unfinished, *more, method=method) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        return line

    assert refusal() == f"error: --out {unfinished}: holds a fit that was interrupted; give --resume or another folder"
    assert refusal("--resume", "--seed", "1") == f"error: --resume: seed was 0 in {unfinished} and is 1 now"
    assert refusal("--resume", "--keep", "0.5") == f"error: --resume: keep was 0.25 in {unfinished} and is 0.5 now"
    assert refusal("--resume", method="lis") == f"error: --resume: family was 'fcot' in {unfinished} and is 'lis' now"
    assert refusal("--resume", "--limit", "20") == f"error: --resume: limit was 30 in {unfinished} and is 20 now"
    assert (unfinished / ".checkpoints" / "trained" / "checkpoint-50").is_dir()


@pytest.mark.slow
def test_a_table_that_was_changed_is_another(tmp_path, capsys):
    Image.new("RGB", (112, 112), "red").save(tmp_path / "red.png")
    table, out = tmp_path / "rows.jsonl", tmp_path / "it"
    rows = [{"question": "What colour?", "image": "red.png", "answer": "red"}] * 12
    table.write_text("\n".join(map(json.dumps, rows)))
    kill_after(out / ".checkpoints" / "trained" / "checkpoint-50", out, "lis", "--data", str(table))
    table.write_text("\n".join(map(json.dumps, [*rows, rows[0]])))
    assert again(out, "--resume", "--data", str(table), method="lis") == 2
    assert "error: --resume: examples was '12 examples, " in (error := capsys.readouterr().err) and "is '13 examples" in error
    table.write_text("\n".join(map(json.dumps, [*rows[1:], rows[0] | {"answer": "blue"}])))
    assert again(out, "--resume", "--data", str(table), method="lis") == 2
    assert "error: --resume: table was " in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_that_was_being_written_is_not_gone_on_from(unfinished, tmp_path, capsys):
    out = tmp_path / "it"
    shutil.copytree(unfinished, out)
    last = max((out / ".checkpoints" / "trained").iterdir(), key=lambda folder: int(folder.name.rpartition("-")[2]))
    torn = last.with_name("checkpoint-110")
    shutil.copytree(last, torn)
    (torn / "trainer_state.json").write_text((last / "trainer_state.json").read_text()[:40])
    assert again(out, "--resume") == 0
    assert f"fcot, trained: {last.name.rpartition('-')[2]} of 120" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(unfinished, tmp_path, capsys):
    out = tmp_path / "it"
    shutil.copytree(unfinished, out)
    for weights in (out / ".checkpoints" / "trained").rglob("compressor.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    assert again(out, "--resume") == 2
    error = capsys.readouterr().err
    assert f"error: {out}/.checkpoints/trained/checkpoint-" in error and "delete it to go on from an earlier one" in error


def test_there_is_nothing_to_resume(tmp_path, capsys):
    assert again(tmp_path, "--resume") == 2
    assert f"error: --resume: no unfinished fit in {tmp_path}" in capsys.readouterr().err
