"""Multimodal rotary positions (mRoPE, arXiv 2409.12191, Sec. 2.1) of a sequence of text and images.

The same numbers as `get_rope_index` of Qwen2-VL, Qwen2.5-VL and Qwen3-VL gives for images, without its loop over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rope_positions(keys: np.ndarray, grids: Sequence[tuple[int, int]]) -> tuple[np.ndarray, int]:
    """Positions [3, tokens] in time, height and width, and the position of the token that follows.

    Text counts up by one. A visual token has the position at which its image begins, plus its row and its column; what follows
    an image goes on after the larger of the two.

    Args:
        keys: of the sequence, see `tree.row_keys`: visual tokens are negative, and each image stands alone between marks.
        grids: rows and columns of visual tokens of each image, in the order of reading.
    """
    steps = np.ones(len(keys), dtype=np.int64)
    spans = []
    at = 0
    for rows, columns in grids:
        begin = at + int(np.argmax(keys[at:] < 0))
        at = begin + rows * columns
        spans.append((begin, at))
        steps[begin:at] = 0
        steps[at - 1] = max(rows, columns)  # after the last token of the image
    text = np.concatenate([[0], np.cumsum(steps)])
    positions = np.tile(text[:-1], (3, 1))
    for (begin, end), (rows, columns) in zip(spans, grids, strict=True):
        positions[:, begin:end] = text[begin]
        positions[1, begin:end] += np.repeat(np.arange(rows), columns)
        positions[2, begin:end] += np.tile(np.arange(columns), rows)
    return positions, int(text[-1])
