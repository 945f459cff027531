"""What a newcomer meets first: doctor, completion, --show, the quick demo, and the errors of the first mistakes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import resource
import select
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import datasets
import pytest
import torch
from environments import clean, only

import visionthink
from visionthink import cli
from visionthink.cli.common import model_options
from visionthink.compress.fit_config import FitConfig
from visionthink.data import synth
from visionthink.errors import OptionError, choose_from, did_you_mean
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.pools.pool import Pool
from visionthink.recipes import demo, doctor
from visionthink.records import documentation
from visionthink.train.config import TrainConfig
from visionthink.train.sft_config import SftConfig


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The python of an environment with the base dependencies only."""
    return only(tmp_path_factory.mktemp("bare") / "env")


def run(python: Path | str, *argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-m", "visionthink", *argv], capture_output=True, text=True, env=clean(), cwd=cwd)


def fails(capsys, *argv: str) -> str:
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    assert (status, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    return err.removeprefix("error: ").strip()


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    synth.draw("scene", 9, hard=False).image.save("photo.png")
    Path("rows.jsonl").write_text('{"question": "q", "image": "photo.png"}\n')
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    return tmp_path


# an environment without torch


def test_the_bare_environment_has_no_heavy_library(bare):
    code = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ('torch', 'transformers', 'scipy', 'aiohttp'))))"
    assert subprocess.run([bare, "-c", code], env=clean()).returncode == 0


def test_doctor_without_torch(bare, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run(bare, "doctor", "--json", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (result.returncode, result.stderr) == (0, "")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    found = json.loads(result.stdout)
    assert found["versions"]["visionthink"] == visionthink.__version__ and "torch" not in found["versions"]
    assert (found["torch_gpus"], found["attention"], found["model"]) == (None, {}, None)
    commands = {use["name"]: use for use in found["commands"]}
    assert commands["tokens"]["missing"] == [] and commands["doctor"]["missing"] == []
    assert commands["ask"] == {"name": "ask", "extras": "local", "missing": ["torch", "transformers"]}
    assert {"torch", "matplotlib", "aiohttp"} <= {*commands["eval"]["missing"]}
    shown = run(bare, "doctor", cwd=tmp_path).stdout
    assert "pip install 'visionthink[local]'" in shown and "pip install 'visionthink[train,eval]'" in shown


def test_doctor_says_what_a_model_lacks(bare, tmp_path):
    result = run(bare, "doctor", "--model", "tiny", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "missing: torch, transformers; pip install 'visionthink[local]'"
    remote = run(bare, "doctor", "--model", "http://localhost:1/v1#m", "--json", cwd=tmp_path)
    assert remote.returncode == 1
    assert json.loads(remote.stdout)["model"]["missing"] == ["aiohttp, aiolimiter; pip install 'visionthink[remote]'"]


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (["ask", "photo.png", "-q", "How many?"], "pip install 'visionthink[local]'"),
        (["eval", "mini", "--out", "e"], "pip install 'visionthink[eval]'"),
        (["train", "tiny", "--out", "t"], "pip install 'visionthink[train]'"),
        (["demo", "--out", "d"], "pip install 'visionthink[train,eval]'"),
        (["demo", "--quick", "--out", "d"], "pip install 'visionthink[eval]'"),
        (["serve"], "pip install 'visionthink[serve]'"),
        (["ask", "photo.png", "-q", "How many?", "--model", "http://localhost:1/v1#m"], "pip install 'visionthink[remote]'"),
    ],
)
def test_a_missing_extra_is_named_with_its_command(bare, desk, argv, remedy):
    result = run(bare, *argv, cwd=desk)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith(f" {remedy}\n"), result.stderr


@pytest.mark.parametrize("table", ["rows.parquet", "nobody/nothing"])
def test_the_extra_that_reads_parquet_files_and_the_hub_is_named(desk, capsys, monkeypatch, table):
    Path("rows.parquet").touch()
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert fails(capsys, "eval", table, "--out", "e") == "datasets is not installed; pip install 'visionthink[eval]'"


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["tokens", "--size", "64x64"],
        ["completion", "zsh"],
        ["train", "smart_7b", "--show"],
        ["sft", "cold_start_7b", "--show"],
        ["fit", "fcot", "--show"],
    ],
)
def test_what_works_without_torch(bare, tmp_path, argv):
    result = run(bare, *argv, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extras", "argv"),
    [
        ("local", ["ask", "photo.png", "-q", "How many shapes are there?"]),
        ("local", ["measure", "--out", "times.json"]),
        ("judge", ["score", "answers.jsonl"]),
        ("eval", ["eval", "mini", "--limit", "6", "--max-new-tokens", "8", "--policy", "low,full", "--out", "e"]),
        ("eval", ["eval", "rows.parquet", "--max-new-tokens", "8", "--out", "e"]),
        ("train", ["curate", "mini", "--model", "tiny-base", "--limit", "6", "--max-new-tokens", "8", "--out", "c"]),
        ("eval", ["calibrate", "mini", "--limit", "60", "--max-new-tokens", "8", "--alpha", "0.4", "--out", "g.json"]),
        ("train", ["train", "tiny", "--dry-run", "--out", "t"]),
        ("train", ["sft", "cold_start_7b", "--dry-run", "--out", "s"]),
        ("train", ["fit", "fcot", "--dry-run", "--out", "f"]),
        ("eval", ["demo", "--quick", "--out", "d"]),
    ],
)
def test_a_command_runs_with_the_extras_that_it_declares(desk, extras, argv):
    """And with nothing else: doctor promises it."""
    needs = cli._parser().get_default("needs")
    assert needs[argv[0]] == extras or "--quick" in argv  # which trains nothing
    (desk / "answers.jsonl").write_text('{"question": "q", "ground_truth": "1/2", "prediction": "0.5"}\n')
    row = {"question": "How many shapes are there?", "image": "photo.png", "answer": "3"}
    datasets.Dataset.from_list([row]).to_parquet("rows.parquet")
    python = only(desk / "env", extras)
    result = run(python, *argv, cwd=desk)
    assert result.returncode == 0, result.stderr


# doctor where everything is installed


def test_doctor_estimates_memory_without_downloading(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("visionthink.policies.memory.free_bytes", lambda device: 40 * 10**9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert cli.main(["doctor", "--json", "--model", "Qwen/Qwen2.5-VL-7B-Instruct"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert (model["parameters"], model["visual_tokens"]) == (8_292_166_656, 16384)
    weights = {part["dtype"]: part["weights"] for part in model["memory"]}
    assert weights == {"bfloat16": 16_584_333_312, "float32": 33_168_666_624}
    assert (model["device"], model["dtype"], model["missing"]) == ("cpu", "float32", [])
    assert model["together"] == 0 and "the largest image may need up to" in model["notes"][0]
    question = model["memory"][-1]["question"]
    for times, together in ((1, 1), (2, 1), (10, 6), (1000, 64)):  # as many as a batch takes: 60 % of what is free
        free = weights["float32"] + times * question
        monkeypatch.setattr("visionthink.policies.memory.free_bytes", lambda device, free=free: free)
        assert cli.main(["doctor", "--json", "--model", "Qwen/Qwen2.5-VL-7B-Instruct"]) == 0
        assert json.loads(capsys.readouterr().out)["model"]["together"] == together
    monkeypatch.setattr("visionthink.policies.memory.free_bytes", lambda device: 20 * 10**9)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--model", "Qwen/Qwen2.5-VL-7B-Instruct"])
    assert ended.value.code == 1
    said = "missing: memory: the weights take 33.2 GB in float32, and 20.0 GB are free on the cpu; "
    said += "use --dtype bfloat16 (16.6 GB), a smaller model or a GPU"
    assert capsys.readouterr().out.splitlines()[-1] == said


def test_doctor_on_models_here_and_elsewhere(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert cli.main(["doctor", "--json", "--model", "tiny"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert model["parameters"] == sum(p.numel() for p in open_checkpoint("tiny").model.parameters())
    assert model["missing"] == [] and model["together"] >= 1
    assert cli.main(["doctor", "--model", "tiny"]) == 0
    assert re.search(r"float32 +8\.6 MB +up to 170\.6 MB", capsys.readouterr().out)
    assert cli.main(["doctor", "--json", "--model", "nobody/nothing"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["notes"][0].startswith("its size is not known")
    for name, said in [("tinny", "did you mean 'tiny'?"), ("./nowhere", "no such folder")]:
        with pytest.raises(SystemExit):
            cli.main(["doctor", "--json", "--model", name])
        assert said in json.loads(capsys.readouterr().out)["model"]["missing"][0]


def damaged_config(folder: Path, **changes: object) -> str:
    config = json.loads((folder / "config.json").read_text())
    text = {name: changes.pop(name) for name in [*changes] if name in config["text_config"] and name != "dtype"}
    (folder / "config.json").write_text(json.dumps(config | changes | {"text_config": config["text_config"] | text}))
    return str(folder)


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "none"}, {"num_attention_heads": 0}, {"num_key_value_heads": 0}, {"dtype": "int64"}]
)
def test_doctor_on_an_architecture_that_cannot_be(tmp_path, changes):
    folder = damaged_config(shutil.copytree(resolve("tiny"), tmp_path / "model"), **changes)
    [said] = doctor._model(folder).missing
    assert said.startswith(f"model {folder}: config.json: a model of this architecture cannot be run (")


@pytest.mark.parametrize("kept", [0, 1000, -1000])
def test_doctor_sees_weights_that_are_not_whole(tmp_path, kept):
    folder = shutil.copytree(resolve("tiny"), tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:kept])
    [said] = doctor._model(str(folder)).missing
    assert said.startswith(f"model {folder}: model.safetensors: is damaged or not whole (")


def test_doctor_says_that_weights_are_quantised(tmp_path):
    folder = damaged_config(shutil.copytree(resolve("tiny"), tmp_path / "model"), quantization_config={"quant_method": "awq"})
    [said] = doctor._model(folder).notes
    assert said.startswith("its weights are quantised: they take less memory than is estimated here")


def test_doctor_reads_the_driver(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, PCIe, 81559, 80000'\necho 'broken, [N/A], [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = doctor.examine({})
    assert found.gpus == (doctor.Gpu(name="NVIDIA H100, PCIe", bytes=81559 << 20, free_bytes=80000 << 20),)
    assert found.notes == (
        f"the driver lists 1 GPUs and PyTorch sees none: torch {torch.__version__} is built for CPUs; "
        "install a CUDA build (pytorch.org/get-started)",
    )


def test_doctor_names_versions_that_are_too_old(monkeypatch):
    versions = {"torch": "2.5.1", "transformers": "5.20.0"}
    monkeypatch.setattr(doctor.metadata, "version", lambda name: versions[name])
    assert doctor.missing("local") == ("torch>=2.6 (here: 2.5.1)",)


def test_every_extra_has_a_use():
    parser = cli._parser()
    needed = {extra for extras in parser.get_default("needs").values() for extra in extras.split(",") if extra}
    extras = {*metadata.metadata("visionthink").get_all("Provides-Extra")}
    assert needed | {*doctor.FEATURES} | {"dev", "docs"} == extras and not needed & {*doctor.FEATURES}
    assert {*cli._EXTRAS.values()} <= extras


# completion


BASH = """
source ./script
words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); "$FUNCTION"; printf '%s ' "${COMPREPLY[@]}"; echo; }
FUNCTION=$(complete -p visionthink | sed 's/.*-F //; s/ .*//')
words visionthink do
words visionthink train smart_7
words visionthink ask photo.png --devi
words visionthink ask photo.png --device c
words visionthink ask ph
words visionthink eval rows
words visionthink eval mini --policy ad
words visionthink eval mini --judge ex
words visionthink train tiny --penalty eq
words visionthink train tiny --judge-down st
"""


def test_completion_in_bash(capsys, desk):
    assert cli.main(["completion", "bash"]) == 0
    (desk / "script").write_text(capsys.readouterr().out)
    result = subprocess.run(["bash", "--norc", "-c", BASH], capture_output=True, text=True)
    assert result.stderr == ""
    assert [line.strip() for line in result.stdout.splitlines()] == [
        "doctor",
        "smart_7b smart_7b_lora",
        "--device",
        "cpu cuda",
        "photo.png",
        "rows.jsonl",
        "adaptive",
        "exact",
        "eq5 eqN",
        "stop",
    ]


def test_completion_in_bash_goes_on_within_a_folder(capsys, desk):
    """As a terminal shows it: behind a folder comes no space."""
    assert cli.main(["completion", "bash"]) == 0
    (desk / "script").write_text(capsys.readouterr().out)
    master, terminal = pty.openpty()
    shell = subprocess.Popen(["bash", "--norc", "-i"], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    os.close(terminal)
    try:
        os.write(master, b"source ./script\nvisionthink ask --model fu\t\x01echo '\x05'\n")
        shown = b""
        while b"visionthink ask --model full/\r\n" not in shown and select.select([master], [], [], 20)[0]:
            shown += os.read(master, 4096)
        assert b"visionthink ask --model full/\r\n" in shown, shown
    finally:
        shell.kill()
        shell.wait()
        os.close(master)


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_completion_in_fish(capsys, desk):
    assert cli.main(["completion", "fish"]) == 0
    (desk / "script").write_text(capsys.readouterr().out)
    commands = "source ./script; " + "".join(
        f"complete -C 'visionthink {words}'; " for words in ("do", "eval rows", "fit quecc_3")
    )
    result = subprocess.run(["fish", "--no-config", "-c", commands], capture_output=True, text=True)
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["doctor", "rows.jsonl", "quecc_3b"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_completion_is_read_by_zsh(capsys, desk):
    assert cli.main(["completion", "zsh"]) == 0
    (desk / "script").write_text(capsys.readouterr().out)
    assert subprocess.run(["zsh", "-f", "-n", "script"], capture_output=True).returncode == 0


# --show


def test_the_values_of_a_recipe(capsys):
    assert cli.main(["train", "smart_7b", "--show", "--json", "--steps", "7", "--trl", "optim=sgd"]) == 0
    found = json.loads(capsys.readouterr().out)
    settings = found["settings"]
    assert (settings["steps"], settings["group_size"], settings["learning_rate"], settings["trl"]) == (
        7,
        16,
        1e-6,
        {"optim": "sgd"},
    )
    assert "out" not in settings and found["about"].startswith("Qwen2.5-VL-7B learns when to look closer")
    assert "steps 7 (80)" in found["note"]
    assert cli.main(["train", "tiny", "--show"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["--learning-rate", "0.0006", "AdamW", "learning", "rate."] in lines
    assert ["--data", "empty"] in [words[:2] for words in lines] and ["--shuffle", "false"] in [words[:2] for words in lines]


def test_the_values_of_other_recipes(capsys):
    assert cli.main(["sft", "cold_start_7b", "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["samples"] == 2000
    assert cli.main(["fit", "quecc", "--show", "--json", "--keep", "0.25"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert (settings["model"], settings["keep"], settings["steps"]) == ("tiny", 0.25, 1000)


@pytest.mark.parametrize("command", [["train", "tiny"], ["sft", "cold_start_tiny"], ["fit", "fcot"]])
def test_only_show_needs_no_folder(capsys, desk, command):
    said = fails(capsys, *command)
    assert said == f"{command[0]}: name the folder to write to, as --out runs/{command[0]}; or use --show or --dry-run"
    if command[0] != "fit":
        assert fails(capsys, *command, "--json", "--out", "o") == "--json: goes with --show"
    assert not (desk / "o").exists()


# device and dtype


def test_the_type_of_the_weights():
    half, full = (visionthink.load("tiny", dtype=dtype).policy.checkpoint.model.dtype for dtype in ("bfloat16", "auto"))
    assert (half, full) == (torch.bfloat16, torch.float32)


def test_a_gpu_that_is_not_there(capsys, desk, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    said = "device cuda: PyTorch sees no GPU; use auto or cpu, or see visionthink doctor"
    assert fails(capsys, "ask", "photo.png", "-q", "?", "--device", "cuda") == said
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(OptionError, match="device cuda:2: PyTorch sees 2 GPUs, counted from 0; use"):
        open_checkpoint("tiny", device="cuda:2")


@pytest.mark.parametrize("command", ["ask", "eval", "calibrate", "serve", "curate", "measure", "fit"])
def test_commands_that_load_a_model_take_device_and_dtype(command):
    [commands] = (a for a in cli._parser()._actions if a.dest == "command")
    options = commands.choices[command]._option_string_actions
    assert {"--device", "--dtype"} <= options.keys() and options["--dtype"].choices == ("auto", "float32", "bfloat16", "float16")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--device", "gpu"], "unknown device 'gpu'; choose from auto, cpu, cuda, cuda:N"),
        (["--device", "meta"], "unknown device 'meta'; choose from auto, cpu, cuda, cuda:N"),  # a model without weights
        (
            ["--dtype", "half"],
            "argument --dtype: 'half' is unknown; choose from auto, float32, bfloat16, float16; see visionthink ask",
        ),
        (["--device", "cpu", "--engine", "vllm"], "device cpu: is for a model that transformers runs; vllm has its own"),
        (
            ["--dtype", "float16", "--model", "http://localhost:1/v1#m"],
            "dtype float16: is for a model of this machine; the",
        ),
    ],
)
def test_devices_and_types_that_cannot_be(capsys, desk, argv, message):
    assert fails(capsys, "ask", "photo.png", "-q", "?", *argv).startswith(message)


def test_workers_take_the_gpus_in_turn(capsys, desk):
    said = fails(capsys, "eval", "mini", "--workers", "2", "--device", "cuda:1", "--out", "e")
    assert said == "--device cuda:1: workers take the GPUs in turn; use cuda, and CUDA_VISIBLE_DEVICES to choose"
    Pool(workers=2).check_device("cuda")


def test_a_run_in_another_type_is_another_run(capsys, desk):
    common = ("eval", "mini", "--limit", "6", "--max-new-tokens", "8", "--policy", "low", "--out", "e")
    assert cli.main([*common, "--device", "cpu"]) == cli.main([*common]) == 0
    capsys.readouterr()
    assert "dtype" in fails(capsys, *common, "--dtype", "bfloat16")


# a batch in Python


def test_pairs_of_image_and_question(desk):
    model = visionthink.load("tiny", max_new_tokens=8)
    scene, digits = synth.draw("scene", 9, hard=False), synth.draw("digits", 1, hard=False)
    asked = [("photo.png", "How many shapes are there?"), (digits.image, digits.question)]
    answers = model.run([*asked, (["photo.png", scene.image], "How many shapes are there?")])
    assert [t.example_id for t in answers] == ["0", "1", "2"]
    assert [t.answer for t in answers[:2]] == [model.ask(*pair).answer for pair in asked] == ["3", digits.answer]
    assert len(answers[2].sizes) == 2
    [same] = model.run([visionthink.Example("mine", "How many shapes are there?", "photo.png")])
    assert (same.example_id, same.answer) == ("mine", "3")
    for wrong, said in [("photo.png", "question 0: str is neither"), (("photo.png", 3), "question 3: must be text")]:
        with pytest.raises(OptionError, match=said):
            model.run([wrong])


# the quick demo


def test_the_quick_demo(tmp_path, monkeypatch):
    from rich.console import Console

    monkeypatch.setattr(demo, "QUICK_EXAMPLES", 60)
    console = Console(record=True, width=100, file=io.StringIO())
    result = demo.quick_demo(tmp_path / "q", console)
    assert [*result["runs"]] == [f"{m}-{p}" for m in ("tiny-base", "tiny") for p in ("low", "full", "adaptive")]
    assert [q["need"] for q in result["questions"]] == ["easy", "easy", "hard", "hard"]
    assert len({q["family"] for q in result["questions"]}) == 4
    for question in result["questions"]:
        runs = question["runs"]
        assert [*runs] == ["tiny-base", "tiny", "tiny, always low", "tiny, always full"]
        assert (runs["tiny, always low"]["visual_tokens"], runs["tiny, always full"]["visual_tokens"]) == (4, 16)
        assert runs["tiny"]["sees"] == ("25 %" if question["need"] == "easy" else "25 %, then 100 %")
    assert (tmp_path / "q" / "report.html").stat().st_size > 50_000
    assert json.loads((tmp_path / "q" / "demo.json").read_text())["questions"] == result["questions"]
    printed = " ".join(console.export_text().split())
    assert "Of the 2 runs that are not baselines, tiny under adaptive is furthest above its random mix: it answers " in printed
    assert re.search(r" tiny-base under adaptive (is below|cannot be distinguished from) its random mix\. open ", printed)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(OptionError, match="holds no earlier demo; name another folder"):
        demo.quick_demo(tmp_path / "other", console)


# the first mistakes


def test_what_was_meant():
    assert did_you_mean("aks", ["ask", "tokens"]) == "did you mean 'ask'? "
    assert did_you_mean("akss", ["ask", "tokens"]) == "did you mean 'ask'? "
    assert did_you_mean("Tiny", ["tiny"]) == "did you mean 'tiny'? "
    assert did_you_mean("fly", ["ask", "tokens"]) == ""
    assert choose_from("tinny", {"tiny": 1, "large": 2}) == "did you mean 'tiny'? choose from tiny, large"
    assert choose_from("x", ["a", "b"]) == "choose from a, b"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND; see visionthink --help"),
        (["aks", "photo.png"], "argument COMMAND: 'aks' is unknown; did you mean 'ask'? choose from ask, tokens, serve"),
        (["ask", "photo.png"], "the following arguments are required: -q/--question; see visionthink ask --help"),
        (["ask", "foto.png", "-q", "?"], "foto.png: no such file"),
        (["--hlep"], "unrecognized arguments: --hlep; did you mean '--help'? see visionthink --help"),
        (["--verison", "ask"], "unrecognized arguments: --verison; did you mean '--version'? see visionthink --help"),
        (
            ["ask", "photo.png", "--qestion", "?"],
            "unrecognized arguments: --qestion; did you mean '--question'? see visionthink ask",
        ),
        (["ask", "photo.png", "-q", "?", "--modle", "tiny"], "unrecognized arguments: --modle; did you mean '--model'? see"),
        (["ask", "photo.png", "-q", "?", "--model", "tinny"], "model tinny: did you mean 'tiny'? choose tiny or tiny-base, a"),
        (
            ["ask", "photo.png", "-q", "?", "--menu", "awaress"],
            "--menu 'awaress': did you mean 'awares'? choose from visionthink",
        ),
        (["ask", "photo.png", "-q", "?", "--dialect", "agnt"], "unknown dialect 'agnt'; did you mean 'agent'? choose from agent"),
        (["ask", "photo.png", "-q", "?", "--engine", "vlm"], "engine 'vlm': did you mean 'vllm'? choose from transformers, vllm"),
        (
            ["ask", "photo.png", "-q", "?", "--model", "me/mine"],
            "model me/mine: there is no such folder, and the hub could not be",
        ),
        (["eval", "mnii", "--out", "o"], "unknown suite 'mnii'; did you mean 'mini'? choose from mini, places"),
        (["calibrate", "mnii", "--out", "o.json"], "unknown suite 'mnii'; did you mean 'mini'? choose from mini, places"),
        (
            ["curate", "mnii", "--model", "tiny", "--out", "o"],
            "unknown suite 'mnii'; did you mean 'mini'? choose from mini, places",
        ),
        (
            ["train", "tiny", "--data", "mnii", "--dry-run"],
            "mnii: no such file or folder; a data set of the hub is named OWNER/NAME",
        ),
        (
            ["fit", "fcot", "--data", "mnii", "--dry-run"],
            "mnii: no such file or folder; a data set of the hub is named OWNER/NAME",
        ),
        (["eval", "me/mine", "--out", "o"], "me/mine: no such file or folder, and the hub could not be reached"),
        (
            ["eval", "mini", "--judge", "exat", "--out", "o"],
            "judge 'exat': did you mean 'exact'? choose from rules, exact, an endpoint",
        ),
        (["eval", "minni", "--out", "o"], "unknown suite 'minni'; did you mean 'mini'? choose from mini, places"),
        (
            ["eval", "rows.jsonl", "--out", "o"],
            "rows.jsonl: no column answer or original_answer or solution; it has 'question', ",
        ),
        (["eval", "gone.jsonl", "--out", "o"], "gone.jsonl: no such file"),
        (["eval", "mini", "--policy", "adaptiv", "--out", "o"], "--policy 'adaptiv': did you mean 'adaptive'? choose one of"),
        (["eval", "mini", "--policy", "fastvv:0.5", "--out", "o"], "--policy 'fastvv:0.5': did you mean 'fastv'? choose one of"),
        (
            ["eval", "mini", "--policy", "forced:requests", "--out", "o"],
            "--policy 'forced:requests': did you mean 'forced:request'? choose one",
        ),
        (["train", "tinny", "--out", "o"], "unknown recipe 'tinny'; did you mean 'tiny'? choose from tiny, tiny_look"),
        (
            ["train", "tiny", "--lerning-rate", "1"],
            "unrecognized arguments: --lerning-rate; did you mean '--learning-rate'? see",
        ),
        (
            ["train", "tiny", "--credit", "centerd", "--out", "o"],
            "unknown credit 'centerd'; did you mean 'centred'? choose from eq3",
        ),
        (["fit", "fcott", "--out", "o"], "unknown method 'fcott'; did you mean 'fcot'? choose from fcot"),
        (
            ["demo", "--quick", "--out", "full"],
            "--out full: the folder is not empty and holds no earlier demo; name another folder",
        ),
        (["report", "gone", "--out", "r.html"], "gone: no summary.json; there is no such folder; visionthink eval writes one"),
    ],
)
def test_a_mistake_gives_one_line_with_its_remedy(capsys, desk, monkeypatch, argv, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fails(capsys, *argv).startswith(message)
    assert sorted(path.name for path in desk.iterdir()) == ["full", "photo.png", "rows.jsonl"]


# help


def test_every_option_says_what_it_is():
    [commands] = (a for a in cli._parser()._actions if a.dest == "command")
    for name, command in commands.choices.items():
        assert command.description and command.description.endswith("."), name
        silent = [a.dest for a in command._actions if not a.help]
        assert silent == [], name
    assert model_options.__module__ == "visionthink.cli.common"


@pytest.mark.parametrize("record", [TrainConfig, SftConfig, FitConfig])
def test_settings_are_described_in_sentences(record):
    for name, text in documentation(record).items():
        assert text[0].isupper() and text.endswith(".") and len(text.split()) >= 3, name
