"""The recipes, and what a run saves."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from training import small
from transformers import AutoModelForImageTextToText

from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import DataError, OptionError
from visionthink.images import open_image
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.policies.render import views
from visionthink.recipes import RECIPES, recipe, stand_in
from visionthink.recipes.qwen import PAPER
from visionthink.train.config import TrainConfig
from visionthink.train.run import train
from visionthink.train.trainer import make_trainer

FAST = ("smart_3b_lora",)
LARGE = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in RECIPES if not name.startswith("tiny")]


@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_says_what_it_takes_and_can_be_rehearsed(name, capsys, tmp_path, monkeypatch):
    """One step of a small random model of the architecture, through the command line; nothing is downloaded or left behind."""
    text = RECIPES[name].__doc__
    assert all(word in text for word in ("Time", "Expected:", "GPU", f"train {name} "))
    monkeypatch.chdir(tmp_path)
    assert main(["train", name, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "dry run: one step taken, nothing saved" in said
    differences = recipe(name).differences(recipe(name).config)
    assert differences and f"settings that differ from the paper's, with the paper's in brackets: {differences}\n" in said
    assert f"\n{recipe(name).hardware.device_bytes / 1e9:8.1f}  there is on each GPU\n" in said
    assert list(tmp_path.iterdir()) == []
    assert not (Path(tempfile.gettempdir()) / "visionthink-train").exists()


def test_paper_settings():
    trl = PAPER.to_trl(processes=32, on_cpu=True, bridge_tokens=5400, longest=24000, never_sampled=[7])
    assert (PAPER.prompts_per_step, PAPER.group_size, PAPER.steps) == (512, 16, 80)
    assert trl.gradient_accumulation_steps * trl.per_device_train_batch_size * 32 == 32 * 16  # rollouts of an update
    assert trl.steps_per_generation * trl.per_device_train_batch_size == 16 * 16
    assert trl.max_steps == 80 * 16
    assert (trl.learning_rate, trl.beta, trl.epsilon, trl.loss_type, trl.temperature) == (1e-6, 0.001, 0.2, "grpo", 1.0)
    assert trl.generation_kwargs == {"max_new_tokens": 8192, "suppress_tokens": [7]}
    assert recipe("general_7b").config.ladder == "1"


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("tiny")])
def test_the_paper_leaves_out_duplicate_and_empty_answers_alone(name):
    assert recipe(name).config.exclusions() == TrainConfig().exclusions() == ("duplicate", "empty")


@pytest.mark.parametrize("name", ["smart_7b", "general_7b", "smart_qwen3_8b"])
def test_on_8_gpus_an_update_is_the_papers_and_a_step_is_said_to_be_smaller(name):
    chosen = recipe(name)
    trl = chosen.config.to_trl(processes=8, on_cpu=True, bridge_tokens=9, longest=99, never_sampled=[])
    assert trl.gradient_accumulation_steps * trl.per_device_train_batch_size * 8 == 32 * 16  # rollouts of an update
    assert trl.steps_per_generation * trl.per_device_train_batch_size == 256
    assert trl.max_steps == 80 * 16
    said = "steps 320 (80), prompts_per_step 128 (512), updates_per_step 4 (16)"
    assert chosen.differences(chosen.config) == said
    own = chosen.config.replace(prompts_per_step=512, updates_per_step=16, steps=80)
    assert chosen.differences(own) == ""
    fewer = own.replace(prompts_per_step=128)
    assert chosen.differences(fewer) == "prompts_per_step 128 (512), examples per update 8 (32)"


def test_recipes_that_learn_where_to_look():
    configs = {name: recipe(name).config for name in RECIPES if name.startswith(("look_", "box_", "budget_"))}
    assert len(configs) == 9
    for name, config in configs.items():
        kind = name.partition("_")[0]
        menu, turns = config.rollout_menu(), 2
        assert menu.most_turns == turns and (config.lora_rank > 0) == name.endswith("_lora")
        assert ("Qwen3" in config.model) == ("qwen3" in name)
        assert menu.asks == {{"look": "region", "box": "box", "budget": "level"}[kind]}
        assert config.rollout_credit().name == {"look": "centred", "box": "dtpo", "budget": "centred"}[kind]
        assert config.rollout_penalty().name == {"look": "none", "box": "released", "budget": "none"}[kind]
        assert (config.rollout_budget() is not None) == (kind == "budget")
    assert configs["budget_7b"].rollout_budget().share == 0.4
    assert (configs["box_7b"].chosen_dialect, configs["box_qwen3_8b"].chosen_dialect) == ("adaptvision", "qwen3")
    assert recipe("look_7b").differences(configs["look_7b"]) == (
        "learning_rate 1e-06 (1e-05), credit centred:price=0.1 (default), penalty none (awares), lora_rank 0 (8)"
    )


def test_the_authors_resizing_can_be_trained_with(tmp_path):
    """Its full view is twice the low one, whatever the file has: 897 px become 896."""
    examples = [dataclasses.replace(e, image=open_image(e.images[0]).image.resize((897, 701))) for e in synth.suite(2)]
    config = small(tmp_path, menu="visionthink-released-train", prompts_per_step=2)
    source = make_trainer(config, examples, checkpoint=stand_in.qwen2_5_vl()).sampler.source
    [episode] = source.episodes(examples[0].id, 1)
    [low] = views(episode.history)
    [offer] = episode.space.offers()
    [full] = source.space(examples[0]).shown(offer.looks)
    assert (low.image.size, (full.width, full.height)) == ((448, 350), (896, 700))


def test_several_updates_per_step_learn_from_one_generation(tmp_path):
    config = small(tmp_path / "run", steps=2, updates_per_step=2, micro_batch=4)
    train(config, synth.suite(12, split="train"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert ["request_ratio" in line for line in lines] == [True, False, True, False]


def test_an_episode_that_outgrows_the_context_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"max_new_tokens 2040: an episode of example synth-train-\S+ may take 4\d\d\d tokens"):
        make_trainer(small(tmp_path, max_new_tokens=2040), synth.suite(2, split="train"))


@pytest.mark.parametrize("dialect", ["general", "compact_single"])
def test_a_dialect_that_cannot_ask_needs_one_level(tmp_path, dialect):
    with pytest.raises(
        OptionError, match=f"dialect {dialect}: asks for nothing, and the menu offers a level; .* a ladder of one"
    ):
        make_trainer(small(tmp_path, dialect=dialect), synth.suite(4, split="train"))


def test_examples_with_the_same_id_are_refused(tmp_path):
    example = synth.draw("scene", 0)
    with pytest.raises(DataError, match="1 examples have an id that another one has"):
        make_trainer(small(tmp_path), [example, example])


def test_an_example_without_answer_is_refused(tmp_path):
    example = dataclasses.replace(synth.draw("scene", 0), answer=None)
    with pytest.raises(DataError, match="has no answer to be rewarded for"):
        make_trainer(small(tmp_path), [example])


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, capsys):
    from transformers import Qwen2Config

    shutil.copytree(resolve("tiny-base"), tmp_path / "text")
    Qwen2Config().save_pretrained(tmp_path / "text")
    assert main(["train", "tiny", "--model", str(tmp_path / "text"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error == f"error: model {tmp_path / 'text'}: qwen2 is not supported; choose one of qwen2_vl, qwen2_5_vl, qwen3_vl\n"
    (tmp_path / "text" / "config.json").write_text("{}")
    assert main(["train", "tiny", "--model", str(tmp_path / "text"), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"error: model {tmp_path / 'text'}: config.json: model_type is missing\n"
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_forbidden_is_not_silently_allowed(tmp_path):
    """A branch is forced by taking a token away; wording without a token of its own cannot be."""
    policy = make_trainer(small(tmp_path), synth.suite(4, split="train")).sampler.policy
    with pytest.raises(OptionError, match="no token of its own for '<look>'"):
        policy.forbidding("<look>")


def test_an_adapter_is_merged_into_what_is_saved(tmp_path):
    final = train(small(tmp_path / "run", lora_rank=4, gradient_checkpointing=True), synth.suite(8, split="train"))
    before, after = (open_checkpoint(m).model.state_dict() for m in ("tiny-base", str(final)))
    assert before.keys() == after.keys()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed and all("language_model.layers" in k for k in changed)
    stock = AutoModelForImageTextToText.from_pretrained(final).state_dict()
    assert all(torch.equal(stock[k].float(), after[k].float()) for k in after)
    scene = synth.draw("scene", 0)
    scene.image.save(tmp_path / "scene.png")
    assert main(["ask", str(tmp_path / "scene.png"), "-q", scene.question, "--model", str(final)]) == 0
