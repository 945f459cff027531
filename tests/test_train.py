"""Training through TRL, for a step or two on the real base model."""

from __future__ import annotations

import dataclasses
import inspect
import json

import pytest
import torch

from visionthink import Penalty, ResolutionLadder, chatml
from visionthink.data import synth
from visionthink.errors import DataError, OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.protocol import CallError
from visionthink.recipes import RECIPES, recipe
from visionthink.train.config import TrainConfig
from visionthink.train.environment import EpisodeSource, parse_response
from visionthink.train.run import train
from visionthink.train.trainer import GRPOTrainer, last_run, make_trainer
from visionthink.types import ImageView


def small(out, **changes) -> TrainConfig:
    settings = {"steps": 2, "prompts_per_step": 4, "group_size": 4, "learning_rate": 1e-4, "max_new_tokens": 8, "kl_coef": 0.0}
    return TrainConfig(model="tiny-base", out=out, **(settings | changes))


def test_what_we_override_is_still_there():
    """A TRL upgrade that moves these must fail here, not in a training run."""
    assert list(inspect.signature(GRPOTrainer._generate).parameters) == ["self", "prompts"]
    assert list(inspect.signature(GRPOTrainer.log).parameters) == ["self", "logs", "start_time"]
    returned = inspect.getsource(GRPOTrainer._generate).rstrip().splitlines()[-1].strip()
    assert returned.startswith("return prompt_ids, completion_ids, tool_mask, completions")


def test_last_turn_of_a_mask():
    assert last_run([1, 1, 1]) == 0
    assert last_run([1, 1, 0, 0, 1]) == 4
    assert last_run([1, 0]) == 2
    assert last_run([]) == 0


def test_every_recipe_can_be_read():
    for name in RECIPES:
        chosen = recipe(name)
        assert isinstance(chosen.config.rollout_penalty(), Penalty)
    with pytest.raises(OptionError, match="unknown recipe 'x'; choose from tiny"):
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
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "sec')  # torn by a kill
    (out / "checkpoint-3").mkdir()  # begun and not finished
    train(small(out, steps=3, resume=True), examples)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_rewards_of_a_group_follow_the_rubric(tmp_path):
    trainer = make_trainer(small(tmp_path, steps=1), synth.suite(8, split="train"))
    trainer.train()
    transcripts = trainer.transcripts()
    assert len(transcripts) == 16
    assert all(len({t.example_id for t in transcripts[i : i + 4]}) == 1 for i in range(0, 16, 4))
    assert all(sum(t.loss_mask) == sum(len(turn.token_ids) for turn in t.turns) for t in transcripts)


def test_one_level_training_has_no_second_turn(tmp_path):
    """General-VQA training: full resolution, one turn, nothing to ask for."""
    trainer = make_trainer(small(tmp_path, steps=1, ladder="1", penalty="none"), synth.suite(8, split="train"))
    trainer.train()
    assert all(t.levels == (1.0,) and len(t.turns) == 1 for t in trainer.transcripts())
    assert trainer.args.max_tool_calling_iterations == 0


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
        ({"micro_batch": 5}, "does not divide the 16 rollouts"),
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
    full = ImageView(synth.draw("scene", 0).image, 1.0, 112, 112, 16)
    between = [tiny.protocol.tool_result(full), *map(tiny.protocol.tool_error, CallError)]
    longest = max(len(renderer.encode(chatml.bridge([message], "chatml"))) for message in between)
    assert longest > 16
    assert trainer.args.max_completion_length == 2 * 8 + longest
    assert trainer.args.max_tool_calling_iterations == 1


def test_only_what_the_episode_answers_is_a_call(tiny):
    def parsed(text, end="<|im_end|>", levels=(0.25, 1)):
        ids = tiny.tokenizer(text + end)["input_ids"]
        source = EpisodeSource({}, ResolutionLadder(levels), tiny.protocol, tiny.budget)
        return parse_response(tiny.tokenizer, source, ids, prefix=[1, 2])

    assert "tool_calls" not in parsed("<answer>red</answer>")
    assert "tool_calls" not in parsed(tiny.protocol.request, end="")  # cut off
    assert "tool_calls" not in parsed(tiny.protocol.request, levels=(1,))  # nothing to ask for
    for text in (tiny.protocol.request, "<tool_call>oops</tool_call>"):
        [call] = parsed(text)["tool_calls"]
        assert call["function"]["name"] == "respond"
        assert call["function"]["arguments"]["text"] == text
        assert call["function"]["arguments"]["prompt_ids"] == [1, 2]
