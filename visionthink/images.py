"""Untrusted image files to upright RGB images. Knows nothing about levels or tokens.

Only formats whose header states the size of what is unpacked are read, and the header is read before the pixels: a
decompression bomb is refused without being unpacked. Icons, which hold whole images of other sizes, are not read.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from visionthink.errors import ImageError, one_line
from visionthink.transparency import transparent_colour, with_alpha
from visionthink.types import ImageSource

MAX_IMAGE_PIXELS = 40_000_000
"""Default limit, in pixels as announced by the file's header."""
MAX_FILE_BYTES = 1 << 29
"""Larger files are not read: 40 MP of four 16-bit channels take 305 MiB."""
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP")
"""Formats that are read, by Pillow's names."""

_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112
_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_QUARTERS = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LENT = threading.Lock()
"""An image that a caller has opened may be read by several threads, which Pillow does not allow."""


@dataclass(frozen=True)
class LoadedImage:
    """An upright RGB image and what had to be done to it."""

    image: Image.Image = field(repr=False)
    notes: tuple[str, ...] = ()


def open_image(
    source: ImageSource, *, name: str | None = None, max_pixels: int = MAX_IMAGE_PIXELS, formats: tuple[str, ...] = FORMATS
) -> LoadedImage:
    """Open an image file, bytes or an opened image as upright RGB.

    The orientation in EXIF or XMP is applied; transparency is laid on white; 16-bit greys are scaled; of an animation the first
    frame is taken. What was done is in `notes`. Files of other than the given formats are not opened.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or larger than `max_pixels`.
    """
    label = name or source_label(source)
    with _damage_named(label):
        if not isinstance(source, Image.Image):
            return _upright_rgb(_opened(source, label, max_pixels, _known(formats)))
        with _LENT:
            loaded = _upright_rgb(_allowed(source, label, max_pixels))
        if loaded.image is source:  # the caller may go on drawing
            loaded = LoadedImage(source.copy(), loaded.notes)
        return loaded


def measure(
    source: ImageSource, *, name: str | None = None, max_pixels: int = MAX_IMAGE_PIXELS, formats: tuple[str, ...] = FORMATS
) -> tuple[int, int]:
    """(width, height) in px of an image standing upright, from its header alone.

    Raises:
        ImageError: the file is missing, empty, not an image, or larger than `max_pixels`.
    """
    label, known = name or source_label(source), _known(formats)
    with _damage_named(label):
        if isinstance(source, Image.Image):
            with _LENT:
                return _upright_size(_allowed(source, label, max_pixels))
        if isinstance(source, (str, os.PathLike)):
            with _readable(source, label).open("rb") as file:
                if file.peek(len(_JPEG))[: len(_JPEG)] == _JPEG:  # other formats may say behind the pixels how they stand
                    return _upright_size(_measured(file, label, max_pixels, known))
        return _upright_size(_measured(_stream(source, label), label, max_pixels, known))


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
    except OSError as error:
        said = f"cannot be read ({error.strerror})" if error.errno else f"damaged or truncated image ({one_line(error)})"
        raise ImageError(f"{label}: {said}") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise ImageError(f"{label}: damaged or truncated image ({one_line(error)})") from None


def _upright_size(image: Image.Image) -> tuple[int, int]:
    quarter = _orientation(image)[0] in _QUARTERS
    # Pillow says the upright size of a TIFF by itself, as far as its own tag says how it stands
    known = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_ORIENTATION) in _QUARTERS
    return (image.height, image.width) if quarter and not known else image.size


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """How an image stands, 1 to 8 as EXIF counts, by its EXIF or else its XMP; and whether these can be read."""
    if image.format == "PNG":
        file = getattr(image, "fp", None)
        if isinstance(file, io.BytesIO) and not _says_orientation(file.getvalue()):
            return 1, True
        image.load()  # it may stand behind the pixels
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # readers of damaged metadata raise nearly anything
        return 1, False
    return (value if isinstance(value, int) and value in _TURNS else 1), True


def _says_orientation(png: bytes) -> bool:
    """Whether a chunk of a PNG, before or behind its pixels, may say how it stands."""
    at = 8
    while at + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"eXIf" or (kind in (b"tEXt", b"zTXt", b"iTXt") and png.startswith(_KEYWORDS, at + 8)):
            return True
        at += length + 12
    return False


def _allowed(image: Image.Image, label: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise ImageError(f"{label}: {image.width}x{image.height} px is more than the limit of {max_pixels / 1e6:g} MP")
    return image


@functools.cache
def _known(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def _opened(source: bytes | str | os.PathLike[str], label: str, max_pixels: int, known: tuple[str, ...]) -> Image.Image:
    """The file, opened; no pixel is unpacked before its image is known to be small enough."""
    file = _stream(source, label)
    _measured(file, label, max_pixels, known)  # Pillow, asked first, would warn of a large image by its own limit
    return Image.open(file, formats=known)


def _measured(file: IO[bytes], label: str, max_pixels: int, known: tuple[str, ...]) -> Image.Image:
    """The header, checked."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's own limit is global: raised where more is allowed, never lowered again
    try:
        header = _header(file, known)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"{label}: an image of more than the limit of {max_pixels / 1e6:g} MP") from None
    if header is None:
        raise ImageError(f"{label}: not an image file that can be read ({', '.join(known)})")
    if header.format == "JPEG2000" and isinstance(file, io.BytesIO) and b"\xff\xd9" not in file.getvalue():
        raise ImageError(f"{label}: damaged or truncated image (it has no end)")  # Pillow would show what has come as black
    return _allowed(header, label, max_pixels)


def _header(file: IO[bytes], known: tuple[str, ...]) -> Image.Image | None:
    """What `Image.open` gives, without its own limit."""
    beginning = file.read(16)
    for name in known:
        opener, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(beginning)
        if not accepted or isinstance(accepted, str):  # a text says which library is missing
            continue
        file.seek(0)
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):  # not of this format
            return opener(file, "")
    return None


def _stream(source: bytes | str | os.PathLike[str], label: str) -> io.BytesIO:
    if not isinstance(source, (bytes, str, os.PathLike)):
        raise ImageError(f"{label}: {type(source).__name__} is not a path, the bytes of a file, or an opened image")
    content = source if isinstance(source, bytes) else _readable(source, label).read_bytes()
    if not content:
        raise ImageError(f"{label}: the file is empty")
    return io.BytesIO(content)


def _readable(source: str | os.PathLike[str], label: str) -> Path:
    """The path of a file that may be read."""
    path = Path(source)
    if not path.exists():
        raise ImageError(f"{label}: no such file")
    if not path.is_file():
        raise ImageError(f"{label}: {'a folder' if path.is_dir() else 'a device'}, not an image file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ImageError(f"{label}: more than {MAX_FILE_BYTES >> 20} MiB, too large for an image file")
    return path


def _upright_rgb(image: Image.Image) -> LoadedImage:
    notes = []
    key = transparent_colour(image)  # asked first: how pixels are stored is not known of an image that is loaded
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        image.seek(0)
        notes.append(f"first of {frames} frames used")
    orientation, readable = _orientation(image)  # before Pillow turns a TIFF by itself
    image.load()
    stands = _orientation(image)[0]
    if not readable:
        notes.append("EXIF cannot be read, and is not applied")
    elif orientation > 1:
        notes.append("orientation applied")
    transparent = None if key is None else key.find(image)
    if image.mode.startswith("I") or image.mode == "F":  # converting to RGB directly would clip at 255
        image, depth = _grey(image)
        notes.append(f"{depth} greys scaled to 8 bits")
    if key is not None:
        image = with_alpha(image, transparent)
    if stands > 1:
        image = image.transpose(_TURNS[stands])
    if image.mode == "CMYK":
        notes.append("CMYK converted to RGB")
    if image.has_transparency_data:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            notes.append("transparency laid on white")
        else:
            image = rgba
    return LoadedImage(image if image.mode == "RGB" else image.convert("RGB"), tuple(notes))


def _grey(image: Image.Image) -> tuple[Image.Image, str]:
    """Greys of more than 8 bits as 8 bits, and what they were."""
    grey = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    brightest = float(grey.max(initial=0))
    usual = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    peak = 65535 if "16" in image.mode else next((p for p in usual if brightest <= p), brightest)
    scaled = Image.fromarray(np.clip(grey * (255 / peak), 0, 255).round().astype(np.uint8))
    return scaled, "16-bit" if peak == 65535 else "deep"
