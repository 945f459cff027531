"""The vision tower, called once for each distinct image and set of weights."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionthink.engine.tree import MOST_IMAGES, visual


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """An image as the tower reads it: `pixels` [patches, values of a patch], `grid` as its time, rows and columns in patches,
    `number`, which no other image of its store has, and `digest` of its content, the same in every process."""

    number: int
    digest: bytes
    pixels: Tensor
    grid: tuple[int, int, int]
    merge: int
    """Patches that make a visual token, along each side."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of visual tokens."""
        return self.grid[1] // self.merge, self.grid[2] // self.merge

    @property
    def tokens(self) -> int:
        """Visual tokens."""
        rows, columns = self.shape
        return rows * columns


class PreparedImages:
    """Images as the tower reads them, each prepared once however many objects hold it, until it is dropped."""

    def __init__(self, image_processor: Any):
        self._processor = image_processor
        self._by_content: dict[bytes, Pixels] = {}
        self.prepared = 0
        """Images that the processor was given."""

    def of(self, images: Iterable[Sequence[Image.Image]]) -> list[tuple[Pixels, ...]]:
        """Those of each row. Images that are equal are one."""
        images = [tuple(row) for row in images]
        digests: dict[int, bytes] = {}
        fresh: dict[bytes, Image.Image] = {}
        for image in (image for row in images for image in row):
            if id(image) not in digests:
                digests[id(image)] = digest = _digest(image)  # in every call: an image may be drawn on
                if digest not in self._by_content:
                    fresh[digest] = image
        if fresh:
            self._prepare(fresh)
        return [tuple(self._by_content[digests[id(image)]] for image in row) for row in images]

    def _prepare(self, images: dict[bytes, Image.Image]) -> None:
        prepared = self._processor(images=list(images.values()), return_tensors="pt")
        grids = prepared["image_grid_thw"]
        each = prepared["pixel_values"].split(grids.prod(-1).tolist())
        for digest, pixels, grid in zip(images, each, grids.tolist(), strict=True):
            # a copy, since a view would hold the pixels of all
            values = pixels.clone() if len(images) > 1 else pixels
            self._by_content[digest] = Pixels(
                digest=digest, number=self._number(digest), pixels=values, grid=tuple(grid), merge=self._processor.merge_size
            )
        self.prepared += len(images)

    def _number(self, digest: bytes) -> int:
        """A number by the content, so that rows are laid out and summed in one order, whatever ran before."""
        number, taken = int.from_bytes(digest, "little") % MOST_IMAGES, {held.number for held in self._by_content.values()}
        while number in taken:  # two in 2^42
            number = (number + 1) % MOST_IMAGES
        return number

    def keep(self, numbers: set[int]) -> None:
        """Drop all but the images of these numbers."""
        self._by_content = {digest: held for digest, held in self._by_content.items() if held.number in numbers}


def _digest(image: Image.Image) -> bytes:
    data = hashlib.blake2b(image.tobytes(), digest_size=16)
    data.update(repr((image.size, image.mode, image.getpalette())).encode())
    return data.digest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """What the decoder reads of images: `tokens` [visual tokens, hidden], and for Qwen3-VL the same for each of its first layers
    (DeepStack); `begins` says where an image's tokens begin, by its number."""

    tokens: Tensor
    deep: tuple[Tensor, ...]
    begins: dict[int, int]

    @classmethod
    def together(cls, parts: Sequence[Features]) -> Features | None:
        """Those of several calls of the tower as of one; None of none."""
        parts = list({id(part): part for part in parts}.values())
        if len(parts) < 2:
            return parts[0] if parts else None
        starts = np.cumsum([0, *(len(part.tokens) for part in parts)]).tolist()
        return cls(
            tokens=torch.cat([part.tokens for part in parts]),
            deep=tuple(torch.cat(layers) for layers in zip(*(part.deep for part in parts), strict=True)),
            begins={n: start + begin for start, part in zip(starts, parts, strict=False) for n, begin in part.begins.items()},
        )

    def of_keys(self, keys: np.ndarray) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Where among keys (see `tree.row_keys`) visual tokens stand, and their features."""
        at, numbers, places = visual(keys)
        distinct, back = np.unique(numbers, return_inverse=True)
        begins = np.array([self.begins[int(n)] for n in distinct])
        device = self.tokens.device
        index = torch.from_numpy(begins[back] + places).to(device)
        layers = [layer.index_select(0, index) for layer in self.deep]
        return torch.from_numpy(at).to(device), self.tokens.index_select(0, index), layers


def encode(model: Any, images: Sequence[Pixels]) -> Features:
    """One call of the tower of a Qwen-VL model for distinct images, of which there is at least one."""
    pixels = torch.cat([image.pixels for image in images]).to(model.device, model.dtype)
    out = model.model.get_image_features(pixels, torch.tensor([image.grid for image in images], device=model.device))
    counts = [image.tokens for image in images]
    begins = np.cumsum([0, *counts[:-1]]).tolist()
    return Features(
        tokens=_joined(out.pooler_output),
        deep=tuple(_joined(layer) for layer in getattr(out, "deepstack_features", None) or ()),
        begins=dict(zip([image.number for image in images], begins, strict=True)),
    )


def encode_once(model: Any, images: Sequence[Pixels], known: dict[int, Features]) -> tuple[Features | None, int]:
    """Features of distinct images, and how many patches were encoded for them.

    Args:
        known: features by the number of their image, those of earlier calls; gets those that are computed.
    """
    missing = [image for image in images if image.number not in known]
    if missing:
        fresh = encode(model, missing)
        known |= dict.fromkeys((image.number for image in missing), fresh)
    return Features.together([known[image.number] for image in images]), sum(len(image.pixels) for image in missing)


def _joined(features: Tensor | Sequence[Tensor]) -> Tensor:
    return features if isinstance(features, Tensor) else torch.cat(list(features))


def multiply_patches(model: Any) -> None:
    """Let the tower of a model on a CPU embed patches by a matrix product.

    The kernel of its Conv3d is as large as a patch, so that both are the same sum; on a CPU the product takes a seventh of the
    time. The weights keep their names.
    """
    if model.device.type == "cpu":
        embed = model.model.visual.patch_embed
        embed.forward = types.MethodType(_embed, embed)


def _embed(module: Any, patches: Tensor) -> Tensor:
    """[patches, values] to [patches, hidden]."""
    weight = module.proj.weight
    patches = patches.view(-1, weight[0].numel()).to(weight.dtype)
    return torch.nn.functional.linear(patches, weight.flatten(1), module.proj.bias)
