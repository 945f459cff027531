"""Nothing from outside is run: checkpoints bring numbers, archives are read in place, what is installed is known by its hash."""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

import visionthink
from visionthink.data.examples import read_examples
from visionthink.errors import DataError, ModelError
from visionthink.policies.checkpoint import describe, open_checkpoint, resolve

ROOT = Path(visionthink.__file__).parent


# ------------------------------------------------------------------------------------------------ what the code calls


def calls() -> dict[str, list[ast.Call]]:
    """Every call in the package, by the last part of its name."""
    found: dict[str, list[ast.Call]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                found.setdefault(ast.unparse(node.func).rpartition(".")[2], []).append(node)
    return found


def given(call: ast.Call) -> dict[str, object]:
    """Arguments by name, those of `SAFELY` too; what is no literal stands as its text."""
    from visionthink.policies.checkpoint import SAFELY

    named: dict[str, object] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            named |= SAFELY if ast.unparse(keyword.value) == "SAFELY" else {}
        else:
            constant = isinstance(keyword.value, ast.Constant)
            named[keyword.arg] = keyword.value.value if constant else ast.unparse(keyword.value)
    return named


def test_no_code_of_a_checkpoint_is_trusted_and_no_pickled_weights_are_read():
    found = calls()
    loading = [*found["from_pretrained"], *found["from_config"]]
    assert len(loading) == 6
    for call in loading:
        name, arguments = ast.unparse(call.func), given(call)
        if "Auto" in name:  # the others are classes of transformers, which have no code of a checkpoint
            assert arguments.get("trust_remote_code") is False, ast.unparse(call)
        if name.endswith("from_pretrained") and "Tokenizer" not in name:
            assert arguments.get("use_safetensors") is True, ast.unparse(call)
    everywhere = [call for named in found.values() for call in named]
    assert {given(call).get("trust_remote_code", False) for call in everywhere} == {False}
    assert {given(call).get("allow_pickle", False) for call in everywhere} == {False}


def test_pickles_are_read_from_our_own_processes_alone():
    """`torch.load` reads numbers that our own recipe wrote; Ray's workers get their work from who started them."""
    reading = {}
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("torch.load", "pickle.loads", "pickle.load", "joblib.load", "cloudpickle.loads", "dill.loads"):
                reading.setdefault(str(path.relative_to(ROOT)), set()).add((name, given(node).get("weights_only")))
    assert reading == {"pools/ray.py": {("pickle.loads", None)}, "recipes/tiny_base.py": {("torch.load", True)}}


def test_nothing_is_unpacked_to_disk():
    """Shards of WebDataset are read by `datasets`, member by member, so names of members are never paths."""
    unpacking = {"tarfile", "zipfile", "lzma", "bz2"}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & unpacking, path
            assert "unpack_archive" not in (ast.unparse(node) if isinstance(node, ast.Attribute) else ""), path


# ------------------------------------------------------------------------------------------------ checkpoints


class Marks:
    """What a malicious pickle does when it is read: here it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(resolve("tiny"), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_a_reason(copied, tmp_path, name):
    (copied / "model.safetensors").unlink()
    (copied / name).write_bytes(pickle.dumps(Marks(tmp_path / "ran")))
    with pytest.raises(ModelError) as error:
        open_checkpoint(str(copied))
    said = f"model.safetensors is missing, and {name} is not read: a pickle can run code; save the weights as safetensors"
    assert str(error.value) == f"model {copied}: {said}"
    assert not (tmp_path / "ran").exists()


def test_a_pickle_beside_the_weights_is_left_alone(copied, tmp_path):
    for name in ("pytorch_model.bin", "training_args.bin"):
        (copied / name).write_bytes(pickle.dumps(Marks(tmp_path / "ran")))
    open_checkpoint(str(copied))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../other/model.safetensors", "/etc/model.safetensors"])
def test_an_index_names_safetensors_files_of_its_folder_alone(copied, tmp_path, shard):
    shutil.copytree(copied, tmp_path / "other")
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps(Marks(tmp_path / "ran")))
    with pytest.raises(ModelError, match=f"model.safetensors.index.json: '{shard}' is no safetensors file of this folder"):
        open_checkpoint(str(copied))
    assert not (tmp_path / "ran").exists()


def test_an_index_of_other_values_is_damaged(copied):
    (copied / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": 1}}')
    with pytest.raises(ModelError, match=r"model.safetensors.index.json is damaged"):
        open_checkpoint(str(copied))


def test_pickled_weights_of_a_hub_id_are_refused_too(copied, tmp_path, monkeypatch):
    """Files of the hub are not known before they are loaded; transformers is told to take safetensors alone."""
    (copied / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(1)}, copied / "pytorch_model.bin")
    monkeypatch.setattr("visionthink.policies.checkpoint._check_folder", lambda *_: None)
    with pytest.raises(ModelError, match=r"cannot be loaded \(.*no file named model.safetensors"):
        open_checkpoint(str(copied))


def test_an_adapter_beside_a_model_of_the_hub_is_refused(copied, tmp_path, monkeypatch):
    """transformers would take the weights from the model that the adapter names, and the adapter from a pickle."""
    names = {"base_model_name_or_path": resolve("tiny-base"), "peft_type": "LORA"}
    (copied / "adapter_config.json").write_text(json.dumps(names))
    (copied / "adapter_model.bin").write_bytes(pickle.dumps(Marks(tmp_path / "ran")))
    monkeypatch.setattr("visionthink.policies.checkpoint._check_folder", lambda *_: None)
    for read in (open_checkpoint, describe):
        with pytest.raises(ModelError, match=r"adapter_config.json: an adapter would be loaded over weights that it names"):
            read(str(copied))
    assert not (tmp_path / "ran").exists()


CODE = "import pathlib\npathlib.Path({mark!r}).touch()\nclass Own: ...\n"


def test_code_beside_a_model_is_not_run(copied, tmp_path, monkeypatch):
    """Nobody is asked either: transformers asks on the terminal unless it is told."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run the code of a checkpoint"))
    (copied / "own.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    config = json.loads((copied / "config.json").read_text())
    own = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"), "own.Own")
    (copied / "config.json").write_text(json.dumps(config | {"auto_map": own}))
    processor = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps(processor | {"auto_map": own}))
    assert type(open_checkpoint(str(copied)).model) is transformers.Qwen2_5_VLForConditionalGeneration
    assert not (tmp_path / "ran").exists()


def test_code_of_a_tokenizer_is_not_run(copied, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run the code of a checkpoint"))
    (copied / "own.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    tokenizer = json.loads((copied / "tokenizer_config.json").read_text())
    changed = tokenizer | {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (copied / "tokenizer_config.json").write_text(json.dumps(changed))
    open_checkpoint(str(copied))  # as a tokenizer of transformers
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------ archives


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28)).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, *members: tuple[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo("1.png")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            tar.addfile(entry)
    return path


def test_members_of_an_archive_are_never_written(tmp_path):
    question = json.dumps({"question": "What?", "answer": "red"}).encode()
    (tmp_path / "in").mkdir()
    before = sorted(tmp_path.iterdir())
    path = shard(tmp_path / "in" / "shard.tar", ("../out/1.png", png()), ("../out/1.json", question))
    assert read_examples(str(path))["0"].question == "What?"
    assert sorted(tmp_path.iterdir()) == before and [file.name for file in (tmp_path / "in").iterdir()] == ["shard.tar"]


def test_an_archive_cannot_point_at_a_file_of_this_machine(tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    question = json.dumps({"question": "What?", "answer": "red", "image": "../secret.png"}).encode()
    (tmp_path / "in").mkdir()
    path = shard(tmp_path / "in" / "shard.tar", ("1.json", question), link=str(tmp_path / "secret.png"))
    with pytest.raises(DataError):
        _ = read_examples(str(path))["0"].image
    path = shard(tmp_path / "in" / "other.tar", ("1.json", question.replace(b'"image"', b'"file"')))
    with pytest.raises(DataError, match="outside"):
        _ = read_examples(str(path), columns="image=json.file,question=json.question,answer=json.answer")["0"].image


def test_a_pickle_in_an_archive_is_not_read(tmp_path):
    question = json.dumps({"question": "What?", "answer": "red"}).encode()
    members = [("1.png", png()), ("1.json", question), ("1.pyd", pickle.dumps(Marks(tmp_path / "ran")))]
    path = shard(tmp_path / "shard.tar", *members)
    assert read_examples(str(path))["0"].question == "What?"
    members[2] = ("1.pth", members[2][1])
    path = shard(tmp_path / "second.tar", *members)
    with pytest.raises(DataError, match=r"second.tar: cannot be read"):
        read_examples(str(path))
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------ known vulnerabilities

ACCEPTED: dict[str, str] = {}
"""Advisories that do not concern this package, by id, and why."""


def audited(requirements: Path, folder: Path) -> list[dict]:
    """What pip-audit says of each requirement; the test is skipped where the advisory service cannot be asked.

    pip-audit counts what the service does not know as not vulnerable, so that must be looked at.
    """
    uv, report = Path(sys.executable).with_name("uv"), folder / "report.json"
    options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json", "--output", str(report)]
    command = [str(uv), "tool", "run", "pip-audit@2.10.1", *options, "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True)
    if not report.is_file():
        [*_, last] = done.stderr.strip().splitlines() or ["nothing was said"]
        reached = not any(
            said in done.stderr for said in ("ConnectionError", "ServiceError", "No solution found", "Failed to fetch")
        )
        assert not reached, done.stderr
        pytest.skip(f"no advisory service, or no package index: {last[:200]}")
    return json.loads(report.read_text("utf-8"))["dependencies"]


@pytest.mark.network
def test_no_known_vulnerabilities_in_what_is_installed(tmp_path):
    lines = [
        line.partition(" ")[0] for line in (ROOT.parent / "requirements.lock").read_text("utf-8").splitlines() if "==" in line
    ]
    one, every = tmp_path / "one.txt", tmp_path / "every.txt"
    one.write_text(next(line for line in lines if line.startswith("numpy==")) + "\n")
    every.write_text("\n".join(lines) + "\n")
    [known] = audited(one, tmp_path)
    if "skip_reason" in known:
        pytest.skip(f"the advisory service is not here: {known['skip_reason']}")
    found = audited(every, tmp_path)
    assert [x["name"] for x in found if "skip_reason" in x] == []
    assert {v["id"]: x["name"] for x in found for v in x["vulns"] if v["id"] not in ACCEPTED} == {}
