"""The loss is Eq. 3 of the paper, and its gradients go where they should."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from training import rollout_batch, small

from visionthink.data import synth
from visionthink.train.trainer import make_trainer


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
    config = dataclasses.replace(small(tmp_path, forced=2, group_size=6, exclude="", share="off"), model=str(qwen3_folder))
    trainer = make_trainer(config, synth.suite(8, split="train"))
    inputs = rollout_batch(trainer)
    assert set(inputs["num_images"]) == {1, 2}
    batched = batched_logprobs(trainer, inputs)
    for i in range(len(trainer.step.rollouts)):
        alone = plain_logprobs(trainer, inputs, i)
        assert torch.allclose(alone, batched[i, : len(alone)], atol=1e-5)


def test_loss_is_equation_3(tmp_path):
    """-1/G sum_i 1/|I_i| sum_t I_it [min(rho A, clip(rho, .8, 1.2) A) - beta (e^(ref-p) - (ref-p) - 1)], written by hand over
    unpadded sequences; I is 1 for sampled tokens."""
    eps, beta = 0.2, 0.05
    trainer = make_trainer(small(tmp_path, kl_coef=beta, group_size=6, share="off"), synth.suite(12, split="train"))
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
