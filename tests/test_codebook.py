"""Codes in the place of a vision tower: the quantiser, the tokenizer, and a model with it that is opened as any other."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import visionthink
from visionthink.cli import main
from visionthink.compress.fastv import FastV
from visionthink.compress.session import compress
from visionthink.data import synth
from visionthink.engine.codebook import CodebookConfig, CodebookTokenizer, quantise
from visionthink.errors import CompressionError, ModelError, OptionError
from visionthink.policies.checkpoint import open_checkpoint
from visionthink.policies.local import LocalPolicy
from visionthink.recipes.ett_report import write_report
from visionthink.recipes.ett_runs import run
from visionthink.recipes.ett_stages import (
    ENTROPY,
    Plan,
    answer_logits,
    build_image_processor,
    build_model,
    questions,
    tokenizer_loss,
)
from visionthink.recipes.fitting import Answers
from visionthink.train.demonstrations import collate

SMALL = Plan(questions=96, tests=48, rebuild=30, plain=10, restart=30, align=2, tune=2)


@pytest.fixture(scope="module")
def tokenizer() -> CodebookTokenizer:
    torch.manual_seed(0)
    return CodebookTokenizer(CodebookConfig())


@pytest.fixture(scope="module")
def base():
    return open_checkpoint("tiny", device="cpu")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """All of the recipe, in small."""
    out = tmp_path_factory.mktemp("ett") / "run"
    run(out, plan=SMALL)
    return out


# ------------------------------------------------------------------------------------------------ quantiser


def test_the_quantiser_by_hand():
    codes = quantise(torch.tensor([[0.6, 0.2]]), torch.eye(2))
    assert codes.indices.tolist() == [0]
    assert codes.values.tolist() == [[1.0, 0.0]]
    assert codes.loss.item() == pytest.approx(0.1 + 0.1 + 0.25 * 0.1)  # each term: (0.4^2 + 0.2^2) / 2


def test_a_vector_that_is_a_code_costs_nothing():
    codes = quantise(torch.tensor([[0.0, 1.0]]), torch.eye(2))
    assert codes.indices.tolist() == [1] and codes.loss.item() == pytest.approx(0, abs=1e-6)


def test_entropy_is_low_where_all_codes_are_in_use():
    both = quantise(torch.eye(2), torch.eye(2), 0.01)
    one = quantise(torch.eye(2)[[0, 0]], torch.eye(2), 0.01)
    assert both.entropy.item() == pytest.approx(-math.log(2), abs=1e-5)
    assert one.entropy.item() == pytest.approx(0, abs=1e-5)


def test_every_code_learns_in_every_step():
    z = torch.tensor([[0.6, 0.2]])
    codebook = torch.eye(2).requires_grad_()
    quantise(z, codebook).loss.backward()
    assert codebook.grad is not None and codebook.grad[1].abs().sum() > 0
    plain = torch.eye(2).requires_grad_()  # van den Oord et al., arXiv 1711.00937: the nearest code alone
    F.mse_loss(plain[(z @ plain.T).argmax(-1)], z).backward()
    assert plain.grad is not None and plain.grad[0].abs().sum() > 0 and plain.grad[1].abs().sum() == 0


# ------------------------------------------------------------------------------------------------ tokenizer


def test_patches_are_the_image_again(base, tokenizer):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8))
    made = build_image_processor(base)(images=[image], return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 2, 3]]
    images = tokenizer.images(made["pixel_values"], made["image_grid_thw"])
    wanted = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    torch.testing.assert_close(images, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_indices_are_enough_to_rebuild_an_image(tokenizer):
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    codes = tokenizer.quantise(tokenizer.encode(images))
    assert codes.indices.shape == (2, 4, 4) and tokenizer.decode(codes.values).shape == images.shape
    again = F.normalize(tokenizer.codebook.weight, dim=-1)[codes.indices]
    torch.testing.assert_close(again, codes.values, atol=1e-5, rtol=0)


@torch.no_grad()
def test_images_of_several_sizes_are_read_as_one_by_one(tokenizer):
    grids = torch.tensor([[1, 4, 4], [1, 2, 2], [1, 4, 4], [1, 1, 3]])
    patches = torch.rand(int(grids.prod(-1).sum()), 3 * 2 * 28 * 28)
    together = tokenizer(patches, grid_thw=grids).pooler_output
    alone = [
        tokenizer(part, grid_thw=grid[None]).pooler_output
        for part, grid in zip(patches.split(grids.prod(-1).tolist()), grids, strict=True)
    ]
    assert together.shape == (39, 160)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_code_costs_the_same_in_any_image(tokenizer):
    convolutions = 2 * 49 * 48 * 48 + 2 * 49 * 48 * 128 + 4 * 2 * 9 * 128 * 128 + 2 * 128 * 32
    each = convolutions + 3 * 2 * 32 * 512 + 2 * (32 * 160 + 160 * 160)
    assert each == 2_175_488
    for rows, columns in ((4, 4), (1, 3)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            tokenizer(torch.rand(rows * columns, 3 * 2 * 28 * 28), grid_thw=torch.tensor([[1, rows, columns]]))
        assert counter.get_total_flops() == rows * columns * each


def test_answers_reach_the_encoder_and_alone_no_pixel(base):
    [batch] = questions(base, 8, "train")
    model = build_model(base, scale=10.0)
    tokenizer = model.model.visual
    codes = tokenizer.quantise(tokenizer.encode(batch.pixels))
    F.cross_entropy(*answer_logits(model, batch, tokenizer.project(codes))).backward(retain_graph=True)
    assert tokenizer.encoder[1].weight.grad.abs().sum() > 0 and tokenizer.codebook.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in tokenizer.pixels.parameters())
    loss = tokenizer_loss(tokenizer, codes, batch.pixels, 0.05)
    loss.backward()
    assert all(p.grad is not None for p in tokenizer.pixels.parameters())
    error = F.mse_loss(tokenizer.decode(codes.values), batch.pixels)
    assert loss.item() == pytest.approx((error / 0.05 + codes.loss + ENTROPY * codes.entropy).item())


# ------------------------------------------------------------------------------------------------ recipe


def test_what_the_recipe_leaves(done):
    record = json.loads((done / "report" / "results.json").read_text())
    assert [row["arm"] for row in record["arms"]] == ["aligned", "index", "frozen", "joint", "answers"]
    by_name = {row["arm"]: row for row in record["arms"]}
    assert by_name["frozen"]["error"] == by_name["index"]["error"] == by_name["aligned"]["error"]  # frozen is frozen
    assert by_name["joint"]["error"] != by_name["aligned"]["error"]
    assert "| joint, alpha 0.25 |" in (done / "report" / "table.md").read_text()
    with Image.open(done / "report" / "pictures.png") as picture:
        assert picture.size == (8 * 116, 4 * 128)
    begun, frozen = (open_checkpoint(str(done / "seed-0" / name)).model.model.visual for name in ("aligned", "frozen"))
    same = {name for name, x in begun.state_dict().items() if torch.equal(x, frozen.state_dict()[name])}
    assert set(begun.state_dict()) - same == {"projector.0.weight", "projector.0.bias", "projector.2.weight", "projector.2.bias"}


@pytest.mark.parametrize(
    ("answers", "error", "shown", "sentence"),
    [
        (0.625, 0.24, True, "+12.5 points of answers, +20 % of the error; at least +5 points at no more than +20 %: shown."),
        (0.54, 0.1, False, "+4.0 points of answers, -50 % of the error; at least +5 points at no more than +20 %: not shown."),
        (0.625, 0.25, False, "+12.5 points of answers, +25 % of the error; at least +5 points at no more than +20 %: not shown."),
    ],
)
def test_the_verdict_of_the_report(tmp_path, answers, error, shown, sentence):
    plain = {"answers": 0.5, "error": 0.2, "codes": 9, "perplexity": 8.0, "cpu_seconds": 1}
    arms = dict.fromkeys(("aligned", "index", "frozen", "answers"), plain)
    arms["joint"] = plain | {"answers": answers, "error": error}
    pictures = dict.fromkeys(("original", "aligned", "joint", "answers"), torch.zeros(1, 3, 8, 8))
    record = write_report(tmp_path, [{"arm": name, **numbers} for name, numbers in arms.items()], pictures)
    assert record["verdict"]["shown"] is shown
    assert sentence in (tmp_path / "table.md").read_text()


def test_it_goes_on_where_it_was_interrupted(done, tmp_path, capfd):
    again = Path(shutil.copytree(done, tmp_path / "run"))
    shutil.rmtree(again / "final")
    (again / "seed-0" / "joint.json").unlink()
    before = json.loads((done / "report" / "results.json").read_text())
    record = run(again, plan=SMALL)
    said = capfd.readouterr().err
    assert "seed 0, joint: 2 of 2" in said and "tokenizer" not in said and "frozen" not in said
    numbers = [{k: v for k, v in each.items() if k != "cpu_seconds"} for each in record["runs"]]
    assert numbers == [{k: v for k, v in each.items() if k != "cpu_seconds"} for each in before["runs"]]
    with pytest.raises(OptionError, match="tune was 2 there and is 3 now"):
        run(again, plan=Plan(**{**vars(SMALL), "tune": 3}))


def test_training_sees_what_the_opened_model_computes(done, base):
    opened, answers = open_checkpoint(str(done / "final")), Answers(synth.suite(8, split="test", cells=synth.BALANCED), base)
    inputs = collate(list(answers), answers.renderer, opened.image_processor)
    labels = inputs.pop("labels")[:, 1:]
    [batch] = questions(base, 8, "test")
    tokenizer = opened.model.model.visual
    with torch.no_grad():
        logits, targets = answer_logits(
            opened.model, batch, tokenizer.project(tokenizer.quantise(tokenizer.encode(batch.pixels)))
        )
        stock = opened.model(**inputs).logits[:, :-1][labels != -100]
    assert torch.equal(targets, labels[labels != -100])
    torch.testing.assert_close(logits, stock, atol=1e-3, rtol=1e-4)


def test_policies_work_unchanged(done, tmp_path):
    printed = io.StringIO()
    command = ["eval", "mini", "--model", str(done / "final"), "--policy", "full,adaptive", "--limit", "12", "--json"]
    with contextlib.redirect_stdout(printed):
        assert main([*command, "--out", str(tmp_path / "eval")]) == 0
    full, adaptive = json.loads(printed.getvalue())["runs"]
    assert full["n"] == 12 and full["retain_cumulative"] == 1.0 and full["visual_tokens"] == 16
    assert full["flops"] is None  # is not counted for a tokenizer
    assert adaptive["n"] == 12


def test_the_engine_and_generate_say_the_same(done):
    opened = open_checkpoint(str(done / "final"))
    policy = LocalPolicy(opened, max_new_tokens=8)
    model = visionthink.load(str(done / "final"), max_new_tokens=8)
    histories = [model.episode(example).history for example in synth.suite(4)]
    shared, whole = policy.complete(histories), policy.reading_whole().complete(histories)
    assert [one.token_ids for one in shared] == [other.token_ids for other in whole]


def test_nothing_is_taken_out_of_codes(done):
    opened = open_checkpoint(str(done / "final"))
    with (
        pytest.raises(CompressionError, match="visionthink_codebook: tokens can be taken out of"),
        compress(opened.model, FastV(keep=0.5)),
    ):
        pass


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"codes": None}, "config.json: vision_config lacks codes"),
        ({"codes": 64}, r"config.json: model.visual.codebook.weight would be \[64, 32\], and is \[512, 32\] in the weights"),
        ({"indexed": True}, "model.visual.projector.weight is missing from the weights"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(done, tmp_path, changed, said):
    folder = Path(shutil.copytree(done / "final", tmp_path / "final"))
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= changed
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        open_checkpoint(str(folder))


@pytest.mark.slow
def test_tuned_codes_beat_frozen_ones(tmp_path):
    """With half of the recipe's updates."""
    record = run(tmp_path / "run", plan=Plan(rebuild=500, plain=75, restart=250, align=150, tune=325))
    by_name = {row["arm"]: row for row in record["arms"]}
    assert by_name["aligned"]["codes"] > 300
    assert by_name["joint"]["answers"] - by_name["frozen"]["answers"] >= 0.05
    assert by_name["joint"]["error"] <= 1.2 * by_name["frozen"]["error"]
    assert by_name["answers"]["error"] > 1.5 * by_name["joint"]["error"]  # alpha 0 unlearns the images
