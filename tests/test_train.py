"""Training through TRL, for a step or two on the real base model."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil

import pytest
import torch
from accelerate.utils import DistributedType
from PIL import Image
from transformers import AutoModelForImageTextToText

from visionthink import Episode, Penalty, Protocol, ResolutionLadder, chatml
from visionthink.cli import main
from visionthink.data import synth
from visionthink.errors import DataError, ModelError, OptionError
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.protocol import CallError
from visionthink.recipes import RECIPES, recipe
from visionthink.rewards.judge import Verdict
from visionthink.train.config import TrainConfig
from visionthink.train.engine import as_counted, one_pad_an_image
from visionthink.train.rollouts import exclusions, parse_exclusions, training_order
from visionthink.train.run import train
from visionthink.train.trainer import GRPOTrainer, make_trainer, refuse_lock_step
from visionthink.types import Completion, ImageView


def small(out, **changes) -> TrainConfig:
    settings = {
        "steps": 2,
        "prompts_per_step": 4,
        "group_size": 4,
        "learning_rate": 1e-4,
        "max_new_tokens": 8,
        "kl_coef": 0.0,
        "refill": 0,
        "exclude": "truncated",
    }
    return TrainConfig(model="tiny-base", out=out, **(settings | changes))


def test_what_we_override_and_use_is_still_there():
    """A TRL upgrade that moves these must fail here, not in a training run."""
    parameters = {
        "_generate": ["self", "prompts"],
        "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"],
        "_log_metric": ["self", "name", "value"],
        "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
        "_load_optimizer_and_scheduler": ["self", "checkpoint"],
        "_load_rng_state": ["self", "checkpoint"],
        "_save_checkpoint": ["self", "model", "trial"],
    }
    for name, expected in parameters.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == expected
    returned = inspect.getsource(GRPOTrainer._generate).rstrip().splitlines()[-1].strip()
    assert returned == ("return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images")
    caller = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "if self.tools and any(imgs for imgs in tool_images) and self._is_vlm:" in caller
    assert "loss_mask = completion_mask if tool_mask is None else completion_mask * tool_mask" in caller


def test_every_recipe_can_be_read():
    for name in RECIPES:
        chosen = recipe(name)
        assert isinstance(chosen.config.rollout_penalty(), Penalty)
    with pytest.raises(OptionError, match="unknown recipe 'x'; choose from tiny, smart_7b"):
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
    (out / "checkpoint-4").mkdir()
    (out / "checkpoint-4" / "trainer_state.json").touch()  # the last file of a checkpoint, torn
    for _ in range(2):  # the second finds everything done
        train(small(out, steps=3, resume=True), examples)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3]


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
    train(small(tmp_path / "run", save_steps=1), examples)
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


def test_one_level_training_has_no_second_turn(tmp_path):
    """General-VQA training: full resolution, one turn, nothing to ask for."""
    trainer = make_trainer(small(tmp_path, steps=1, ladder="1", penalty="none"), synth.suite(8, split="train"))
    trainer.train()
    assert all(t.levels == (1.0,) and len(t.turns) == 1 for t in trainer.transcripts())


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
        ({"forced": 1, "vllm": "colocate"}, "forced 1: vLLM cannot be kept from asking"),
        ({"probe_steps": 5, "vllm": "colocate"}, "probe_steps 5: vLLM cannot be kept from asking"),
        ({"vllm": "colocate"}, "vllm colocate: is not installed; pip install vllm"),
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


@pytest.mark.parametrize(
    "distributed, zero_stage, vllm, processes, refused",
    [
        ("NO", 0, "off", 1, None),
        ("MULTI_GPU", 0, "off", 8, None),
        ("DEEPSPEED", 2, "off", 8, None),
        ("DEEPSPEED", 3, "off", 8, "weights sharded over processes"),
        ("FSDP", 0, "off", 8, "weights sharded over processes"),
        ("DEEPSPEED", 3, "colocate", 8, None),
        ("FSDP", 0, "colocate", 8, None),
        ("NO", 0, "server", 1, None),
        ("MULTI_GPU", 0, "server", 2, "2 processes would send their turns together"),
    ],
)
def test_ways_to_generate_that_would_hang_are_refused(distributed, zero_stage, vllm, processes, refused):
    if refused is None:
        refuse_lock_step(DistributedType(distributed), zero_stage, vllm, processes)
    else:
        with pytest.raises(OptionError, match=refused):
            refuse_lock_step(DistributedType(distributed), zero_stage, vllm, processes)


def test_the_budget_of_a_completion_holds_every_turn_and_whatever_stands_between(tmp_path, renderer, tiny):
    trainer = make_trainer(small(tmp_path), synth.suite(4, split="train"))
    full = ImageView(synth.draw("scene", 0).image, 1.0, 112, 112, 16)
    between = [tiny.protocol.tool_result(full), *map(tiny.protocol.tool_error, CallError)]
    longest = max(len(renderer.encode(chatml.bridge([message], "chatml"))) for message in between)
    assert longest > 16
    assert trainer.args.max_completion_length == 2 * 8 + longest


# ------------------------------------------------------------------------------------------------ the loss


def rollout_batch(trainer) -> dict:
    """What TRL would train on next, all rollouts of a step."""
    trainer.current_gradient_accumulation_steps = 1  # set by the training loop, which is not running
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def plain_logprobs(trainer, inputs, i) -> torch.Tensor:
    """Log-probabilities of rollout i's completion [length], from one unpadded sequence through the model's own forward."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    keep = torch.cat([inputs["prompt_mask"][i], inputs["completion_mask"][i]]).bool()
    ids = torch.cat([inputs["prompt_ids"][i], inputs["completion_ids"][i]])[keep][None]
    begin = sum(inputs["num_images"][:i])
    grids = inputs["image_grid_thw"][begin : begin + inputs["num_images"][i]]
    first = int(inputs["image_grid_thw"][:begin].prod(-1).sum())
    hidden = model.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == trainer._image_pad_token_id).long(),
        pixel_values=inputs["pixel_values"][first : first + int(grids.prod(-1).sum())],
        image_grid_thw=grids,
    ).last_hidden_state
    logits = hidden @ model.lm_head.weight.T
    picked = torch.log_softmax(logits[0, :-1].float(), -1).gather(-1, ids[0, 1:, None])[:, 0]
    return picked[int(inputs["prompt_mask"][i].sum()) - 1 :]


def batched_logprobs(trainer, inputs) -> torch.Tensor:
    """As the loss computes them: padded, all rollouts at once, [rollouts, longest completion]."""
    batched, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
        inputs["completion_ids"].shape[1],
        **{k: inputs[k] for k in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
    )
    return batched


def test_logprobs_of_qwen3_vl_do_not_depend_on_the_batch(tmp_path, qwen3_folder):
    """Features injected into several layers must land on the right rollout, whether it has one image or two."""
    config = dataclasses.replace(small(tmp_path, forced=2, group_size=6, exclude=""), model=str(qwen3_folder))
    trainer = make_trainer(config, synth.suite(8, split="train"))
    inputs = rollout_batch(trainer)
    assert set(inputs["num_images"]) == {1, 2}
    batched = batched_logprobs(trainer, inputs)
    for i in range(len(trainer.rollouts)):
        alone = plain_logprobs(trainer, inputs, i)
        assert torch.allclose(alone, batched[i, : len(alone)], atol=1e-5)


def test_loss_is_equation_3(tmp_path):
    """-1/G sum_i 1/|I_i| sum_t I_it [min(rho A, clip(rho, .8, 1.2) A) - beta (e^(ref-p) - (ref-p) - 1)], written by hand over
    unpadded sequences; I is 1 for sampled tokens."""
    eps, beta = 0.2, 0.05
    trainer = make_trainer(small(tmp_path, kl_coef=beta, group_size=6), synth.suite(12, split="train"))
    inputs = rollout_batch(trainer)
    assert set(inputs["num_images"]) == {1, 2}, "rollouts of one and of two images are needed"
    batched = batched_logprobs(trainer, inputs)
    old = batched.detach() + 0.3 * torch.sin(torch.arange(batched.numel())).view_as(batched)  # ratios on both sides of the clip
    inputs["old_per_token_logps"] = old
    inputs["ref_per_token_logps"] = batched.detach() + 0.2 * torch.cos(torch.arange(batched.numel())).view_as(batched)
    rows = []
    for i, advantage in enumerate(inputs["advantages"]):
        now = plain_logprobs(trainer, inputs, i)
        n = len(now)
        assert torch.allclose(now, batched[i, :n], atol=1e-5)
        sampled = inputs["tool_mask"][i, :n].float()
        ratio = (now - old[i, :n]).exp()
        policy = torch.minimum(ratio * advantage, ratio.clamp(1 - eps, 1 + eps) * advantage)
        gap = inputs["ref_per_token_logps"][i, :n] - now
        rows.append(((policy - beta * (gap.exp() - gap - 1)) * sampled).sum() / sampled.sum())
    by_hand = -torch.stack(rows).mean()
    assert inputs["advantages"].abs().sum() > 0
    assert abs(float(trainer.compute_loss(trainer.model, inputs).detach()) - float(by_hand.detach())) < 1e-6


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_gradients_reach_what_should_move_and_nothing_else(tmp_path, lora_rank):
    trainer = make_trainer(small(tmp_path, lora_rank=lora_rank, group_size=6), synth.suite(12, split="train"))
    trainer.compute_loss(trainer.model, rollout_batch(trainer)).backward()
    parameters = dict(trainer.model.named_parameters())
    moving = {name for name, p in parameters.items() if p.requires_grad}
    reached = {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().sum() > 0}
    if lora_rank:
        assert moving and all("lora_" in name and "language_model" in name for name in moving)
        reached |= {name for name in moving if "lora_A" in name}  # B is 0 at first, so A has no gradient yet
    else:
        assert moving == set(parameters)
    assert reached == moving


# ------------------------------------------------------------------------------------------------ groups


def test_a_group_without_difference_is_replaced(tmp_path):
    """Every other example is always right; with no penalty such a group has nothing to compare."""

    class Flat:
        def judge(self, transcript):
            flat = int(transcript.example_id.rpartition("-")[2]) % 2
            return Verdict("correct" if flat or transcript.requested else "wrong", "test", "")

    examples = [synth.draw("scene", i, split="train") for i in range(16)]

    def varied(refill):
        config = small(tmp_path, refill=refill, group_size=8, penalty="none")
        trainer = make_trainer(config, examples, judge=Flat())
        inputs = rollout_batch(trainer)
        groups = [{r.score.total for r in trainer.rollouts[i : i + 8]} for i in range(0, 32, 8)]
        return [len(g) > 1 for g in groups], inputs["tool_mask"].reshape(4, -1).any(1).tolist()

    kept, learnt = varied(0)
    assert not all(kept) and all(learnt)
    kept, learnt = varied(8)
    assert all(kept) and all(learnt)


def test_left_out_members_get_no_gradient(tiny):
    protocol = Protocol("compact")

    def transcript(*said):
        episode = Episode(synth.draw("scene", 0), ResolutionLadder(), protocol, budget=tiny.budget)
        for completion in said:
            episode.step(completion)
        return episode.transcript()

    answer = Completion("<answer>2</answer>", token_ids=(7, 8))
    group = [
        transcript(answer),
        transcript(answer),
        transcript(Completion(" ", token_ids=(9,))),
        transcript(Completion("<answer>", "length", token_ids=(7,))),
        transcript(Completion(protocol.request, token_ids=(5, 8)), answer),
    ]
    assert exclusions(group, parse_exclusions("duplicate,empty,truncated")) == [None, "duplicate", "empty", "truncated", None]
    assert exclusions(group, parse_exclusions("empty")) == [None, None, "empty", None, None]
    assert exclusions(group, parse_exclusions("")) == [None] * 5
    with pytest.raises(OptionError, match="exclude 'x': choose from duplicate, empty, truncated"):
        parse_exclusions("x")


def test_truncated_rollouts_train_without_a_crash_and_without_a_gradient(tmp_path):
    trainer = make_trainer(small(tmp_path, max_new_tokens=3, group_size=6), synth.suite(8, split="train"))
    inputs = rollout_batch(trainer)
    cut = [t.stop_reason == "length" for t in (r.transcript for r in trainer.rollouts)]
    assert any(cut) and all(r.score.total is None for r, c in zip(trainer.rollouts, cut, strict=True) if c)
    trainer.compute_loss(trainer.model, inputs).backward()
    assert (inputs["tool_mask"] * inputs["completion_mask"]).sum() == sum(
        sum(r.loss_mask) for r, c in zip(trainer.rollouts, cut, strict=True) if not c
    )


def test_forced_branches_are_taken_and_their_decision_is_not_trained(tmp_path, tiny):
    trainer = make_trainer(small(tmp_path, forced=2, group_size=8, temperature=1.0), synth.suite(8, split="train"))
    rollout_batch(trainer)
    opens_answer = tiny.tokenizer.convert_tokens_to_ids("<answer>")
    for start in range(0, 32, 8):
        group = trainer.rollouts[start : start + 8]
        assert [r.forced for r in group] == [None] * 4 + ["direct"] * 2 + ["request"] * 2
        for r in group:
            t = r.transcript
            kept = [i for i, m in zip(t.token_ids, r.loss_mask, strict=True) if m]
            said = [i for turn in t.turns for i in turn.token_ids]
            if r.forced == "direct":
                assert not t.requested and kept == said[1:] and said[0] == opens_answer
            elif r.forced == "request":
                assert t.requested and kept == list(t.turns[1].token_ids)
            else:
                assert kept == said


# ------------------------------------------------------------------------------------------------ recipes


LARGE = [name for name in RECIPES if name != "tiny"]


@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_says_what_it_takes_and_can_be_rehearsed(name, capsys, tmp_path):
    """One step of a small random model of the architecture, through the command line; nothing is downloaded or left behind."""
    text = RECIPES[name].__doc__
    assert all(word in text for word in ("Time", "Expected:", "GPU", f"train {name} "))
    assert main(["train", name, "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    assert "dry run: one step taken, nothing saved" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_paper_settings():
    config = recipe("smart_7b").config
    trl = config.to_trl(on_cpu=True, bridge_tokens=5400, longest=24000, never_sampled=[7])
    assert (config.prompts_per_step * 32, config.group_size, config.steps) == (512, 16, 80)
    assert trl.gradient_accumulation_steps * trl.per_device_train_batch_size * 32 == 32 * 16  # rollouts of an update
    assert trl.steps_per_generation * trl.per_device_train_batch_size == 16 * 16
    assert trl.max_steps == 80 * 16
    assert (trl.learning_rate, trl.beta, trl.epsilon, trl.loss_type, trl.temperature) == (1e-6, 0.001, 0.2, "grpo", 1.0)
    assert trl.generation_kwargs == {"max_new_tokens": 8192, "suppress_tokens": [7]}
    assert recipe("general_7b").config.ladder == "1"
    assert config.exclusions() == ("duplicate", "empty", "truncated")


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
    with pytest.raises(OptionError, match=f"dialect {dialect}: has no way to ask for more than the lowest level"):
        make_trainer(small(tmp_path, dialect=dialect), synth.suite(4, split="train"))


def test_examples_with_the_same_id_are_refused(tmp_path):
    example = synth.draw("scene", 0)
    with pytest.raises(DataError, match="1 examples have an id that another one has"):
        make_trainer(small(tmp_path), [example, example])


def test_what_vllm_is_given():
    """It repeats the pad of an image itself, and shrinks an image by its own limits: both would change what was counted."""
    assert one_pad_an_image([1, 9, 9, 9, 2, 9, 3, 9, 9], pad=9) == [1, 9, 2, 9, 3, 9]
    large = Image.new("RGB", (1000, 700))
    assert as_counted(ImageView(large, 1.0, 280, 196, 70)).size == (280, 196)
    assert as_counted(ImageView(large, 1.0, 1000, 700, 900)) is large
    assert TrainConfig().to_trl(on_cpu=True, bridge_tokens=9, longest=99, never_sampled=[7]).vllm_max_model_length == 99


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
    assert error == f"error: model {tmp_path / 'text'}: qwen2 is not supported; choose one of qwen2_5_vl, qwen3_vl\n"
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
