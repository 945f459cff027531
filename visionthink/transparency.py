"""Transparency that is one colour, as a PNG may have it: found in the depth of the stored pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

_BITS = {"1": 1, "L;2": 2, "L;4": 4, "L": 8, "RGB": 8, "I;16B": 16, "RGB;16B": 16}
"""Bits of a grey level or a colour channel in a PNG, by Pillow's name of how pixels are stored."""


@dataclass(frozen=True, kw_only=True)
class TransparentColour:
    """The colour of a PNG that stands for transparency, in the depth of its stored pixels, which Pillow does not keep."""

    bits: int
    colour: tuple[int, ...]
    low_bytes: Image.Image | None
    """The low bytes of 16-bit colours. Pillow keeps only the high bytes."""

    def find(self, image: Image.Image) -> np.ndarray:
        """The pixels of this colour, as a mask (height, width)."""
        pixels = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.int64)
        if self.low_bytes is not None:
            pixels = pixels * 256 + np.asarray(self.low_bytes)
        scale = 255 // ((1 << self.bits) - 1) if self.bits < 8 else 1
        same = np.equal(pixels, [(c & ((1 << self.bits) - 1)) * scale for c in self.colour])
        return np.asarray(same.all(axis=2) if same.ndim == 3 else same)


def transparent_colour(image: Image.Image) -> TransparentColour | None:
    """The one of an image that is opened and not loaded; None where transparency, if there is any, is something else."""
    colour, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format != "PNG" or colour is None or not tiles or image.mode == "P":
        return None
    stored = tiles[0].args
    file = getattr(image, "fp", None)
    low = None
    if stored == "RGB;16B" and file is not None:
        place = file.tell()
        file.seek(0)
        low = Image.open(io.BytesIO(file.read()), formats=("PNG",))
        file.seek(place)
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        low.load()
    if stored == "1":
        colour = min(colour, 1)  # Pillow says 255
    return TransparentColour(bits=_BITS[stored], colour=colour if isinstance(colour, tuple) else (colour,), low_bytes=low)


def with_alpha(image: Image.Image, transparent: np.ndarray | None) -> Image.Image:
    """A copy in which the pixels of a mask, and no others, are transparent."""
    image = image.convert("L") if image.mode == "1" else image.copy()
    image.info.pop("transparency", None)
    if transparent is not None:
        image.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return image
