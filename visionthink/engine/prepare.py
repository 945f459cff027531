"""What is changed in a stock Qwen-VL model when it is loaded. Weights, their names and the results stay as they are."""

from __future__ import annotations

from typing import Any

from visionthink.engine.tower import multiply_patches
from visionthink.engine.windows import group_windows


def prepare(model: Any) -> None:
    """Let the tower of a model attend to windows of equal length in one call, and, on a CPU, embed patches by a product. A model
    that reads codes has no tower."""
    if not hasattr(model.model.visual, "blocks"):
        return
    group_windows(model)
    multiply_patches(model)
