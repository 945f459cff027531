"""All stages and arms of `recipes.ett`; those that an earlier run finished are not repeated."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from visionthink.durable import replace, replace_folder, replace_json, same_settings
from visionthink.engine.codebook import CodebookTokenizer
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from visionthink.recipes.ett_report import write_report
from visionthink.recipes.ett_stages import (
    ARMS,
    Batch,
    Plan,
    align,
    build_image_processor,
    build_model,
    measure,
    questions,
    rebuild,
    tune,
)


def run(out: Path, seeds: int = 1, plan: Plan | None = None) -> dict[str, Any]:
    """Run all stages and arms of every seed, and write and return the report. `out / "final"` is a copy of the model of seed 0
    that was tuned jointly."""
    plan = plan or Plan()
    same_settings(out, dataclasses.asdict(plan))
    base = open_checkpoint("tiny", device="cpu")
    train, test = questions(base, plan.questions, "train"), questions(base, plan.tests, "test")
    results = [
        _arm(out / f"seed-{seed}", name, base, train, test, plan, seed) for seed in range(seeds) for name in ("aligned", *ARMS)
    ]
    if not (out / "final").is_dir():
        with replace_folder(out / "final") as partial:
            shutil.copytree(out / "seed-0" / "joint", partial, dirs_exist_ok=True)
    shown = test[0].pixels[:8]
    pictures = {"original": shown}
    for name in ("aligned", "joint", "answers"):
        tokenizer = open_checkpoint(str(out / "seed-0" / name), device="cpu").model.model.visual
        with torch.no_grad():
            pictures[name] = tokenizer.decode(tokenizer.quantise(tokenizer.encode(shown)).values)
    return write_report(out / "report", results, pictures)


def _arm(
    folder: Path, name: str, base: Checkpoint, train: Sequence[Batch], test: Sequence[Batch], plan: Plan, seed: int
) -> dict[str, Any]:
    """Train an arm, save it and return its measurements; one that an earlier run finished is read from its file. `aligned` is the
    tokenizer after the first two stages, with which the other arms begin."""
    done, first = folder / f"{name}.json", folder / "tokenizer.safetensors"
    if done.is_file():
        return dict(json.loads(done.read_text("utf-8")))
    indexed, started = name in ARMS and ARMS[name].indexed, time.process_time()
    torch.manual_seed(seed)
    model = build_model(base, scale=float(train[0].features.square().mean().sqrt()), indexed=indexed)
    tokenizer: CodebookTokenizer = model.model.visual
    if name == "aligned":
        if not first.is_file():
            rebuild(tokenizer, train, plan, seed)
            folder.mkdir(parents=True, exist_ok=True)
            replace(first, lambda partial: save_file(tokenizer.state_dict(), partial))
        tokenizer.load_state_dict(load_file(first))
        align(model, train, plan, seed)
    else:
        begun = load_file(folder / "aligned" / "model.safetensors")
        prefix = "model.visual."
        weights = {key.removeprefix(prefix): x for key, x in begun.items() if key.startswith(prefix)}
        kept = {key: x for key, x in weights.items() if not (indexed and key.startswith("projector."))}
        tokenizer.load_state_dict(kept, strict=not indexed)
        tune(model, name, train, plan, seed)
    seconds = time.process_time() - started
    processor = build_image_processor(base)
    save_checkpoint(folder / name, model=model, tokenizer=base.tokenizer, image_processor=processor, protocol=base.protocol)
    result = {"arm": name, "seed": seed, **measure(model, test), "cpu_seconds": round(seconds)}
    replace_json(done, result)
    return result
