"""What is found out before a model is loaded, what a run says of itself, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from servers import Replying, replying, said
from training import small

from visionthink import progress
from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.recipes.tiny import ship
from visionthink.rewards.spec import probe, read_judge
from visionthink.train.progress import ProgressBar, _status
from visionthink.train.run import train


def language_model(reply: str) -> contextlib.AbstractContextManager[Replying]:
    """A server whose every reply is this."""
    return replying(lambda _: (200, said({"role": "assistant", "content": reply})))


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "command, message",
    [
        ("ask IMAGE -q x --dialect nope", "unknown dialect 'nope'"),
        ("ask IMAGE -q x --boundary nope", "unknown boundary 'nope'"),
        ("ask IMAGE -q x --menu nope", "--menu 'nope': choose"),
        ("ask IMAGE -q x --ladder 2", "ladder 2: levels are shares"),
        ("ask IMAGE -q x --menu awares --dialect agent", "dialect agent: asks for a level, and the menu offers"),
        ("eval mini --limit 1 --out OUT --judge nope", "judge 'nope': choose"),
        ("eval mini --limit 1 --out OUT --dialect nope", "unknown dialect 'nope'"),
        ("eval mini --limit 1 --out OUT --policy nope", "--policy 'nope': choose"),
        ("eval mini --limit 1 --out OUT --policy fastv:nope", "compression method 'fastv:nope'"),
        ("eval mini --limit 1 --out OUT --policy visionzip:7", "visionzip keep 7.0: a share"),
        ("eval mini --limit 1 --out OUT --policy random", "--policy random: takes its share from"),
        ("train tiny --steps 1 --out OUT --judge nope", "judge 'nope': choose"),
        ("train tiny --steps 1 --out OUT --dialect nope", "unknown dialect 'nope'"),
        ("train tiny --steps 1 --out OUT --dialect general", "dialect general: asks for nothing, and the menu offers a level"),
        ("train tiny --steps 1 --out OUT --penalty nope", "unknown penalty 'nope'"),
        ("curate mini --limit 1 --out OUT --judge nope", "judge 'nope': choose"),
        ("curate mini --limit 1 --out OUT --definite rules", "definite 'rules': needs one language model"),
        ("curate mini --limit 1 --out OUT --temperature -1", "--temperature -1.0: must be"),
    ],
)
def test_names_and_values_are_checked_before_a_model_is_opened(command, message, tmp_path, capsys):
    image, out = tmp_path / "x.png", tmp_path / "out"
    Image.new("RGB", (112, 112)).save(image)
    words = command.replace("IMAGE", str(image)).replace("OUT", str(out)).split()
    assert main([*words, "--model", "./nowhere"]) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {message}")
    assert not out.exists()


@pytest.mark.parametrize("option", ["--judge", "--against"])
def test_a_judges_name_is_checked_before_answers_are_read(option, tmp_path, capsys):
    assert main(["score", str(tmp_path / "nowhere.jsonl"), option, "nope"]) == 2
    assert capsys.readouterr().err.startswith("error: judge 'nope': choose")


def test_a_run_does_not_change_the_image_processor_it_is_given(tmp_path):
    checkpoint = open_checkpoint("tiny-base")
    before = dict(checkpoint.image_processor.size)
    adjusted = small(tmp_path, max_image_tokens=4).adjusted(checkpoint)
    assert dict(adjusted.image_processor.size) == {"shortest_edge": 784, "longest_edge": 4 * 784}
    assert adjusted.budget.max_pixels == 4 * 784
    assert dict(checkpoint.image_processor.size) == before == {"shortest_edge": 784, "longest_edge": 12544}


# ------------------------------------------------------------------------------------------------ the judge of a dry run


@pytest.mark.parametrize("judge", ["URL#some", "URL", "rules,URL#some"])
def test_a_dry_run_fails_on_a_judge_that_is_down(judge, closed_port, cache, tmp_path, capsys):
    command = ["train", "tiny", "--steps", "1", "--out", str(tmp_path / "run"), "--dry-run", "--judge"]
    assert main([*command, judge.replace("URL", closed_port)]) == 2
    errors = capsys.readouterr().err
    assert f"error: judge {closed_port}" in errors or f"error: {closed_port}" in errors
    assert "loading" not in errors


def test_a_judge_is_asked_past_its_cache(cache):
    with language_model("Score: 1") as server:
        judge = read_judge(f"rules,{server.url}")
        probe(judge)
        probe(judge)
        assert len(server.sent) == 2
        assert judge.usage()["2/answers"] == 0
    probe(read_judge("rules"))


def test_a_judge_that_says_no_verdict_is_down_too(cache):
    with (
        language_model("I would rather not.") as server,
        pytest.raises(OptionError, match=r"judge http\S+: reply cannot be"),
    ):
        probe(read_judge(server.url))


# ------------------------------------------------------------------------------------------------ going on


def test_a_linear_run_that_is_to_be_longer_is_told_what_to_do(tmp_path):
    out, examples = tmp_path / "run", synth.suite(8, split="train")
    train(small(out, steps=1, save_steps=1, lr_schedule="linear"), examples)
    with pytest.raises(OptionError) as error:
        train(small(out, steps=2, save_steps=1, lr_schedule="linear", resume=True), examples)
    assert str(error.value) == (
        f"--resume: steps was 1 in {out} and is 2 now; a linear learning rate falls to 0 over the length that a run began with: "
        f"leave --steps 1, or train on from it as a new run with --model {out}/checkpoint-1 and another --out; "
        "--lr-schedule constant runs can be made longer"
    )
    train(small(tmp_path / "more", steps=1, model=f"{out}/checkpoint-1", lr_schedule="linear"), examples)  # as it was told


def test_a_run_says_what_it_does_where_there_is_no_terminal(tmp_path, capsys):
    out, examples = tmp_path / "run", synth.suite(8, split="train")
    train(small(out, steps=1, save_steps=1), examples)
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "loading tiny-base",
        "measuring the images of the examples",
        "measuring the images of the examples",
        "training",
        "training",
        f"saving {out}/final",
    ]
    train(small(out, steps=3, save_steps=1, resume=True), examples)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "loading tiny-base",
        "measuring the images of the examples",
        "measuring the images of the examples",
        f"resuming at step 1 of 3, from {out}/checkpoint-1",
        "training",
        "training",
        f"saving {out}/final",
    ]
    assert lines[4] == "training: 1 of 3" and lines[5].startswith("training: 3 of 3 after ")
    train(small(tmp_path / "dry", steps=1), examples, dry_run=True)
    assert "saving" not in capsys.readouterr().err


def test_lines_of_progress_come_at_intervals(capsys, monkeypatch):
    class State:
        max_steps, global_step, is_world_process_zero = 100, 2, True

    monkeypatch.setattr(progress, "EVERY", 0.05)
    bar = ProgressBar()
    bar.on_train_begin(None, State, None)
    State.global_step = 5
    assert _status({"loss": 0.5, "reward": 0.0, "rewards/penalty/mean": -0.0}).startswith("reward 0.00 (0.00 + 0.00 - 0.00), ")
    bar.on_log(None, State, None, {"loss": 0.5})
    time.sleep(0.12)
    bar.on_train_end(None, State, None)
    first, *later = capsys.readouterr().err.splitlines()
    assert first == "training: 2 of 100" and set(later) == {"training: 5 of 100 after 0 s: loss 0.500"}


# ------------------------------------------------------------------------------------------------ precision


def test_what_is_trained_keeps_its_precision(tmp_path):
    out = tmp_path / "run"
    train(small(out, steps=1, save_steps=1), synth.suite(8, split="train"))
    final, last = (load_file(out / folder / "model.safetensors") for folder in ("final", "checkpoint-1"))
    assert {tensor.dtype for tensor in final.values()} == {torch.float32}
    assert final.keys() == last.keys() and all(torch.equal(final[name], last[name]) for name in last)
    assert json.loads((out / "final" / "config.json").read_text())["dtype"] == "float32"


def test_what_is_shipped_is_halved_on_purpose(tmp_path):
    ship(Path(resolve("tiny")), tmp_path / "shipped")
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (resolve("tiny"), tmp_path / "shipped"))
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "shipped" / "config.json").read_text())["dtype"] == "float16"
