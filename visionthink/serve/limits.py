"""How much requests may bring in and take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from visionthink.errors import OptionError

DECODING = 24
"""Bytes for each pixel that decoding may need beside the 4 that are kept: measured, 0 for most JPEGs, 12 for a PNG that is laid
on white, 22 for 16-bit greys."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request, a key and all requests together may take. Bytes and seconds throughout.

    What headers may take, and how long a client may leave unread what it is sent, is decided in `connections`.
    """

    body_bytes: int = 25_000_000
    bodies_bytes: int = 1 << 29
    """The bodies of all requests that are read or answered, together. If they come to more, requests wait."""
    body_seconds: float = 30
    """The time from the first byte that is read of a body to its last."""
    requests: int = 64
    """Requests that are answered at once."""
    requests_per_key: int = 32
    """Requests of one key that are answered at once; as many may wait. Without keys, `requests` alone counts."""
    waiting: int = 128
    """Requests that wait for their turn; others are refused."""
    waiting_seconds: float = 30
    response_seconds: float = 600
    """The time from the end of the body to the end of the answer. Images are held until then."""
    images: int = 8
    """The number of images in a request."""
    image_bytes: int = 10_000_000
    image_pixels: int = 40_000_000
    request_pixels: int = 80_000_000
    """The pixels of all images of a request."""
    memory_bytes: int = 1 << 31
    """The memory of the images of all requests, while they are decoded and afterwards."""
    decoders: int = 2
    """Images that are decoded at once."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "waiting" else 1 if field.type == "int" else 0.001
            if isinstance(value, bool) or not least <= value < 1e15 or (field.type == "int" and value != int(value)):
                whole = "a whole number of " if field.type == "int" else ""
                raise OptionError(f"{field.name} {value}: must be {whole}at least {least:g}")
        if self.image_bytes > self.body_bytes:
            raise OptionError(f"image_bytes {self.image_bytes}: more than body_bytes {self.body_bytes}")
        if self.body_bytes > self.bodies_bytes:
            raise OptionError(f"body_bytes {self.body_bytes}: more than bodies_bytes {self.bodies_bytes}")
        needed = 4 * self.request_pixels + DECODING * self.image_pixels
        if needed > self.memory_bytes:
            raise OptionError(
                f"memory_bytes {self.memory_bytes}: one request may need {needed}: "
                f"4 for each of request_pixels, {DECODING} for each of image_pixels"
            )
