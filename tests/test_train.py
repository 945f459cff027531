"""Training through TRL, for a step or two on the real base model."""

from __future__ import annotations

import dataclasses
import fcntl
import inspect
import json

import pytest
import torch
from training import small

from visionthink import Penalty, chatml
from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import DataError, ModelError, OptionError, StorageError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.recipes import RECIPES, recipe
from visionthink.train import run
from visionthink.train.rollouts import training_order
from visionthink.train.run import train
from visionthink.train.trainer import GRPOTrainer, make_trainer
from visionthink.types import CallError, ImageView, whole


def test_what_we_override_and_use_is_still_there():
    """A TRL upgrade that moves these must fail here, not in a training run."""
    parameters = {
        "_generate": ["self", "prompts"],
        "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"],
        "_log_metric": ["self", "name", "value"],
        "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
        "_load_optimizer_and_scheduler": ["self", "checkpoint"],
        "_load_rng_state": ["self", "checkpoint"],
        "_save_rng_state": ["self", "output_dir"],
        "_save_checkpoint": ["self", "model", "trial"],
    }
    for name, expected in parameters.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == expected
    returned = inspect.getsource(GRPOTrainer._generate).rstrip().splitlines()[-1].strip()
    assert returned == ("return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images")
    caller = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "if self.tools and any(imgs for imgs in tool_images) and self._is_vlm:" in caller
    assert "loss_mask = completion_mask if tool_mask is None else completion_mask * tool_mask" in caller
    assert '"advantages": advantages,' in caller
    assert "num_items_in_batch = self.accelerator.gather(loss_mask.sum()).sum()" in caller
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert "if advantages.dim() == 1:" in loss and 'normalizer = inputs["num_items_in_batch"]' in loss


def test_every_recipe_can_be_read():
    eq5 = Penalty("eq5", theta=0.2, weight=0.1)
    found = {
        name: (c.model, str(c.rollout_menu().ladder), c.rollout_penalty())
        for name, c in ((name, recipe(name).config) for name in RECIPES)
    }
    assert found == {
        "tiny": ("tiny-base", "0.25,1", eq5),
        "tiny_look": ("runs/tiny-look/started", "0.25", Penalty("none")),
        "smart_7b": ("Qwen/Qwen2.5-VL-7B-Instruct", "0.25,1", eq5),
        "general_7b": ("Qwen/Qwen2.5-VL-7B-Instruct", "1", Penalty("none")),
        "smart_7b_lora": ("Qwen/Qwen2.5-VL-7B-Instruct", "0.25,1", eq5),
        "smart_3b_lora": ("Qwen/Qwen2.5-VL-3B-Instruct", "0.25,1", eq5),
        "smart_qwen3_8b": ("Qwen/Qwen3-VL-8B-Instruct", "0.25,1", eq5),
        "smart_qwen3_4b_lora": ("Qwen/Qwen3-VL-4B-Instruct", "0.25,1", eq5),
        "look_7b": ("Qwen/Qwen2.5-VL-7B-Instruct", "0.25", Penalty("none")),
        "look_7b_lora": ("Qwen/Qwen2.5-VL-7B-Instruct", "0.25", Penalty("none")),
        "look_qwen3_8b": ("Qwen/Qwen3-VL-8B-Instruct", "0.25", Penalty("none")),
        "box_7b": ("Qwen/Qwen2.5-VL-7B-Instruct", "0.25", Penalty("released")),
        "box_7b_lora": ("Qwen/Qwen2.5-VL-7B-Instruct", "0.25", Penalty("released")),
        "box_qwen3_8b": ("Qwen/Qwen3-VL-8B-Instruct", "0.25", Penalty("released")),
        "budget_7b": ("Qwen/Qwen2.5-VL-7B-Instruct", "0.25,1", Penalty("none")),
        "budget_7b_lora": ("Qwen/Qwen2.5-VL-7B-Instruct", "0.25,1", Penalty("none")),
        "budget_qwen3_8b": ("Qwen/Qwen3-VL-8B-Instruct", "0.25,1", Penalty("none")),
    }
    with pytest.raises(OptionError, match="unknown recipe 'x'; choose from tiny, tiny_look, smart_7b"):
        recipe("x")


def test_a_run_writes_metrics_checkpoints_and_a_model_and_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    examples = synth.suite(24, split="train")
    final = train(small(out, save_steps=1), examples)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert {"reward", "rewards/accuracy/mean", "rewards/format/mean", "rewards/penalty/mean", "request_ratio"} <= set(lines[0])
    assert (out / "checkpoint-2").is_dir() and json.loads((out / "config.json").read_text())["steps"] == 2
    before, after = (open_checkpoint(m).model.state_dict() for m in ("tiny-base", str(final)))
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("model.visual"))
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("model.language_model"))

    with pytest.raises(OptionError, match="holds a run already"):
        train(small(out), examples)
    with pytest.raises(OptionError, match=r"--resume: theta was 0.2 in .* and is 0.3 now"):
        train(small(out, steps=3, theta=0.3, resume=True), examples)
    record = json.loads((out / "config.json").read_text())
    del record["trl"], record["attention"]  # as of a run that began before there were such settings
    (out / "config.json").write_text(json.dumps(record))
    with pytest.raises(OptionError, match=r"--resume: attention was '' in .* and is 'eager' now"):
        train(small(out, steps=3, attention="eager", resume=True), examples)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "sec')  # torn by a kill
    (out / "checkpoint-3").mkdir()  # begun and not finished
    (out / "checkpoint-4").mkdir()
    (out / "checkpoint-4" / "trainer_state.json").touch()  # the last file of a checkpoint, torn
    (out / "checkpoint-5").mkdir()
    (out / "checkpoint-5" / "trainer_state.json").write_text("[" * 100_000)  # damaged
    for _ in range(2):  # the second finds everything done
        train(small(out, steps=3, resume=True), examples)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_a_damaged_record_of_the_run_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(OptionError, match=r"--resume: .*config.json is damaged"):
        train(small(tmp_path, resume=True), synth.suite(4, split="train"))


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("optimizer.pt", lambda p: p.unlink(), r"checkpoint-2: damaged \(optimizer.pt is missing\)"),
        ("optimizer.pt", lambda p: p.write_bytes(p.read_bytes()[:1000]), "checkpoint-2: damaged"),
        ("model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:1000]), "checkpoint-2: damaged"),
        ("rng_state.pth", lambda p: p.write_bytes(b"x"), "checkpoint-2: damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_not_silently_made_up_for(tmp_path, file, change, message):
    examples = synth.suite(8, split="train")
    train(small(tmp_path, save_steps=2), examples)
    change(tmp_path / "checkpoint-2" / file)
    with pytest.raises(ModelError, match=message):
        train(small(tmp_path, save_steps=2, steps=3, resume=True), examples)


def test_a_dry_run_refuses_what_the_run_would_refuse(tmp_path, capsys):
    command = ["train", "tiny", "--out", str(tmp_path / "run"), "--dry-run"]
    assert main([*command, "--max-new-tokens", "3000"]) == 2
    assert "may take" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["train", "tiny", "--out", str(tmp_path / "file" / "run"), "--dry-run"]) == 2
    assert "file is not a folder that can be written to" in capsys.readouterr().err


def test_a_run_that_did_not_begin_is_not_in_the_way(tmp_path):
    examples = synth.suite(8, split="train")
    with pytest.raises(OptionError, match="no token of its own for"):
        train(small(tmp_path / "run", forced=1, dialect="simple_resize"), examples)
    train(small(tmp_path / "run", forced=1, steps=1), examples)
    assert (tmp_path / "run" / "final").is_dir()


def test_the_order_of_examples_follows_from_seed_and_step():
    ids = list("abcde")
    order = training_order(ids, 12, seed=0, shuffle=True)
    assert sorted(order[:5]) == sorted(order[5:10]) == ids
    assert order[:5] != order[5:10] != ids
    assert training_order(ids, 7, seed=0, shuffle=True) == order[:7]
    assert training_order(ids, 12, seed=1, shuffle=True) != order
    assert training_order(ids, 12, seed=0, shuffle=False) == list("abcdeabcdeab")


def test_an_example_that_cannot_be_read_is_replaced_and_reported(tmp_path):
    """A file cut off near its end has a good header, so that it is only found out when it is shown."""
    examples = synth.suite(4, split="train")
    examples[1].image.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-500])
    (tmp_path / "none.png").write_text("not an image")
    examples[1] = dataclasses.replace(examples[1], image=tmp_path / "cut.jpg")
    examples[2] = dataclasses.replace(examples[2], image=tmp_path / "none.png")
    train(small(tmp_path / "run", save_steps=1, probe_steps=1), examples)
    rejects = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert {r["example_id"]: r["reason"].partition(" (")[0] for r in rejects} == {
        examples[2].id: f"example {examples[2].id}, {tmp_path / 'none.png'}: not an image file that can be read",
        examples[1].id: f"example {examples[1].id}, {tmp_path / 'cut.jpg'}: damaged or truncated image",
    }


def test_rewards_of_a_group_follow_the_rubric(tmp_path):
    trainer = make_trainer(small(tmp_path, steps=1), synth.suite(8, split="train"))
    trainer.train()
    transcripts = trainer.transcripts()
    assert len(transcripts) == 16
    assert all(len({t.example_id for t in transcripts[i : i + 4]}) == 1 for i in range(0, 16, 4))
    assert all(sum(t.loss_mask) == sum(len(turn.token_ids) for turn in t.turns) for t in transcripts)
    for start in range(0, 16, 4):
        group = trainer.step.rollouts[start : start + 4]
        scored = [r for r in group if r.score.total is not None]
        assert [r.score.total is None for r in group] == [r.transcript.stop_reason == "length" for r in group]
        right = [r.transcript.answer == r.transcript.reference for r in scored]
        direct = [not r.transcript.requested for r in scored]
        share = sum(a and b for a, b in zip(right, direct, strict=True)) / max(1, sum(right))
        paid = [0.1 * (any(right) and d == (share < 0.2)) for d in direct]  # Eq. 5: those who answer directly, below theta
        formats = [0.5 if r.transcript.answer is not None else 0.0 for r in scored]
        expected = [a + f - p for a, f, p in zip(right, formats, paid, strict=True)]
        assert [r.score.total for r in scored] == pytest.approx(expected)


def test_one_level_training_has_no_second_turn(tmp_path):
    """General-VQA training: full resolution, one turn, nothing to ask for."""
    trainer = make_trainer(small(tmp_path, steps=1, ladder="1", penalty="none"), synth.suite(8, split="train"))
    trainer.train()
    assert all(t.levels_seen == (1.0,) and t.offers == () and len(t.turns) == 1 for t in trainer.transcripts())


def test_nothing_to_train_on_and_nothing_to_resume(tmp_path):
    with pytest.raises(OptionError, match="--resume: no run in"):
        train(small(tmp_path / "a", resume=True), synth.suite(4, split="train"))
    scene = synth.draw("scene", 0)
    tiny_images = [dataclasses.replace(scene, image=scene.image.resize((20, 20)))]
    with pytest.raises(DataError, match="no example to train on"):
        train(small(tmp_path / "b"), tiny_images)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"group_size": 1}, "group_size 1: must be a number of at least 2"),
        ({"steps": 0}, "steps 0: must be a number of at least 1"),
        ({"temperature": 0.0}, "temperature 0.0: must be"),
        ({"seed": -1}, "seed -1: must be"),
        ({"micro_batch": -4}, "micro_batch -4: must be"),
        ({"micro_batch": 5}, "16 rollouts of a step cannot be split into 1 updates of passes of 5"),
        ({"forced": 2}, "forced 2: leaves fewer than 2 of 4 rollouts free"),
        ({"vllm": "colocate"}, r"vllm colocate: is not installed; pip install 'visionthink\[vllm\]'"),
        ({"vllm": "x"}, "unknown vllm 'x'"),
        ({"exclude": "slow"}, "exclude 'slow': choose from"),
        ({"penalty": "x"}, "unknown penalty 'x'"),
        ({"ladder": "2"}, "shares of the pixels"),
        ({"learning_rate": float("nan")}, "learning_rate nan: must be"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, changes, message):
    with pytest.raises(OptionError, match=message):
        small(tmp_path, **changes)


def test_the_budget_of_a_completion_holds_every_turn_and_whatever_stands_between(tmp_path, renderer, tiny):
    trainer = make_trainer(small(tmp_path), synth.suite(4, split="train"))
    full = ImageView(image=synth.draw("scene", 0).image, box=whole(112, 112), level=1.0, width=112, height=112, visual_tokens=16)
    between = [tiny.protocol.observation([full]), *map(tiny.protocol.tool_error, CallError)]
    longest = max(len(renderer.encode(chatml.bridge([message], "chatml"))) for message in between)
    assert longest > 16
    assert trainer.args.max_completion_length == 2 * 8 + longest
    assert trainer.args.ddp_timeout == 2 * 60 * 60


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process works on this training run"):
            train(small(tmp_path, steps=1), synth.suite(8, split="train"))


def test_a_checkpoint_in_the_middle_speaks_like_its_end(tmp_path):
    train(small(tmp_path, steps=2, save_steps=1), synth.suite(8, split="train"))
    assert open_checkpoint(str(tmp_path / "checkpoint-1")).protocol == open_checkpoint(str(tmp_path / "final")).protocol


def test_a_run_that_ended_while_this_one_was_loading_is_kept(tmp_path, monkeypatch):
    def loaded(config, *given, made=run.make_trainer, **named):
        trainer = made(config, *given, **named)
        (config.out / "final").mkdir(parents=True)
        return trainer

    monkeypatch.setattr(run, "make_trainer", loaded)
    with pytest.raises(OptionError, match="holds a run already; give --resume or another folder"):
        train(small(tmp_path / "run"), synth.suite(4, split="train"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_other_examples_than_a_run_began_with_are_told(tmp_path, capsys):
    examples = synth.suite(8, split="train")
    train(small(tmp_path / "run", steps=1, save_steps=1), examples)
    capsys.readouterr()
    train(small(tmp_path / "run", steps=2, save_steps=1, resume=True), examples[:7])
    assert "the run began with other examples (8 examples, " in capsys.readouterr().err
