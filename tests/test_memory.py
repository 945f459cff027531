"""What a run needs of memory: by arithmetic before it starts, and measured."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training import small

from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.recipes import recipe
from visionthink.recipes.published import published_sizes
from visionthink.recipes.qwen import ONE_24_GB, ONE_80_GB, ONE_NODE, PAPER
from visionthink.train.config import TrainConfig
from visionthink.train.hardware import Hardware, intended_hardware, this_hardware
from visionthink.train.memory import Estimate, check_memory, estimate
from visionthink.train.run import train
from visionthink.train.sizes import longest, read_sizes

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "training.md"
SEVEN = "Qwen/Qwen2.5-VL-7B-Instruct"
FOUR_NODES = dataclasses.replace(ONE_NODE, processes=32)


def needed(config: TrainConfig, hardware: Hardware) -> Estimate:
    return estimate(config, published_sizes(config.model), hardware)


COLUMNS = {
    "`smart_7b` on 8 GPUs, largest images": (recipe("smart_7b").config, ONE_NODE),
    "the same, images of 960 tokens": (recipe("smart_7b").config.replace(max_image_tokens=960), ONE_NODE),
    "the paper's step on 32, 960 tokens": (PAPER.replace(model=SEVEN, max_image_tokens=960), FOUR_NODES),
    "`smart_7b_lora`": (recipe("smart_7b_lora").config, ONE_80_GB),
    "`smart_3b_lora`": (recipe("smart_3b_lora").config, ONE_24_GB),
}


def table() -> list[str]:
    """The rows of the page, from the estimates."""
    found = {name: needed(*of) for name, of in COLUMNS.items()}
    cells = {name: {p.name: f"{p.bytes / 1e9:.1f}" for p in e.parts if p.bytes >= 5e7} for name, e in found.items()}
    names = list(dict.fromkeys(part.name for e in found.values() for part in e.parts))
    rows = [[name, *(cells[column].get(name, "") for column in COLUMNS)] for name in names]
    rows = [row for row in rows if any(row[1:])]
    for phase, when in (("load", "loading"), ("generate", "generating"), ("join", "joining pixels"), ("update", "updating")):
        rows.append([f"in all while {when}", *(f"{e.total(phase) / 1e9:.1f}" for e in found.values())])
    rows.append(["the machine's own", *(f"{e.host / 1e9:.0f}" for e in found.values())])
    return [f"| {' | '.join(row)} |" for row in (["", *COLUMNS], ["---"] * (len(COLUMNS) + 1), *rows)]


def test_the_table_of_the_page_is_the_estimate():
    assert "\n".join(table()) in PAGE.read_text("utf-8"), "\n" + "\n".join(table())


@pytest.mark.parametrize(
    "model, parameters, adapter",
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656, 80_740_352),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976, 59_867_136),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696, 87_293_952),
        ("Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808, 66_060_288),
    ],
)
def test_parameters_are_counted_without_weights(model, parameters, adapter):
    """The numbers of the released checkpoints."""
    sizes = published_sizes(model)
    assert (sizes.parameters, sizes.adapter(32)) == (parameters, adapter)
    assert published_sizes("someone/else") is None


def test_an_episode_is_as_long_as_the_settings_allow():
    sizes = published_sizes(SEVEN)
    assert longest(recipe("smart_7b").config, sizes) == (1338 + 5350 + 2 * 8192 + 500, 1338 + 5350)
    assert longest(recipe("general_7b").config, sizes) == (5350 + 8192 + 500, 5350)
    assert longest(TrainConfig(menu="deepeyes", penalty="none", max_image_tokens=1000), sizes) == (5000 + 5 * 1024 + 500, 5000)
    assert longest(TrainConfig(max_new_tokens=100_000), sizes) == (128_000, 20_480)


def parts(config: TrainConfig, hardware: Hardware) -> dict[str, float]:
    return {part.name: round(part.bytes / 1e9, 2) for part in needed(config, hardware).parts}


@pytest.mark.parametrize(
    "sharding, weights, gradients, optimizer, reference",
    [
        ("ddp", 33.17, 33.17, 66.34, 33.17),
        ("zero2", 16.58, 4.15, 12.44, 16.58),
        ("zero3", 2.07, 4.15, 12.44, 2.07),
        ("fsdp2", 4.15, 4.15, 8.29, 4.15),
    ],
)
def test_what_is_divided_among_processes(sharding, weights, gradients, optimizer, reference):
    found = parts(recipe("smart_7b").config, dataclasses.replace(ONE_NODE, sharding=sharding))
    assert [found[n] for n in ("weights", "gradients", "optimizer", "reference model")] == [
        weights,
        gradients,
        optimizer,
        reference,
    ]


def test_settings_of_trl_change_what_is_needed():
    config = recipe("smart_7b").config
    usual = parts(config, ONE_NODE)
    assert (usual["vLLM"], usual["optimizer"]) == (24.0, 12.44)
    with_optim = config.replace(trl={"optim": "adamw_bnb_8bit"})
    assert parts(with_optim, ONE_NODE)["optimizer"] == 6.22
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _: object())
        asleep = config.replace(vllm="colocate", trl={"vllm_gpu_memory_utilization": "0.5", "vllm_enable_sleep_mode": "true"})
    found = needed(asleep, dataclasses.replace(ONE_NODE, vllm=False))
    [share] = [part for part in found.parts if part.name == "vLLM"]
    assert (share.bytes, share.phases) == (40e9, ("generate",))


def test_what_cannot_fit_is_refused_with_its_sum():
    hardware = dataclasses.replace(ONE_NODE, sharding="ddp")
    with pytest.raises(OptionError) as error:
        check_memory(needed(recipe("smart_7b").config, hardware))
    assert str(error.value) == (
        "this run cannot fit: it takes 223.0 GB while rollouts are generated (33.2 weights + 33.2 gradients + 66.3 optimizer + "
        "33.2 reference model + 33.2 buckets of gradients + 24.0 vLLM), and there are 80.0 GB on each GPU; "
        "use --launch zero3, more GPUs, or --lora-rank 32"
    )
    check_memory(needed(recipe("smart_7b").config, dataclasses.replace(hardware, offloads=True)))  # where is not known


def test_what_may_not_fit_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        check_memory(needed(recipe("smart_7b").config, ONE_NODE))
    [said] = caplog.messages
    assert said.startswith(
        "may not fit: up to 110.0 GB while their pixels are joined to batches, and there are 80.0 GB on each GPU"
    )
    caplog.clear()
    check_memory(needed(recipe("smart_7b").config.replace(max_image_tokens=960), ONE_NODE))
    check_memory(needed(recipe("smart_7b_lora").config, ONE_80_GB))
    check_memory(needed(recipe("smart_3b_lora").config, ONE_24_GB))
    assert caplog.messages == []


def test_a_run_is_refused_before_its_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("visionthink.policies.memory.free_bytes", lambda _: 10_000_000)
    with pytest.raises(OptionError, match=r"this run cannot fit: it takes 0.0 GB .* there are 0.0 GB of memory for each process"):
        train(small(tmp_path / "run"), synth.suite(8, split="train"))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_what_the_whole_run_takes(tmp_path, capsys):
    assert main(["train", "tiny", "--steps", "1", "--dry-run", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[lines.index("      GB  memory of one process") + 1].endswith("  weights")
    assert [line.split(maxsplit=1)[1] for line in lines if "in all" in line] == [
        "in all while models are loaded",
        "in all while rollouts are generated",
        "in all while their pixels are joined to batches",
        "in all while it learns from them",
    ]
    assert any(line.endswith("generation (128 of 128 rollouts at once)") or "generation (64 of 128" in line for line in lines)


def test_without_a_gpu_a_rehearsal_stands_for_the_recipes_hardware(monkeypatch):
    here = this_hardware()
    if not here.on_cpu:
        pytest.skip("there is a GPU")
    assert (here.processes, here.sharding) == (1, "one")
    assert intended_hardware(ONE_NODE) is ONE_NODE and intended_hardware(None) == this_hardware()
    two = Hardware(processes=2, sharding="zero2", device_bytes=1, on_cpu=True)
    monkeypatch.setattr("visionthink.train.hardware.this_hardware", lambda: two)
    assert intended_hardware(ONE_NODE) == dataclasses.replace(ONE_NODE, processes=2, sharding="zero2", per_machine=2)


def test_sizes_of_a_checkpoint_are_read_without_its_weights():
    sizes = read_sizes(TrainConfig())
    assert (sizes.parameters, sizes.text_tokens) == (2_144_960, 112)
    assert sizes.budget.max_pixels == 12544


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["weights", "activations", "pixels"])
def test_what_is_measured_is_what_was_estimated(shape, tmp_path):
    """On a CPU, in a process of its own, which gives back to the system what it frees."""
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(Path(__file__).with_name("memory_run.py"))]
    for task in ("build", "measure"):
        command = [*script, task, shape, str(tmp_path / "model")]
        done = subprocess.run(command, env=os.environ | given_back, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.9 <= found["estimated"] / found["measured"] <= 1.5, found
