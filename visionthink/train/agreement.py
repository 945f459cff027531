"""Whether shared prefixes give what rows by themselves give, tried at the start of a run on a few of its own rollouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl import GRPOTrainer

from visionthink.train.rollouts import Rollout
from visionthink.train.sequences import sequences

MOST = 4
"""Rollouts that are computed both ways."""
PARAMETERS = 8
"""Trainable parameters whose gradients are compared, evenly spaced among all: those of all would take as much memory again."""
EXACT = 1e-4
"""Allowed in float32, of log-probabilities and, relative to their length, of gradients."""
SPREAD = 4.0
"""Allowed in half precision, in units of what padding alone changes."""


def difference(trainer: Any, rollouts: Sequence[Rollout], rows: Sequence[int]) -> str:
    """How log-probabilities or gradients of these rows differ between both ways; empty if they agree.

    The rows without shared prefixes are TRL's own pass. In half precision its spread is measured by padding the rows further,
    which may round as before: it is taken to be at least one rounding.
    """
    shared = _measured(trainer, trainer.scored(rows), rollouts, rows)
    plain = _measured(trainer, _plain(trainer, rollouts, rows), rollouts, rows)
    allowed = [EXACT, EXACT]
    dtype = torch.bfloat16 if trainer.accelerator.native_amp else trainer.trained().dtype
    if dtype != torch.float32:  # log-probabilities are in float32 all the same
        again = _apart(plain, _measured(trainer, _plain(trainer, rollouts, rows, padding=7), rollouts, rows))
        rounding = torch.finfo(dtype).eps
        least = (rounding * float(plain[0].abs().max()), rounding)
        allowed = [SPREAD * max(apart, one) for apart, one in zip(again, least, strict=True)]
    found, sampled = _apart(plain, shared), _sampled(trainer, rollouts, rows, shared[0])
    if sampled > allowed[0]:
        return f"log-probabilities differ by up to {sampled:.1e} (allowed {allowed[0]:.1e}) from those that were sampled with"
    if all(apart <= most for apart, most in zip(found, allowed, strict=True)):
        return ""
    return (
        f"log-probabilities differ by up to {found[0]:.1e} (allowed {allowed[0]:.1e}), gradients by {found[1]:.1e} of their "
        f"length (allowed {allowed[1]:.1e})"
    )


def _sampled(trainer: Any, rollouts: Sequence[Rollout], rows: Sequence[int], logprobs: Tensor) -> float:
    """How far the log-probabilities with which tokens were sampled are from those of the same tokens in the pass that is learnt
    from. At another temperature than 1 the two are not of the same distribution; 0 then."""
    said = [
        logprob
        for turns in (rollouts[i].transcript.turns for i in rows)
        for turn in turns
        for logprob in (*[math.nan] * len(turn.prompt_ids), *(turn.logprobs or [math.nan] * len(turn.token_ids)))
    ]
    learnt = np.concatenate([rollouts[i].loss_mask for i in rows]) == 1
    apart = np.abs(np.array(said)[learnt] - logprobs.cpu().numpy())
    return float(np.nanmax(apart, initial=0.0)) if trainer.temperature == 1 else 0.0


def some(rollouts: Sequence[Rollout]) -> list[int]:
    """Rollouts to try: short ones of which something is learnt, with and without a request."""
    learnt = sorted((i for i, r in enumerate(rollouts) if any(r.loss_mask)), key=lambda i: len(rollouts[i].loss_mask))
    asked = [i for i in learnt if rollouts[i].transcript.requested]
    direct = [i for i in learnt if i not in asked]
    half = MOST // 2
    return [*asked[: max(half, MOST - len(direct))], *direct[: max(half, MOST - len(asked))]]


def _measured(trainer: Any, logprobs: Tensor, rollouts: Sequence[Rollout], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of what is learnt from, and gradients of a sum of them with alternating weights."""
    masks = [rollouts[i].loss_mask[len(rollouts[i].transcript.turns[0].prompt_ids) :] for i in rows]
    learnt = torch.cat(
        [logprobs[i, : len(mask)][torch.tensor(mask, device=logprobs.device) == 1] for i, mask in enumerate(masks)]
    )
    weights = torch.linspace(-1, 1, len(learnt), device=learnt.device)
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    chosen = [trainable[i] for i in torch.linspace(0, len(trainable) - 1, PARAMETERS).long().unique().tolist()]
    gradients = torch.autograd.grad((learnt * weights).sum(), chosen, allow_unused=True)
    return learnt.detach(), torch.cat([g.float().flatten() for g in gradients if g is not None])


def _apart(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[float, float]:
    if one[1].shape != other[1].shape:  # a gradient that is missing
        return float((one[0] - other[0]).abs().max()), float("inf")
    gradients = (one[1] - other[1]).norm() / one[1].norm().clamp(min=1e-12)
    return float((one[0] - other[0]).abs().max()), float(gradients)


def _plain(trainer: Any, rollouts: Sequence[Rollout], rows: Sequence[int], padding: int = 0) -> Tensor:
    """TRL's own log-probabilities [rows, width] of the sequences of rows side by side, each with its own images."""
    chosen = [(row, rollouts[i], sequence) for row, i in enumerate(rows) for sequence in sequences(rollouts[i].transcript)]
    openings = [len(rollout.transcript.turns[0].prompt_ids) for _, rollout, _ in chosen]
    ids = [sequence.ids.tolist() for *_, sequence in chosen]
    left, right = max(openings) + padding, max(len(i) - n for i, n in zip(ids, openings, strict=True)) + padding
    pad, device = trainer.checkpoint.tokenizer.pad_token_id, trainer.accelerator.device
    before = [left - n for n in openings]
    after = [right - len(i) + n for i, n in zip(ids, openings, strict=True)]
    input_ids = torch.tensor([[pad] * b + i + [pad] * a for b, i, a in zip(before, ids, after, strict=True)], device=device)
    mask = torch.tensor([[0] * b + [1] * len(i) + [0] * a for b, i, a in zip(before, ids, after, strict=True)], device=device)
    images = [rollout.images[: sequence.views] for _, rollout, sequence in chosen]
    pixels = trainer.checkpoint.image_processor(images=[image for row in images for image in row], return_tensors="pt")
    logprobs, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(
        trainer,
        trainer.accelerator.unwrap_model(trainer.model),
        input_ids,
        mask,
        right,
        pixel_values=pixels["pixel_values"].to(device),
        image_grid_thw=pixels["image_grid_thw"].to(device),
        num_images=[len(row) for row in images],
        mm_token_type_ids=((input_ids == trainer.engine.pad) & (mask == 1)).long(),
    )
    by_rollout = logprobs.new_zeros((len(rows), max(sequence.columns.max() for *_, sequence in chosen) + 1))
    for (row, _, sequence), n, of_sequence in zip(chosen, openings, logprobs, strict=True):
        columns = sequence.columns[n:]
        own = np.flatnonzero(columns >= 0)
        by_rollout[row, (columns[own] - n).tolist()] = of_sequence[own.tolist()]
    return by_rollout
