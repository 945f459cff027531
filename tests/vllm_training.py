"""Training with vLLM in this process, in an interpreter that has vLLM: `vllm_training.py FOLDER MODEL full|adapter` trains there
and writes `vllm.json`."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, where TRL looks for the model
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import torch
import vllm._custom_ops
from PIL import Image
from training import small
from trl.generation import vllm_generation

from visionthink.data import synth
from visionthink.policies.render import views
from visionthink.train import vllm as training_vllm
from visionthink.train.trainer import VisionThinkTrainer, make_trainer
from visionthink.types import Example, History, ImageView, Message, whole

# oneDNN keeps copies of the weights in a form of its own, into which nothing can be loaded; without it vLLM multiplies by the
# weights themselves, as it does on a GPU
vllm._custom_ops._supports_onednn = False
# TRL names neither: a checkpoint in float32 would be run in half precision, after minutes of compiling
vllm_generation.LLM = functools.partial(vllm_generation.LLM, dtype="float32", enforce_eager=True, block_size=32)

STEPS = 3


def large(count: int) -> list[Example]:
    """Questions about images of nine times the pixels that the model's image processor keeps, or of three times."""

    def enlarged(image: Image.Image, narrow: bool) -> Image.Image:
        grown = image.resize((336, 336), Image.Resampling.LANCZOS)
        return grown.crop((0, 56, 336, 168)) if narrow else grown

    suite = synth.suite(count, split="train")
    return [dataclasses.replace(e, image=enlarged(e.image, i % 4 == 3)) for i, e in enumerate(suite)]


def recomputed(trainer: VisionThinkTrainer, ids: Sequence[int], images: Sequence[Image.Image], said: int) -> list[float]:
    """Log-probabilities of the last `said` ids by the model that is trained."""
    pixels = trainer.checkpoint.image_processor(images=list(images), return_tensors="pt")
    row = torch.tensor([ids])
    kinds = (row == trainer.sampler.policy.renderer.image_pad_id).int()
    with torch.no_grad():
        logits = trainer.model(input_ids=row, mm_token_type_ids=kinds, **pixels).logits[0, -said - 1 : -1]
    return logits.log_softmax(-1)[range(said), list(ids[-said:])].tolist()


def off(trainer: VisionThinkTrainer, history: History) -> float:
    """The largest difference between the log-probabilities of a fresh turn and those of the model that is trained."""
    trainer.state.global_step += 1  # of weights that were changed by hand
    [said] = trainer.sampler.policy.complete([history])
    assert said.error is None, said.error
    right = recomputed(trainer, [*said.prompt_ids, *said.token_ids], [v.image for v in views(history)], len(said.token_ids))
    return max(abs(a - b) for a, b in zip(said.logprobs, right, strict=True))


def asking(image: Image.Image, **changed: Any) -> History:
    view = ImageView(image=image, box=whole(*image.size), level=1.0, width=image.width, height=image.height, visual_tokens=16)
    return [Message("user", (dataclasses.replace(view, **changed), "What colour is it?"))]


def main() -> None:
    folder, model, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    rows: list[dict[str, Any]] = []
    judged = training_vllm.sampled

    def noted(prompt: list[int], read: list[int], *rest: Any) -> Any:
        rows.append({"meant": len(prompt), "equal": prompt == read, "images": prompt.count(3)})
        return judged(prompt, read, *rest)

    training_vllm.sampled = noted
    examples = large(8)
    settings: dict[str, Any] = {"lora_rank": 4} if kind == "adapter" else {}
    config = small(
        folder / "run",
        model=model,
        vllm="colocate",
        steps=STEPS,
        prompts_per_step=8,  # the same in every step
        group_size=4,
        forced=1,
        probe_steps=1,
        max_new_tokens=16,
        learning_rate=1e-3,
        exclude="",
        **settings,
    )
    trainer = make_trainer(config, examples)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    groups: list[dict[str, Any]] = []
    sample = trainer.sampler.sample

    def kept(ids: Sequence[str]) -> Any:
        drawn = sample(ids)
        groups.extend(
            {"forced": r.forced, "stop": r.transcript.stop_reason, "turns": len(r.transcript.turns)} for g in drawn for r in g
        )
        return drawn

    trainer.sampler.sample = kept
    trainer.train()
    after = dict(trainer.model.named_parameters())
    result: dict[str, Any] = {
        "rows": rows,
        "groups": groups,
        "changed": sorted({name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}),
    }
    if kind == "full":
        image = examples[0].image
        history = asking(image)
        policy = trainer.sampler.policy
        result["off"] = [off(trainer, history)]
        tower = trainer.model.model.visual.patch_embed.proj.weight
        with torch.no_grad():
            tower += 0.05 * torch.randn_like(tower)
        result["off"].append(off(trainer, history))
        with torch.no_grad():
            tower += 0.05 * torch.randn_like(tower)
        trainer.vllm_generation.llm.llm_engine.reset_encoder_cache = lambda: None
        result["off with features of the old tower"] = off(trainer, history)
        several = policy.complete([history, asking(image, visual_tokens=15), history])
        result["mistold"] = [(c.finish_reason, c.error and c.error.text) for c in several]
    (folder / "vllm.json").write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
