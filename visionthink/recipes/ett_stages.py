"""The stages of `recipes.ett`: questions, model, training and measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2VLImageProcessorPil

from visionthink.data import synth
from visionthink.engine.codebook import (
    CodebookConfig,
    CodebookForConditionalGeneration,
    CodebookTokenizer,
    CodebookVLConfig,
    Codes,
)
from visionthink.policies.checkpoint import Checkpoint
from visionthink.policies.render import Renderer
from visionthink.progress import stage
from visionthink.recipes.fitting import Answers
from visionthink.train.demonstrations import Demonstration, collate

ALPHA = 0.25
"""The paper's weight of L_vq beside the loss of the text."""
ENTROPY = 0.05
BATCH = 24


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A variant of stage 3. `alpha` is the weight of L_vq; None freezes the tokenizer."""

    alpha: float | None = None
    indexed: bool = False


ARMS: Mapping[str, Arm] = {
    "frozen": Arm(),
    "joint": Arm(alpha=ALPHA),
    "answers": Arm(alpha=0.0),
    "index": Arm(indexed=True),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Numbers of questions, and of optimizer updates of each stage with `BATCH` questions each."""

    questions: int = 2_880
    tests: int = 480
    rebuild: int = 1_000
    plain: int = 150
    """The first updates of `rebuild`, without codes."""
    restart: int = 500
    """The update of `rebuild` until which unused codes get new values."""
    align: int = 300
    tune: int = 650


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Questions with their answers, padded on the right."""

    ids: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor
    """[batch, length], -100 outside of the answers."""
    images: Tensor
    """uint8 [batch, 3, height, width]."""
    features: Tensor
    """Visual tokens of the base model for them: [batch, tokens, hidden]."""

    @property
    def pixels(self) -> Tensor:
        """The images with values from -1 to 1."""
        return self.images.float() / 127.5 - 1


# ------------------------------------------------------------------------------------------------ questions


def questions(base: Checkpoint, n: int, split: str) -> list[Batch]:
    """Batches of `n` generated questions with their answers, balanced over families and needs, each with the full view."""
    answers, found = Answers(synth.suite(n, split=split, cells=synth.BALANCED), base), []
    with stage(f"questions, {split}", n) as advance:
        for begin in range(0, n, BATCH):
            demonstrations = [answers[i] for i in range(begin, min(begin + BATCH, n))]
            found.append(_batch(base, demonstrations, answers.renderer))
            advance(len(demonstrations))
    return found


def _batch(base: Checkpoint, demonstrations: Sequence[Demonstration], renderer: Renderer) -> Batch:
    rows = collate(demonstrations, renderer, base.image_processor)
    inner, grid = base.model.model, rows["image_grid_thw"]
    ids, mask = rows["input_ids"], rows["attention_mask"]
    with torch.no_grad():
        features = torch.cat(tuple(inner.get_image_features(rows["pixel_values"], grid).pooler_output))
    positions, _ = inner.get_rope_index(
        input_ids=ids, mm_token_type_ids=rows["mm_token_type_ids"], image_grid_thw=grid, attention_mask=mask
    )
    images = np.stack([np.asarray(demonstration.images[0]) for demonstration in demonstrations])
    return Batch(
        ids=ids,
        mask=mask,
        positions=positions,
        labels=rows["labels"],
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        features=features.unflatten(0, (len(demonstrations), -1)),
    )


def variance(batches: Sequence[Batch]) -> float:
    """Variance of pixels around the mean of their image and channel."""
    return float(np.mean([batch.pixels.var((2, 3), correction=0).mean().item() for batch in batches]))


# ------------------------------------------------------------------------------------------------ model


def build_model(base: Checkpoint, *, scale: float, indexed: bool = False) -> CodebookForConditionalGeneration:
    """A model of a tokenizer with random weights and the decoder of the base model."""
    theirs, text = base.model.config, base.model.config.text_config
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "tie_word_embeddings")
    config = CodebookVLConfig(
        text_config=text.to_dict(),
        vision_config=CodebookConfig(out_hidden_size=text.hidden_size, scale=scale, indexed=indexed).to_dict(),
        **{name: getattr(theirs, name) for name in ids},
    )
    model = CodebookForConditionalGeneration(config)
    model.model.language_model.load_state_dict(base.model.model.language_model.state_dict())
    model.lm_head.load_state_dict(base.model.lm_head.state_dict())
    model.generation_config = base.model.generation_config
    if indexed:
        torch.nn.init.normal_(model.model.visual.projector.weight, std=0.1)
    return model


def build_image_processor(base: Checkpoint) -> Qwen2VLImageProcessorPil:
    """An image processor with the sizes of the base model, patches of one code, and pixel values from -1 to 1."""
    config, half = CodebookConfig(), [0.5] * 3
    return Qwen2VLImageProcessorPil(
        size=dict(base.image_processor.size), patch_size=config.patch_size, merge_size=1, image_mean=half, image_std=half
    )


def answer_logits(model: Any, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [answer tokens, vocabulary] of the answers, given the tokens before each, and the ids of the answer tokens."""
    embeds = model.get_input_embeddings()(batch.ids)
    embeds = embeds.masked_scatter((batch.ids == model.config.image_token_id)[..., None], features)
    hidden = model.model(
        inputs_embeds=embeds, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
    ).last_hidden_state
    targets = batch.labels[:, 1:]
    return model.lm_head(hidden[:, :-1][targets != -100]), targets[targets != -100]


# ------------------------------------------------------------------------------------------------ stages


def optimise(
    what: str,
    groups: Sequence[tuple[float, Sequence[Tensor]]],
    steps: int,
    batches: Sequence[Batch],
    loss_of: Callable[[Batch, int], Tensor],
    seed: int,
) -> None:
    """Take optimizer steps of AdamW on random batches.

    Args:
        groups: learning rates and their parameters; rates rise for 20 steps and then fall linearly to a twentieth.
        loss_of: the loss of a batch, given the batch and the number of the step.
    """
    optimizer = torch.optim.AdamW([{"params": list(own), "lr": rate} for rate, own in groups], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1, (i + 1) / 20) * max(0.05, 1 - i / steps))
    trained, rng = [p for _, own in groups for p in own], np.random.default_rng(seed)
    with stage(what, steps) as advance:
        for i in range(steps):
            loss = loss_of(batches[int(rng.integers(len(batches)))], i)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            advance(1, f"loss {loss.item():.3f}")


def tokenizer_loss(tokenizer: CodebookTokenizer, codes: Codes, pixels: Tensor, scale: float) -> Tensor:
    """L_vq; `scale` is the variance of the pixels."""
    return F.mse_loss(tokenizer.decode(codes.values), pixels) / scale + codes.loss + ENTROPY * codes.entropy


def rebuild(tokenizer: CodebookTokenizer, batches: Sequence[Batch], plan: Plan, seed: int) -> None:
    """Stage 1: train encoder, codebook and pixel decoder to rebuild images."""
    scale, draw = variance(batches), torch.Generator().manual_seed(seed)
    weights, used = tokenizer.codebook.weight, torch.zeros(tokenizer.config.codes)

    def restart(dead: Tensor, z: Tensor) -> None:
        chosen = z.flatten(0, -2)[torch.randint(z[..., 0].numel(), (int(dead.sum()),), generator=draw)]
        weights.data[dead] = chosen + 0.02 * torch.randn(chosen.shape, generator=draw)
        used[dead] = 1.0

    def loss_of(batch: Batch, i: int) -> Tensor:
        pixels = batch.pixels
        z = tokenizer.encode(pixels)
        if i < plan.plain:
            return F.mse_loss(tokenizer.decode(z), pixels) / scale
        if i == plan.plain:
            with torch.no_grad():
                restart(used == 0, torch.cat([tokenizer.encode(some.pixels) for some in batches[:8]]))
        elif i < plan.restart and i % 40 == 0:
            restart(used < 0.3, z.detach())
        codes = tokenizer.quantise(z)
        used.mul_(0.98).add_(torch.bincount(codes.indices.flatten(), minlength=len(used)))
        return tokenizer_loss(tokenizer, codes, pixels, scale)

    own = [p for name, p in tokenizer.named_parameters() if not name.startswith("projector.")]
    optimise(f"seed {seed}, tokenizer", [(2e-3, own)], plan.rebuild, batches, loss_of, seed)


def align(model: Any, batches: Sequence[Batch], plan: Plan, seed: int) -> None:
    """Stage 2: train the projector alone, by the answers and by the distance from the visual tokens of the base model."""
    model.requires_grad_(False)
    tokenizer: CodebookTokenizer = model.model.visual
    tokenizer.projector.requires_grad_(True)
    deviation = torch.cat([batch.features.flatten(0, 1) for batch in batches]).std(0)

    def loss_of(batch: Batch, i: int) -> Tensor:
        features = tokenizer.project(tokenizer.quantise(tokenizer.encode(batch.pixels)))
        distance = ((features.flatten(1, 2) - batch.features) / deviation).square().mean()
        return F.cross_entropy(*answer_logits(model, batch, features)) + distance

    groups = [(2e-3, [*tokenizer.projector.parameters()])]
    optimise(f"seed {seed}, alignment", groups, plan.align, batches, loss_of, seed)


def tune(model: Any, name: str, batches: Sequence[Batch], plan: Plan, seed: int) -> None:
    """Stage 3: train the decoder, the projector and, in some arms, the tokenizer."""
    arm, scale = ARMS[name], variance(batches)
    tokenizer: CodebookTokenizer = model.model.visual
    tokenizer.requires_grad_(arm.alpha is not None).projector.requires_grad_(True)

    def loss_of(batch: Batch, i: int) -> Tensor:
        pixels = batch.pixels
        codes = tokenizer.quantise(tokenizer.encode(pixels))
        loss = F.cross_entropy(*answer_logits(model, batch, tokenizer.project(codes)))
        return loss + arm.alpha * tokenizer_loss(tokenizer, codes, pixels, scale) if arm.alpha else loss

    # a row of the embedding table gets gradients only from images that contain its code, hence the higher rate
    projector = (5e-3 if arm.indexed else 1e-3, [*tokenizer.projector.parameters()])
    own = [p for key, p in tokenizer.named_parameters() if p.requires_grad and not key.startswith("projector.")]
    groups = [(5e-4, [*model.model.language_model.parameters()]), projector, *([(1e-3, own)] if own else [])]
    optimise(f"seed {seed}, {name}", groups, plan.tune, batches, loss_of, seed)


@torch.no_grad()
def measure(model: Any, batches: Sequence[Batch]) -> dict[str, float]:
    """Share of answers in which every token is the most probable one, given the correct tokens before it; error of rebuilt
    images as a share of their variance; number of codes in use, and their perplexity."""
    tokenizer: CodebookTokenizer = model.model.visual
    right, error, used = 0, 0.0, torch.zeros(tokenizer.config.codes)
    for batch in batches:
        pixels = batch.pixels
        codes = tokenizer.quantise(tokenizer.encode(pixels))
        logits, targets = answer_logits(model, batch, tokenizer.project(codes))
        rows = (batch.labels[:, 1:] != -100).nonzero()[:, 0]
        right += len(pixels) - len(rows[logits.argmax(-1) != targets].unique())
        error += F.mse_loss(tokenizer.decode(codes.values), pixels).item() / len(batches)
        used += torch.bincount(codes.indices.flatten(), minlength=len(used))
    shares = used[used > 0] / used.sum()
    return {
        "answers": right / sum(len(batch.ids) for batch in batches),
        "error": error / variance(batches),
        "codes": len(shares),
        "perplexity": float((-(shares * shares.log()).sum()).exp()),
    }
