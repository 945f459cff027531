"""What the vision tower says about its tokens: sizes of the images, and attention and keys of its last block."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from visionthink.compress.probe import tower_attention, window_order
from visionthink.compress.products import counted
from visionthink.compress.selection import Grid
from visionthink.errors import CompressionError


class TowerProbe:
    """Sees every batch of images that a vision tower encodes, and remembers the last one.

    `flops` are operations by the shapes that decide them, see `products.counted`.
    """

    def __init__(self, tower: Any, flops: dict[Hashable, int]):
        self.tower, self.counts = tower, flops
        self.grids: list[tuple[int, int, int]] = []
        """Frames, rows and columns of each image, in patches."""
        self.received: Tensor | None = None
        """[tokens], see `VisionContext`; in the order of the prompt, images one after another. None if it was not asked for."""
        self.keys: Tensor | None = None
        self.levels: dict[int, Tensor] = {}
        """[tokens, patches of a token, width] outputs of blocks, in the same order."""
        self.flops: list[int] = []
        """What that took, for each image."""

    def before(self, args: Any, kwargs: dict[str, Any]) -> None:
        """The tower is called. Generation encodes images before it calls the model: only here are their sizes always known."""
        grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        self.grids = [(int(t), int(h), int(w)) for t, h, w in grid.tolist()]
        self.received = self.keys = None
        self.levels = {}
        self.flops = [0] * len(self.grids)

    def before_attention(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """The attention of its last block is called."""
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        merge = self.tower.config.spatial_merge_size
        patches = [t * h * w for t, h, w in self.grids]
        found = []
        parts = (x.split(patches) for x in (hidden, *kwargs["position_embeddings"]))
        for image, (own, cosine, sine) in enumerate(zip(*parts, strict=True)):
            with torch.no_grad(), counted(self.counts, ("tower", len(own))):
                found.append(tower_attention(module, own, cosine, sine, merge**2))
            self.flops[image] = self.counts["tower", len(own)]
        received, keys = (torch.cat(x) for x in zip(*found, strict=True))
        self.received, self.keys = self._in_rows(received), self._in_rows(keys)

    def behind_block(self, block: int, output: Tensor) -> None:
        """A block whose output is wanted has run."""
        self.levels[block] = self._in_rows(output.unflatten(0, (-1, self.tower.config.spatial_merge_size**2)))

    def _in_rows(self, tokens: Tensor) -> Tensor:
        """What a tower with windows has window by window, [tokens, ...], row by row."""
        merge = self.tower.config.spatial_merge_size
        windowed = hasattr(self.tower, "fullatt_block_indexes")
        window = self.tower.window_size // merge // self.tower.patch_size if windowed else 0
        return tokens[window_order(self.grids, window, merge).argsort().to(tokens.device)]

    @property
    def token_grids(self) -> list[Grid]:
        """Frames, rows and columns of each image, in visual tokens."""
        merge = self.tower.config.spatial_merge_size
        return [(t, h // merge, w // merge) for t, h, w in self.grids]

    @property
    def sizes(self) -> list[int]:
        """Visual tokens of each image."""
        return [math.prod(grid) for grid in self.token_grids]

    def bill(self, images: range) -> int:
        """What looking at some images took, said once."""
        taken = sum(self.flops[i] for i in images)
        self.flops[images.start : images.stop] = [0] * len(images)
        return taken

    def images(self, counts: Sequence[int]) -> tuple[list[range], int]:
        """Which images those of each sample are, for samples of so many visual tokens; and how often each prompt stands there:
        generation of several answers encodes a prompt's images once and repeats the prompt.

        Raises:
            CompressionError: those are not the images that were encoded.
        """
        sizes = self.sizes
        copies = max(1, sum(counts) // (sum(sizes) or 1))
        found, first = list[range](), 0
        for count in counts[::copies]:
            behind, left = first, count
            while left > 0 and behind < len(sizes):
                left, behind = left - sizes[behind], behind + 1
            found += [range(first, behind)] * copies
            first = behind
        if [sum(sizes[i] for i in own) for own in found] != list(counts):
            raise CompressionError(f"prompts of {list(counts)} visual tokens, and images of {sizes} encoded in this session")
        return found, copies
