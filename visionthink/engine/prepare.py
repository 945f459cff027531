"""What is changed in a stock Qwen-VL model when it is loaded. Weights, their names and the results stay as they are."""

from __future__ import annotations

from typing import Any

from visionthink.engine.attention import share_attention
from visionthink.engine.tower import multiply_patches
from visionthink.engine.windows import group_windows


def prepare(model: Any) -> None:
    """Let a model share prefixes, its tower attend to windows of equal length in one call, and, on a CPU, embed patches by a
    product."""
    share_attention(model)
    group_windows(model)
    multiply_patches(model)
