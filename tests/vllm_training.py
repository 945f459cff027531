"""Training with vLLM, in an interpreter that has it: `vllm_training.py FOLDER MODEL KIND [URL]` trains there and writes
`vllm.json`, a second process of the same run `vllm-1.json`. KIND is `full` or `adapter`, with vLLM in this process, or `server`,
with the one at the URL."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, where TRL looks for the model
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

import torch
import vllm._custom_ops
from PIL import Image
from safetensors.torch import save_file
from training import small
from trl.generation import vllm_generation

from visionthink.data import synth
from visionthink.policies.render import views
from visionthink.train import vllm as training_vllm
from visionthink.train.trainer import VisionThinkTrainer, make_trainer
from visionthink.types import Example, History, ImageView, Message, whole

FOLDER, MODEL, KIND, *URL = sys.argv[1:]
OUT = Path(FOLDER)

# oneDNN keeps copies of the weights in a form of its own, into which nothing can be loaded; without it vLLM multiplies by the
# weights themselves, as it does on a GPU
vllm._custom_ops._supports_onednn = False
# TRL names neither: a checkpoint in float32 would be run in half precision, after minutes of compiling
vllm_generation.LLM = functools.partial(vllm_generation.LLM, dtype="float32", enforce_eager=True, block_size=32)


class ByFile(vllm_generation.VLLMClient):
    """Brings weights to the server in a file. TRL's way is NCCL, which needs GPUs on both sides."""

    def init_communicator(self, device: torch.device) -> None:
        shutil.copytree(MODEL, OUT / "weights")

    def update_named_params(self, metadata: list[Any], named_params: Iterator[tuple[str, torch.Tensor]]) -> None:
        weights = {name: value.contiguous() for name, value in named_params}
        assert [(name, list(value.shape)) for name, value in weights.items()] == [(name, shape) for name, _, shape in metadata]
        save_file(weights, OUT / "weights" / "model.safetensors", metadata={"format": "pt"})
        self._post(
            f"{self.base_url}/collective_rpc",
            json={"method": "reload_weights", "kwargs": {"weights_path": str(OUT / "weights")}},
        )


vllm_generation.VLLMClient = ByFile


def large(count: int) -> list[Example]:
    """Questions about images of 9 and 3 times the pixels that the model's image processor keeps."""

    def enlarged(image: Image.Image, narrow: bool) -> Image.Image:
        grown = image.resize((336, 336), Image.Resampling.LANCZOS)
        return grown.crop((0, 112, 336, 224)) if narrow else grown

    suite = synth.suite(count, split="train")
    return [dataclasses.replace(e, image=enlarged(e.image, i % 4 == 3)) for i, e in enumerate(suite)]


def run() -> VisionThinkTrainer:
    """A trainer of a run whose steps are all about the same examples."""
    settings: dict[str, Any] = {"lora_rank": 4} if KIND == "adapter" else {}
    config = small(
        OUT / "run",
        model=MODEL,
        vllm="server" if URL else "colocate",
        steps=3,
        prompts_per_step=8,
        forced=1,
        probe_steps=1,
        max_new_tokens=16,
        max_image_tokens=9,  # of which vLLM knows nothing: it would make 16 of an image
        learning_rate=2e-4,
        exclude="",
        trl={"vllm_server_base_url": URL[0]} if URL else {},
        **settings,
    )
    return make_trainer(config, large(8))


def noted(trainer: VisionThinkTrainer, record: dict[str, Any]) -> None:
    """Keep what vLLM read beside what was meant, and its log-probabilities beside those that TRL computes."""
    record |= {"rows": [], "rollouts": []}
    judged, scored = training_vllm.sampled, trainer._generate_and_score_completions
    pad = trainer.sampler.policy.renderer.image_pad_id

    def sampled(prompt: list[int], read: list[int], *rest: Any) -> Any:
        record["rows"].append({"equal": prompt == read, "visual_tokens": prompt.count(pad)})
        return judged(prompt, read, *rest)

    def generated(inputs: Any) -> Any:
        batch = scored(inputs)
        learnt = batch["tool_mask"] * batch["completion_mask"]
        differences = (batch["old_per_token_logps"] - batch["sampling_per_token_logps"]) * learnt
        for rollout, row in zip(trainer.step.rollouts, differences, strict=True):
            record["rollouts"].append(
                {
                    "step": trainer.state.global_step,
                    "forced": rollout.forced,
                    "turns": len(rollout.transcript.turns),
                    "largest": row.max().item(),
                    "least": row.min().item(),
                }
            )
        return batch

    training_vllm.sampled, trainer._generate_and_score_completions = sampled, generated


def recomputed(trainer: VisionThinkTrainer, ids: Sequence[int], images: Sequence[Image.Image], said: int) -> list[float]:
    """Log-probabilities of the last `said` ids by the model that is trained, without tokens that are never sampled, as vLLM's."""
    pixels = trainer.checkpoint.image_processor(images=list(images), return_tensors="pt")
    row = torch.tensor([ids])
    kinds = (row == trainer.sampler.policy.renderer.image_pad_id).int()
    with torch.no_grad():
        logits = trainer.model(input_ids=row, mm_token_type_ids=kinds, **pixels).logits[0, -said - 1 : -1]
    logits[:, trainer.sampler.policy.renderer.never_sampled] = -torch.inf
    return logits.log_softmax(-1)[range(said), list(ids[-said:])].tolist()


def off(trainer: VisionThinkTrainer, history: History) -> float:
    """Change the vision tower; the largest difference between the log-probabilities of the next turn and those of the model."""
    with torch.no_grad():
        trainer.model.model.visual.patch_embed.proj.weight *= 1.3
    trainer.state.global_step += 1
    [said] = trainer.sampler.policy.complete([history])
    ids = [*said.prompt_ids, *said.token_ids]
    right = recomputed(trainer, ids, [view.image for view in views(history)], len(said.token_ids))
    return max(abs(a - b) for a, b in zip(said.logprobs, right, strict=True))


def asking(image: Image.Image, visual_tokens: int) -> History:
    size = {"width": image.width, "height": image.height}
    view = ImageView(image=image, box=whole(*image.size), level=1.0, visual_tokens=visual_tokens, **size)
    return [Message("user", (view, "Describe."))]


def main() -> None:
    trainer = run()
    record: dict[str, Any] = {}
    noted(trainer, record)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(before[name], value)}
    record["changed"] = sorted({"adapter" if "lora" in name else name.split(".")[1] for name in changed})
    rows = list(record["rows"])  # of the training
    image = large(1)[0].image
    if KIND != "adapter":
        history = asking(image, 9)
        record["off"] = [off(trainer, history) for _ in range(3)]
    if KIND == "full":
        several = trainer.sampler.policy.complete([asking(image, 9), asking(image, 8), asking(image, 9)])
        record["mistold"] = [(c.finish_reason, c.error and c.error.text) for c in several]
        trainer.vllm_generation.llm.llm_engine.reset_encoder_cache = lambda: None
        record["off with old features"] = off(trainer, history)
    rank = trainer.accelerator.process_index
    (OUT / (f"vllm-{rank}.json" if rank else "vllm.json")).write_text(json.dumps(record | {"rows": rows}), "utf-8")


if __name__ == "__main__":
    main()
