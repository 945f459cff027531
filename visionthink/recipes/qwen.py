"""The paper's runs on Qwen2.5-VL, their like on Qwen3-VL, and what fits on one GPU.

We have had no machine to run these to their end: expected results are the paper's (arXiv 2507.13348), and hours, which it does
not give, are not promised. `--dry-run` takes one step of any of them with a small random model of the same architecture. How
to launch them on several GPUs, and what they need of memory, is in docs/how-to/training.md. What differs from the paper's
settings is said when a run starts.
"""

from __future__ import annotations

from typing import Literal

from visionthink.data.examples import read_examples
from visionthink.recipes.recipe import Recipe, Rehearsal
from visionthink.train.config import TrainConfig
from visionthink.train.hardware import Hardware

SMART, GENERAL = "Senqiao/VisionThink-Smart-Train", "Senqiao/VisionThink-General-Train"

PAPER = TrainConfig(
    steps=80,
    prompts_per_step=512,
    updates_per_step=16,  # of 32 examples each
    group_size=16,
    learning_rate=1e-6,
    kl_coef=0.001,
    clip_eps=0.2,
    max_new_tokens=8192,
    max_image_tokens=5350,  # 2048 x 2048 px, the cap of the authors' code
    exclude="duplicate,empty",
    micro_batch=1,
    gradient_checkpointing=True,
)
"""Sec. 4.1 and the released scripts, which took 32 processes. The paper's judge is a language model: `--judge rules,URL#MODEL`
(docs/reference/judges.md). Without one, answers are judged by rules alone, and what rules are not sure of is not learnt from."""

EIGHT_GPUS = PAPER.replace(prompts_per_step=128, updates_per_step=4, steps=320)
"""The paper's 1,280 updates of 32 examples, sampled in four times as many steps of 128 examples each. TRL keeps the pixels of a
step's rollouts on the GPU: of 512 examples they are 18 GB on each of 8 GPUs at an average of 960 visual tokens a rollout, and
twice that while they are joined, which does not fit beside a model of 7B. Kept in the machine's own memory they would be 296 GB
at that average, and 2,060 GB at the cap on images. Updates are less off-policy than the paper's: at most 3 lie between sampling
and learning, and not 15."""

ONE_NODE = Hardware(processes=8, sharding="zero3", device_bytes=80 * 10**9, per_machine=8, vllm=True)
"""8 GPUs of 80 GB on one machine, with vLLM beside the training."""
ONE_80_GB, ONE_24_GB = (Hardware(device_bytes=size * 10**9) for size in (80, 24))


def large(
    config: TrainConfig,
    data: str,
    architecture: Literal["qwen2_5_vl", "qwen3_vl"],
    hardware: Hardware = ONE_NODE,
    paper: TrainConfig = PAPER,
) -> Recipe:
    """A recipe for a model that is rehearsed with a small random one of its architecture."""

    def rehearse(config: TrainConfig) -> Rehearsal:
        from visionthink.recipes import stand_in  # torch only when it is needed

        build = {"qwen2_5_vl": stand_in.qwen2_5_vl, "qwen3_vl": stand_in.qwen3_vl}[architecture]
        return build(config.chosen_dialect or "agent"), stand_in.large_examples(config.prompts_per_step)

    return Recipe(config=config, source=lambda _: read_examples(data), stand_in=rehearse, paper=paper, hardware=hardware)


def smart_7b() -> Recipe:
    """Qwen2.5-VL-7B learns when to look closer, with the paper's settings but for the step: 128 examples, and not 512.

    Hardware: 8 GPUs of 80 GB with ZeRO-3 (docs/how-to/training.md). The paper's own step needs 32:
    `--prompts-per-step 512 --updates-per-step 16 --steps 80`.
    Time: 320 steps of 2,048 rollouts, not measured.
    Expected: requests on ChartQA 79 %, OCRBench 62 %, MME 31 %, DocVQA 7 % (Fig. 5); 101.4 % of the full model's average at
    51.3 % of the visual tokens, as the paper counts them (Table 2).
    Command: `visionthink train smart_7b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/smart-7b`.
    """
    return large(EIGHT_GPUS.replace(model="Qwen/Qwen2.5-VL-7B-Instruct"), SMART, "qwen2_5_vl")


def general_7b() -> Recipe:
    """Qwen2.5-VL-7B reasons better at full resolution: one level, the prompt of Table 5, no penalty (App. B.5).

    Hardware and step: as `smart_7b`. Time: not measured. Expected: the general model's row of Table 1, with a judge that
    can read its answers: many are sentences, which rules leave unscored.
    Command: `visionthink train general_7b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/general-7b`, on
    8 GPUs of 80 GB.
    """
    general = {"model": "Qwen/Qwen2.5-VL-7B-Instruct", "dialect": "general", "ladder": "1", "penalty": "none"}
    return large(EIGHT_GPUS.replace(**general), GENERAL, "qwen2_5_vl", paper=PAPER.replace(**general))


def smart_7b_lora() -> Recipe:
    """`smart_7b` as a low-rank adapter on one GPU of 80 GB: smaller groups, shorter thoughts, images of at most 1,280 tokens.

    Hardware: one GPU of 80 GB (arithmetic in docs/how-to/training.md). Time: not measured. Expected: the direction of `smart_7b`,
    not its numbers. Command: `visionthink train smart_7b_lora --out runs/smart-7b-lora`.
    """
    config = PAPER.replace(
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        lora_rank=32,
        learning_rate=1e-5,
        steps=400,
        prompts_per_step=8,
        updates_per_step=1,
        group_size=8,
        max_new_tokens=1024,
        max_image_tokens=1280,
        probe_steps=20,
    )
    return large(config, SMART, "qwen2_5_vl", ONE_80_GB)


def smart_3b_lora() -> Recipe:
    """Qwen2.5-VL-3B as a low-rank adapter on one GPU of 24 GB.

    Hardware: one GPU of 24 GB (arithmetic in docs/how-to/training.md). Time: not measured. Expected: the direction of `smart_7b`,
    not its numbers. Command: `visionthink train smart_3b_lora --out runs/smart-3b-lora`.
    """
    config = smart_7b_lora().config.replace(
        model="Qwen/Qwen2.5-VL-3B-Instruct", lora_rank=16, prompts_per_step=4, max_new_tokens=512, max_image_tokens=1024
    )
    return large(config, SMART, "qwen2_5_vl", ONE_24_GB)


def smart_qwen3_8b() -> Recipe:
    """`smart_7b` on Qwen3-VL-8B. The paper has no such run.

    Hardware and step: as `smart_7b`, 8 GPUs of 80 GB. Time: not measured. Expected: unknown.
    Command: `visionthink train smart_qwen3_8b --launch zero3 --vllm colocate --judge rules,URL#MODEL --out runs/qwen3`.
    """
    return large(EIGHT_GPUS.replace(model="Qwen/Qwen3-VL-8B-Instruct"), SMART, "qwen3_vl")


def smart_qwen3_4b_lora() -> Recipe:
    """`smart_3b_lora` on Qwen3-VL-4B, for one GPU of 24 GB. The paper has no such run.

    Time: not measured. Expected: unknown. Command: `visionthink train smart_qwen3_4b_lora --out runs/qwen3-4b`.
    """
    config = smart_3b_lora().config.replace(model="Qwen/Qwen3-VL-4B-Instruct")
    return large(config, SMART, "qwen3_vl", ONE_24_GB)
