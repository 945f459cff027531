"""Untrusted image files to upright RGB images. Knows nothing about levels or tokens.

Only formats whose header states the size of what is unpacked are read, and the header is read before the pixels: a
decompression bomb is refused without being unpacked. Icons, which hold whole images of other sizes, are not read.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from visionthink.errors import ImageError, one_line
from visionthink.types import ImageSource

MAX_IMAGE_PIXELS = 40_000_000
"""Default limit, in pixels as announced by the file's header."""


MAX_FILE_BYTES = 1 << 29
"""Larger files are not read: 40 MP of four 16-bit channels take 305 MiB."""


@dataclass(frozen=True)
class LoadedImage:
    """An upright RGB image and what had to be done to it."""

    image: Image.Image = field(repr=False)
    notes: tuple[str, ...] = ()


def open_image(source: ImageSource, *, name: str | None = None, max_pixels: int = MAX_IMAGE_PIXELS) -> LoadedImage:
    """Open an image file, bytes or an opened image as upright RGB.

    EXIF orientation is applied; transparency is laid on white; 16-bit greys are scaled; of an animation the first frame
    is taken. What was done is in `notes`.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or larger than `max_pixels`.
    """
    label = name or source_label(source)
    with _damage_named(label):
        if not isinstance(source, Image.Image):
            return _upright_rgb(_opened(source, label, max_pixels))
        with _LENT:
            loaded = _upright_rgb(_allowed(source, label, max_pixels))
        if loaded.image is source:  # the caller may go on drawing
            loaded = LoadedImage(source.copy(), loaded.notes)
        return loaded


def measure(source: ImageSource, *, name: str | None = None, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[int, int]:
    """(width, height) in px of an image standing upright, from its header alone.

    Raises:
        ImageError: the file is missing, empty, not an image, or larger than `max_pixels`.
    """
    label = name or source_label(source)
    with _damage_named(label):
        if isinstance(source, Image.Image):
            return _upright_size(_allowed(source, label, max_pixels))
        with _opened(source, label, max_pixels) as opened:
            return _upright_size(opened)


def source_label(source: ImageSource) -> str:
    """What an error calls an image that has no other name: its path, or "image"."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "image"


@contextlib.contextmanager
def _damage_named(label: str) -> Iterator[None]:
    """Whatever a decoder raises, as one error that says which image and why."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise ImageError(f"{label}: damaged or truncated image ({one_line(error)})") from None


def _upright_size(image: Image.Image) -> tuple[int, int]:
    # Pillow reads a PNG to its end to look for EXIF, and says the upright size of a TIFF by itself
    known = "exif" in image.info if image.format == "PNG" else image.format != "TIFF"
    turned = known and image.getexif().get(_ORIENTATION) in range(5, 9)
    return (image.height, image.width) if turned else image.size


def _allowed(image: Image.Image, label: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise ImageError(f"{label}: {image.width}x{image.height} px is more than the limit of {max_pixels / 1e6:g} MP")
    return image


_ORIENTATION = 0x0112
_LENT = threading.Lock()
"""An image that a caller has opened may be read by several threads, which Pillow does not allow."""
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP")
"""Formats that are read, by Pillow's names."""


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opened(source: bytes | str | os.PathLike[str], label: str, max_pixels: int) -> Image.Image:
    """The header, checked; no pixel is unpacked before its image is known to be small enough."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's own limit is global: raised where more is allowed, never lowered again
    try:
        opened = Image.open(_stream(source, label), formats=_formats())
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"{label}: an image of more than the limit of {max_pixels / 1e6:g} MP") from None
    except UnidentifiedImageError:
        raise ImageError(f"{label}: not an image file that can be read ({', '.join(_formats())})") from None
    return _allowed(opened, label, max_pixels)


def _stream(source: bytes | str | os.PathLike[str], label: str) -> io.BytesIO:
    if not isinstance(source, (bytes, str, os.PathLike)):
        raise ImageError(f"{label}: {type(source).__name__} is not a path, the bytes of a file, or an opened image")
    if isinstance(source, bytes):
        content = source
    else:
        path = Path(source)
        if not path.exists():
            raise ImageError(f"{label}: no such file")
        if not path.is_file():
            raise ImageError(f"{label}: {'a folder' if path.is_dir() else 'a device'}, not an image file")
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ImageError(f"{label}: more than {MAX_FILE_BYTES >> 20} MiB, too large for an image file")
            content = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{label}: cannot be read ({error.strerror})") from None
    if not content:
        raise ImageError(f"{label}: the file is empty")
    return io.BytesIO(content)


def _upright_rgb(image: Image.Image) -> LoadedImage:
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        image.seek(0)
        notes.append(f"first of {frames} frames used")
    turned = image.getexif().get(_ORIENTATION) in range(2, 9)  # asked first: Pillow turns a TIFF by itself when it unpacks it
    image.load()
    if turned:
        image = ImageOps.exif_transpose(image)
        notes.append("EXIF orientation applied")
    if image.mode.startswith("I") or image.mode == "F":  # converting to RGB directly would clip at 255
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        brightest = float(grey.max(initial=0))
        usual = (1, 255, 65535) if image.mode == "F" else (255, 65535)
        peak = 65535 if "16" in image.mode else next((p for p in usual if brightest <= p), brightest)
        image = Image.fromarray(np.clip(grey * (255 / peak), 0, 255).round().astype(np.uint8))
        notes.append(f"{'16-bit' if peak == 65535 else 'deep'} greys scaled to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        notes.append("transparency laid on white")
    elif image.mode == "CMYK":
        notes.append("CMYK converted to RGB")
    return LoadedImage(image if image.mode == "RGB" else image.convert("RGB"), tuple(notes))
