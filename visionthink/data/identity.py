"""Which examples are the same: hashes of what they hold, not of where they stand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from PIL import Image

from visionthink.types import Example


def image_digest(image: Image.Image) -> str:
    """A digest of the pixels of an upright RGB image, which another file format or other metadata do not change."""
    return hashlib.sha256(f"{image.width}x{image.height} ".encode() + image.tobytes()).hexdigest()[:32]


def images_digest(images: Sequence[Image.Image]) -> str:
    """A digest of all images of an example, in order; for a single image that of `image_digest`."""
    digests = [image_digest(image) for image in images]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()[:32]


def content_id(example: Example, image: str) -> str:
    """An id made of the conversation, the question, the reference answer and the digest of the images."""
    said = (part for role, text, wire in example.conversation for part in (role, text, *([json.dumps(wire)] if wire else [])))
    parts = (example.question, example.answer or "", image, *said)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
