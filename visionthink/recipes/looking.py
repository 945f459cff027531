"""Runs that learn where to look, and at what price: after AwaRes, after AdaptVision, and within a stated budget.

We have had no machine to run these to their end. `--dry-run` takes one step of any of them with a small random model of the same
architecture. What differs from the settings of the paper that a recipe follows is said when it starts.
"""

from __future__ import annotations

from visionthink.recipes.qwen import EIGHT_GPUS, ONE_80_GB, PAPER, SMART, large, smart_7b_lora
from visionthink.recipes.recipe import Recipe

QWEN2_5, QWEN3 = "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"

AWARES = PAPER.replace(
    model=QWEN2_5,
    menu="awares",
    penalty="awares",
    steps=781,
    prompts_per_step=64,
    updates_per_step=1,
    group_size=8,
    learning_rate=1e-5,
    kl_coef=0.05,
    lora_rank=8,
    max_new_tokens=512,
    max_image_tokens=2048,
)
"""AwaRes (arXiv 2603.16932): one epoch over 50,000 examples, after fine-tuning on 25,000 demonstrations. Its reward needs to know
of each example whether the low view suffices: data that `visionthink curate` has labelled."""
ADAPTVISION = PAPER.replace(model=QWEN2_5, menu="adaptvision", credit="dtpo", kl_coef=0.0, entropy_coef=0.001)
"""AdaptVision (arXiv 2512.03794). A language model judges its crops; here a crop is good where it shows the evidence, and where
that is not known its reward is left out."""

_PRICED = {"credit": "centred:price=0.1", "penalty": "none"}
"""What looking costs, where no label says whether it is needed."""
_SMALLER = {"lora_rank": 32, "learning_rate": 1e-5, "max_new_tokens": 1024, "max_image_tokens": 1280}
"""What fits on one GPU of 80 GB, as in `smart_7b_lora`; without its looks at both branches by force, which cannot be had where a
request says which part."""
_EIGHT = {name: getattr(EIGHT_GPUS, name) for name in ("steps", "prompts_per_step", "updates_per_step")}
_ONE = {name: getattr(smart_7b_lora().config, name) for name in ("steps", "prompts_per_step", "updates_per_step", "group_size")}


def look_7b() -> Recipe:
    """Qwen2.5-VL-7B learns which of ten crops to ask for, with AwaRes' menu, words and groups, and all weights.

    A crop pays its share of the visual tokens (`centred`), which needs no labels.
    Hardware: 8 GPUs of 80 GB with ZeRO-3. Time: not measured. Expected: AwaRes reports 80.30 at 36 % of the visual tokens on
    average over six benchmarks, beside 80.46 for the full view, after a cold start on demonstrations that this run has not.
    Command: `visionthink train look_7b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/look-7b`. With its own
    reward, on data labelled by `visionthink curate`: `--penalty awares --credit eq3 --data runs/curated/curated.parquet`.
    """
    config = AWARES.replace(**_PRICED, lora_rank=0, learning_rate=1e-6)
    return large(config, SMART, "qwen2_5_vl", paper=AWARES)


def look_7b_lora() -> Recipe:
    """`look_7b` as a low-rank adapter on one GPU of 80 GB.

    Time: not measured. Expected: the direction of `look_7b`, not its numbers.
    Command: `visionthink train look_7b_lora --out runs/look-7b-lora`.
    """
    config = AWARES.replace(**_PRICED, **_SMALLER | _ONE | {"max_new_tokens": 512})
    return large(config, SMART, "qwen2_5_vl", ONE_80_GB, paper=AWARES)


def look_qwen3_8b() -> Recipe:
    """`look_7b` on Qwen3-VL-8B. AwaRes has no such run.

    Hardware: 8 GPUs of 80 GB. Time: not measured. Expected: unknown.
    Command: `visionthink train look_qwen3_8b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/look-qwen3`.
    """
    return large(look_7b().config.replace(model=QWEN3), SMART, "qwen3_vl", paper=AWARES)


def box_7b() -> Recipe:
    """Qwen2.5-VL-7B learns to ask for a box, with AdaptVision's menu, words and DTPO.

    Hardware: 8 GPUs of 80 GB with ZeRO-3; the paper's step of 512 examples takes 32. Time: not measured. Expected: AdaptVision
    reports 97.9 % of the full view's scores at 33 % of the visual tokens, and 96.7 % at 57 % with GRPO (`--credit eq3`).
    Command: `visionthink train box_7b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/box-7b`.
    """
    return large(ADAPTVISION.replace(**_EIGHT), SMART, "qwen2_5_vl", paper=ADAPTVISION)


def box_7b_lora() -> Recipe:
    """`box_7b` as a low-rank adapter on one GPU of 80 GB.

    Time: not measured. Expected: the direction of `box_7b`, not its numbers.
    Command: `visionthink train box_7b_lora --out runs/box-7b-lora`.
    """
    return large(ADAPTVISION.replace(**_SMALLER | _ONE), SMART, "qwen2_5_vl", ONE_80_GB, paper=ADAPTVISION)


def box_qwen3_8b() -> Recipe:
    """`box_7b` on Qwen3-VL-8B, in the words of its own zoom: boxes in thousandths of the image. AdaptVision has no such run.

    Hardware: 8 GPUs of 80 GB. Time: not measured. Expected: unknown.
    Command: `visionthink train box_qwen3_8b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/box-qwen3`.
    """
    return large(box_7b().config.replace(model=QWEN3, dialect="qwen3"), SMART, "qwen3_vl", paper=ADAPTVISION)


def budget_7b() -> Recipe:
    """`smart_7b` with a stated budget in place of the penalty: 40 % of the full views' visual tokens, every view counted.

    Hardware and step: as `smart_7b`, 8 GPUs of 80 GB. Time: not measured. Expected: a mean cost of 0.4 on average over the last
    steps; nobody has published such a run on a real model.
    Command: `visionthink train budget_7b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/budget-7b`.
    """
    return large(EIGHT_GPUS.replace(model=QWEN2_5, budget="visual=0.4"), SMART, "qwen2_5_vl", paper=PAPER)


def budget_7b_lora() -> Recipe:
    """`budget_7b` as a low-rank adapter on one GPU of 80 GB.

    Time: not measured. Expected: the direction of `budget_7b`, not its numbers.
    Command: `visionthink train budget_7b_lora --out runs/budget-7b-lora`.
    """
    return large(smart_7b_lora().config.replace(budget="visual=0.4"), SMART, "qwen2_5_vl", ONE_80_GB, paper=PAPER)


def budget_qwen3_8b() -> Recipe:
    """`budget_7b` on Qwen3-VL-8B.

    Hardware: 8 GPUs of 80 GB. Time: not measured. Expected: unknown.
    Command: `visionthink train budget_qwen3_8b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/budget-qwen3`.
    """
    return large(budget_7b().config.replace(model=QWEN3), SMART, "qwen3_vl", paper=PAPER)
