"""Starting several processes with the files that come with the package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from environments import ROOT, clean, deepspeed_python

from visionthink.cli import main
from visionthink.errors import OptionError
from visionthink.train.launch import SHIPPED, Launch

FOLDER = Path(__file__).parents[1] / "visionthink" / "train" / "launch"


def test_the_shipped_files_are_those_that_have_names():
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(SHIPPED)
    assert [path.name for path in sorted(FOLDER.glob("*.json"))] == ["zero2.json", "zero3.json"]
    three = json.loads((FOLDER / "zero3.json").read_text())
    assert three["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    for file, stage in (("zero2", 2), ("zero3", 3)):
        found = json.loads((FOLDER / f"{file}.json").read_text())
        assert (found["zero_optimization"]["stage"], found["data_types"]) == (stage, {"grad_accum_dtype": "fp32"})


@pytest.mark.parametrize("name, kind", [("ddp", "MULTI_GPU"), ("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED"), ("fsdp2", "FSDP")])
def test_accelerate_reads_the_shipped_files(name, kind):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (found.distributed_type.value, found.num_machines, found.main_process_port) == (kind, 1, 0)


def test_the_command_line():
    launch = Launch(file=FOLDER / "zero3.yaml", processes=8, on_cpu=False, deepspeed=FOLDER / "zero3.json")
    assert launch.command(["train", "smart_7b", "--out", "runs/a b"]) == [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(FOLDER / "zero3.yaml"), "--num_processes", "8"),
        *("--deepspeed_config_file", str(FOLDER / "zero3.json")),
        *("-m", "visionthink", "train", "smart_7b", "--out", "runs/a b"),
    ]


def test_the_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 4)
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"distributed_type": "MULTI_GPU", "num_processes": 32}))
    assert [Launch.read(*given).processes for given in (("ddp", None), ("ddp", 2), (str(own), None), (str(own), 6))] == [
        4,
        2,
        32,
        6,
    ]
    assert Launch.read("ddp", None).on_cpu is False


@pytest.mark.parametrize(
    "options, message",
    [
        ("--launch ddp", "--launch ddp: there is no GPU here; --processes N runs N processes on the CPU"),
        (
            "--launch ddpp --show",
            "--launch ddpp: did you mean 'ddp'? choose from ddp, zero2, zero3, fsdp2, or a file of accelerate config",
        ),
        ("--launch=", "argument --launch: is empty; see visionthink train --help"),
        ("--launch nope", "--launch nope: choose from ddp, zero2, zero3, fsdp2, or a file of accelerate config"),
        ("--launch broken.yaml", "--launch broken.yaml: cannot be read; accelerate config writes such a file"),
        ("--launch ddp --processes 0", "--processes 0: must be at least 1"),
        ("--launch ddp --processes 3", "prompts_per_step 16: cannot be divided among 3 processes; use a multiple of 3"),
        ("--processes 2", "--processes 2: is for --launch"),
        ("--launch ddp --processes 2 --trl beta=1", "--trl beta: use --kl-coef"),
    ],
)
def test_what_cannot_be_launched_is_said_before_processes_start(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    Path("broken.yaml").write_text("a: [")
    assert main(["train", "tiny", "--out", "run", *options.split()]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_deepspeed_has_to_be_installed():
    if "deepspeed" in sys.modules:
        pytest.skip("is installed")
    with pytest.raises(OptionError, match=r"--launch zero3: DeepSpeed is not installed; pip install 'visionthink\[deepspeed\]'"):
        Launch.read("zero3", 2)


def launched(arguments: list[str], python: Path | str = sys.executable, **more: str) -> subprocess.CompletedProcess:
    environment = clean() | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [str(python), "-m", "visionthink", *arguments]
    return subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_two_processes_take_a_step_together(tmp_path):
    """The large recipe's rehearsal, through accelerate; what is said is said once."""
    options = ["--dry-run", "--launch", "ddp", "--processes", "2", "--trl", "top_k=20", "--out", str(tmp_path / "run")]
    result = launched(["train", "smart_3b_lora", *options])
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stderr.count("dry run: one step taken, nothing saved") == 1
    assert result.stderr.count("measuring the images of the examples: 0 of 4") == 1
    assert result.stderr.count("settings that differ from the paper's") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_exit_status_is_that_of_the_processes(tmp_path):
    result = launched(["train", "tiny", "--model", "./nowhere", "--launch", "ddp", "--processes", "2", "--out", str(tmp_path)])
    assert result.returncode != 0
    assert "error: model ./nowhere: no such folder" in result.stderr


@pytest.mark.network
def test_two_processes_take_a_step_under_zero2(tmp_path):
    """With DeepSpeed itself, and its settings of the package."""
    options = ["--dry-run", "--launch", "zero2", "--processes", "2", "--out", str(tmp_path / "run")]
    result = launched(["train", "smart_3b_lora", "--lora-rank", "0", *options], deepspeed_python(), DS_ACCELERATOR="cpu")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stderr.count("dry run: one step taken, nothing saved") == 1


STATE = """
import json, os
from accelerate import Accelerator, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
PartialState(cpu=True)
accelerator = Accelerator()
if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    plugin = FullyShardedDataParallelPlugin()
    found = [plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading, str(plugin.state_dict_type)]
else:
    found = accelerator.state.deepspeed_plugin.deepspeed_config
if accelerator.is_main_process:
    print(json.dumps([accelerator.num_processes, found]))
"""


@pytest.mark.network
@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_accelerate_reads_the_files_of_sharded_weights(name, tmp_path):
    (tmp_path / "state.py").write_text(STATE)
    python = deepspeed_python()
    file = FOLDER / f"{name}.json"
    launch = Launch(file=FOLDER / f"{name}.yaml", processes=2, on_cpu=True, deepspeed=file if file.exists() else None)
    command = launch.command([])
    command = [str(python), *command[1 : command.index("visionthink") - 1], str(tmp_path / "state.py")]
    environment = clean() | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    processes, found = json.loads(result.stdout.splitlines()[-1])
    assert processes == 2
    if name == "fsdp2":
        assert found == [2, True, False, "StateDictType.SHARDED_STATE_DICT"]
    else:
        assert found["zero_optimization"]["stage"] == 3
        assert found["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
        assert found["data_types"] == {"grad_accum_dtype": "fp32"}
