"""GRPO with vLLM: what it is given, and whole runs with vLLM in the trainer's process and behind a server.

The runs train the embedded base model, with heads of 64, for three steps in float32 on questions about images above the
processor's limit; a quarter of them answer by force, and a quarter ask by force.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from launching import torchrun
from PIL import Image
from servers import serving
from training import rollout_batch, small
from vllm_environment import environment, vllm_python
from wide_heads import widened

from visionthink.action_space import ActionSpace
from visionthink.data import synth
from visionthink.menu import Menu
from visionthink.picture import Picture
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.policies.render import one_pad_an_image
from visionthink.train.config import TrainConfig
from visionthink.train.saving import merged
from visionthink.train.trainer import make_trainer
from visionthink.train.vllm import as_counted, pad_runs, sampled
from visionthink.types import Failure, Look

SCRIPT = Path(__file__).parent / "vllm_training.py"


def test_prompts_as_vllm_takes_them():
    """It repeats the pad of an image itself; a server is told where images stand."""
    assert one_pad_an_image([1, 9, 9, 9, 2, 9, 3, 9, 9], pad=9) == [1, 9, 2, 9, 3, 9]
    assert pad_runs([1, 9, 9, 9, 2, 9, 3, 9, 9], pad=9) == [(1, 3), (5, 1), (7, 2)]
    assert pad_runs([1, 2], pad=9) == []
    arguments = TrainConfig().to_trl(processes=1, on_cpu=True, bridge_tokens=9, longest=99, never_sampled=[7])
    assert arguments.vllm_max_model_length == 99


@pytest.mark.parametrize("size", [(112, 112), (1000, 700), (336, 112), (20, 20), (97, 131)])
@pytest.mark.parametrize("level", [0.25, 1.0])
def test_images_have_the_size_and_the_pixels_that_are_trained_on(tiny, size, level):
    """Views of a ladder: at the highest level they have the file's own size, which vLLM would shrink by limits of its own."""
    noise = Image.effect_noise(size, 100).convert("RGB")
    picture = Picture.open(noise)
    space = ActionSpace(Menu(), (picture.size,), tiny.budget)
    [view] = space.render([Look(space.image_boxes, level)], (picture,))
    image = as_counted(view, tiny.budget)
    assert (image.width // 28) * (image.height // 28) == view.visual_tokens and image.width % 28 == image.height % 28 == 0
    theirs, ours = (tiny.image_processor(images=[i], return_tensors="pt") for i in (view.image, image))
    assert theirs["image_grid_thw"].tolist() == ours["image_grid_thw"].tolist()
    assert torch.equal(theirs["pixel_values"], ours["pixel_values"])


def test_a_turn_of_other_ids_than_were_meant_is_a_failure():
    assert sampled([1, 9, 9], [1, 9, 9], [4, 5], [-0.5, -0.25]).logprobs == (-0.5, -0.25)
    assert sampled([1, 9, 9], [1, 9], [4, 5], [-0.5, -0.25]).failure == Failure(
        "bad_request", "vLLM read 2 tokens where 3 were meant: it sees images of other sizes"
    )
    assert sampled([1], [1], [4, 5], [-0.5, None]).failure == Failure("server", "the model's logits are not numbers")


def test_an_adapter_is_added_to_copies(tmp_path):
    """In bfloat16 adding it and taking it away again moves the weights; copies leave them alone, to the bit."""
    trainer = make_trainer(small(tmp_path, lora_rank=4), synth.suite(4, split="train"))
    model, plain = trainer.model, open_checkpoint("tiny-base").model
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn_like(weight) * 0.02
        else:
            weight.data = weight.data.bfloat16()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        exact = merged(dict(model.named_parameters()), model.peft_config["default"])
        copies = {name: weight.bfloat16() for name, weight in exact}
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert {n: w.shape for n, w in copies.items()} == {n: w.shape for n, w in plain.named_parameters()}
    stored = dict(plain.named_parameters())
    added = {name for name, weight in copies.items() if not torch.equal(weight, stored[name].bfloat16())}
    assert added and all(name.rpartition(".")[0].endswith("_proj") for name in added)

    model.merge_adapter()
    theirs = {name.replace(".base_layer", ""): w.clone() for name, w in model.get_base_model().named_parameters()}
    model.unmerge_adapter()
    assert all(torch.allclose(copies[name].float(), theirs[name].float(), atol=1e-2) for name in added)
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())


@pytest.mark.parametrize("context, turns", [(45, {2}), (10, {1, 2})])
def test_a_turn_that_fails_takes_no_images_from_the_others(tmp_path, context, turns):
    """TRL drops the images of all rollouts where those of one are not as many as its ids say."""
    trainer = make_trainer(small(tmp_path, share="off", forced=1, exclude=""), synth.suite(4, split="train"))
    trainer.model.config.get_text_config().max_position_embeddings = context
    batch = rollout_batch(trainer)
    failed = [t for t in trainer.transcripts() if t.stop_reason == "policy_error"]
    assert {len(t.turns) for t in failed} == turns
    assert batch["pixel_values"].shape[0] > 0
    loss = trainer.compute_loss(trainer.model, batch)
    assert torch.isfinite(loss)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return widened(Path(resolve("tiny-base")), tmp_path_factory.mktemp("wide") / "tiny-base")


def trained(folder: Path, base: Path, *kind: str, launch: Sequence[str] = ()) -> dict:
    """What tests/vllm_training.py writes."""
    done = subprocess.run(
        [str(vllm_python()), *launch, str(SCRIPT), str(folder), str(base), *kind],
        cwd=SCRIPT.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "vllm.json").read_text("utf-8"))


def check(run: dict, share: int = 1) -> None:
    """Ids of every prompt, and the log-probabilities of every token that is learnt from, on one of `share` processes."""
    assert len(run["rows"]) > 100 / share and all(row["equal"] for row in run["rows"])
    assert {row["visual_tokens"] for row in run["rows"]} >= {4, 4 + 9, 2, 2 + 5}
    rollouts = run["rollouts"]
    assert len(rollouts) == 3 * 8 * 4 / share and {r["step"] for r in rollouts} == {0, 1, 2}
    by_force = {name: [r for r in rollouts if r["forced"] == name] for name in (None, "direct", "request")}
    assert all(2 in {r["turns"] for r in by_force[name]} for name in (None, "request"))
    assert {r["turns"] for r in by_force["direct"]} == {1}
    # never more likely to the trainer, and less so by what the tokens that are never sampled would have had there: by itself the
    # base model gives them up to 0.0013. Of an answer by force a request is another such token
    assert all(r["largest"] < 1e-4 for r in rollouts)
    assert all(r["least"] > -2e-3 for name in (None, "request") for r in by_force[name])
    assert all(r["least"] > -0.05 for r in by_force["direct"])
    assert sum(r["least"] > -1e-4 for r in by_force[None]) > 0.5 * len(by_force[None])


@pytest.mark.slow
@pytest.mark.network
def test_vllm_in_the_trainers_process(base, tmp_path):
    run = trained(tmp_path, base, "full")
    check(run)
    assert run["changed"] == ["language_model", "visual"]
    assert max(run["off"]) < 1e-4 < 1e-3 < run["off with old features"]
    assert [reason for reason, _ in run["mistold"]] == ["stop", "error", "stop"]
    assert "it sees images of other sizes" in run["mistold"][1][1]


@pytest.mark.slow
@pytest.mark.network
def test_an_adapter_with_vllm(base, tmp_path):
    run = trained(tmp_path, base, "adapter")
    check(run)
    assert run["changed"] == ["adapter"]


@pytest.mark.slow
@pytest.mark.network
def test_a_server_of_vllm(base, tmp_path):
    """For one training process and for two, which may need different numbers of turns. All is real but the way of the weights,
    which is a file here and NCCL between GPUs."""
    options = "--dtype float32 --max-model-len 4096 --enforce-eager --max-num-seqs 32 --block-size 32 --enable-scale-out"
    more = "--logprobs-mode processed_logprobs --max-logprobs -1"
    command = [str(vllm_python()), str(SCRIPT.with_name("vllm_server.py")), "--model", str(base), *f"{options} {more}".split()]
    (tmp_path / "two").mkdir()
    with serving(command, environment(VLLM_SERVER_DEV_MODE="1"), seconds=300) as url:
        run = trained(tmp_path, base, "server", url)
        two = [trained(tmp_path / "two", base, "server", url, launch=torchrun(2))]
    two.append(json.loads((tmp_path / "two" / "vllm-1.json").read_text("utf-8")))
    check(run)
    for half in two:
        check(half, share=2)
    for each in (run, *two):
        assert each["changed"] == ["language_model", "visual"]
        assert max(each["off"]) < 1e-4
