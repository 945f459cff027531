"""Supervised fine-tuning on two processes ends as on one, however the weights are spread over them, and `final/` is whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from environments import deepspeed_python
from launching import fsdp, on_processes

from visionthink.policies.checkpoint import open_checkpoint

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "sft_run.py"
FULL, ADAPTER = {"micro_batch": 2}, {"lora_rank": 4, "micro_batch": 1, "gradient_checkpointing": True}
FSDP2 = fsdp("FULL_STATE_DICT")
ZERO3 = {
    "zero_optimization": {
        "stage": 3,
        "stage3_gather_16bit_weights_on_model_save": True,
        "stage3_param_persistence_threshold": 0,  # otherwise a model this small is not split at all
    },
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


def launch(python: str, out: Path, runs: dict[str, dict], processes: int, launched: dict[str, str]) -> None:
    """`launched` is what `accelerate launch` puts into the environment."""
    result = on_processes(processes, SCRIPT, out, json.dumps(runs), python=python, environment=launched)
    assert result.returncode == 0, result.stderr[-6000:]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """One process, all of an update in one pass."""
    out = tmp_path_factory.mktemp("one")
    launch(sys.executable, out, {"full": {}, "adapter": {"lora_rank": 4}}, 1, {})
    return out


def check(one: Path, two: Path) -> None:
    start = open_checkpoint("tiny-base").model.state_dict()
    for run in ("full", "adapter"):
        expected, found = (open_checkpoint(str(out / run / "final")).model.state_dict() for out in (one, two))
        assert max(float((expected[k] - start[k]).abs().max()) for k in start) > 1e-3
        assert max(float((expected[k] - found[k]).abs().max()) for k in start) < 1e-6
    assert (two / "adapter" / "final" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("launched", [pytest.param({}, id="ddp"), pytest.param(FSDP2, id="fsdp2")])
def test_two_processes_end_as_one(one, tmp_path, launched):
    launch(sys.executable, tmp_path, {"full": FULL, "adapter": ADAPTER}, 2, launched)
    check(one, tmp_path)


@pytest.fixture(scope="module")
def deepspeed() -> str:
    return str(deepspeed_python())


def zero3(tmp_path: Path, **changes: object) -> dict[str, str]:
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps(ZERO3 | {"zero_optimization": ZERO3["zero_optimization"] | changes}))
    return {"DS_ACCELERATOR": "cpu", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}


@pytest.mark.network
def test_zero_3_ends_as_one_process(one, tmp_path, deepspeed):
    for name, settings in {"full": FULL, "adapter": ADAPTER}.items():  # DeepSpeed splits a second model when it is opened
        launch(deepspeed, tmp_path, {name: settings}, 2, zero3(tmp_path))
    check(one, tmp_path)


@pytest.mark.network
def test_zero_3_that_could_not_be_saved_is_refused_before_training(tmp_path, deepspeed):
    with pytest.raises(AssertionError, match="would not gather the weights that are saved: set zero3_save_16bit_model: true"):
        launch(deepspeed, tmp_path, {"full": {}}, 2, zero3(tmp_path, stage3_gather_16bit_weights_on_model_save=False))
    assert not (tmp_path / "full" / "metrics.jsonl").exists()


def test_the_large_recipe_can_be_rehearsed_on_two_processes(tmp_path):
    program = ["-m", "visionthink", "sft", "cold_start_7b", "--dry-run", "--out", str(tmp_path / "run")]
    result = on_processes(2, *program, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stderr.count("dry run: one step taken, nothing saved") == 1
    assert result.stderr.count("replaying 4 demonstrations") == 1  # two on each process
    assert not (tmp_path / "run").exists()
