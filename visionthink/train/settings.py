"""What the settings of all kinds of runs share: their descriptions, the adapter, and what they change of a checkpoint."""

from __future__ import annotations

import ast
import copy
import dataclasses
import importlib.util
import inspect
import itertools
from typing import TYPE_CHECKING

from visionthink.errors import OptionError

if TYPE_CHECKING:
    from peft import LoraConfig

    from visionthink.policies.checkpoint import Checkpoint

ADAPTED = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Names of the layers that an adapter is put on: every linear one of the language model."""


def documentation(settings: type) -> dict[str, str]:
    """Name and one-line description of every setting, read from the strings below the fields of a class."""
    [body] = (n.body for n in ast.parse(inspect.getsource(settings)).body if isinstance(n, ast.ClassDef))
    described = {}
    for setting, text in itertools.pairwise(body):
        if isinstance(setting, ast.AnnAssign) and isinstance(text, ast.Expr):
            described[ast.unparse(setting.target)] = str(ast.literal_eval(text.value))
    return described


def check_reporting(report_to: str) -> None:
    """
    Raises:
        OptionError: nothing of that name can be logged to, or it is not installed.
    """
    if report_to not in ("none", "trackio", "wandb", "tensorboard"):
        raise OptionError(f"unknown report_to {report_to!r}; choose none, trackio, wandb or tensorboard")
    if report_to != "none" and importlib.util.find_spec(report_to) is None:
        raise OptionError(f"report_to {report_to}: is not installed; pip install {report_to}")


def low_rank_adapter(rank: int) -> LoraConfig | None:
    """The adapter of a rank, on every linear layer of the language model; None for rank 0.

    Raises:
        OptionError: peft is not installed.
    """
    if not rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise OptionError(f"lora_rank {rank}: needs peft; pip install 'visionthink[train]'") from None
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=ADAPTED, task_type="CAUSAL_LM")


def with_wording(checkpoint: Checkpoint, dialect: str | None, max_image_tokens: int) -> Checkpoint:
    """A checkpoint with a run's wording and limit on images, which are also saved with it."""
    budget, image_processor = checkpoint.budget, checkpoint.image_processor
    if max_image_tokens:
        budget = budget.capped(max_image_tokens)
        image_processor = copy.copy(image_processor)  # the caller's stays as it is
        image_processor.size = {"shortest_edge": budget.min_pixels, "longest_edge": budget.max_pixels}
    protocol = checkpoint.protocol.with_dialect(dialect)
    return dataclasses.replace(checkpoint, budget=budget, protocol=protocol, image_processor=image_processor)
