"""The parts that image files consist of: which are too many to be read, and which are passed on.

A file of a few megabytes can hold millions of empty parts, or thousands of scans of the same pixels. Decoders go through all of
them, and a small image then takes seconds or hours. No part is unpacked here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from visionthink.errors import ImageError

MOST_PARTS = 10_000
"""A PNG of 10 MB has about 1,300 chunks of the usual 8 KiB; a JPEG with metadata has fewer than 300 segments."""
MOST_SCANS = 100
"""The largest number of scans of a JPEG. Progressive ones have about 10, and each goes through the whole image again."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"sRGB", b"iCCP")
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""What is not part of a JPEG's coded pixels: there, 255 is followed by 0 or by the number of a restart."""
_MOST_FILLED = 64
"""Bytes between the segments of a JPEG: padding, which decoders skip one byte at a time."""
_START_OF_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE
_KEPT = {
    0xE0: re.compile(rb"JFIF\0.{7}\0\0", re.DOTALL),  # without a thumbnail
    0xE2: re.compile(rb"ICC_PROFILE\0"),
    0xEE: re.compile(rb"Adobe"),
}
"""Segments of applications that say what the colours are, by what they begin with."""
_ALONE = (0x01, 0xD8, _END)
"""Markers without a segment."""


class Part(NamedTuple):
    """A segment of a JPEG or a chunk of a PNG."""

    start: int
    end: int
    role: Literal["needed", "scan", "other"]
    """Whether pixels need it; a scan goes through all of them."""


def readable(content: bytes, kind: str) -> bytes:
    """The file as it may be given to a decoder: of a GIF the first image alone, others as they are.

    Raises:
        ImageError: it is damaged, or has too many parts. The message does not name the file.
    """
    if kind == "GIF":
        return content[: _end_of_first_image(content)] + b";"
    scans = 0
    for number, part in enumerate(_parts(content, kind), 1):
        scans += part.role == "scan"
        if number > MOST_PARTS or scans > MOST_SCANS:
            raise ImageError(
                f"a {kind} of more than {MOST_SCANS} scans" if scans > MOST_SCANS else f"a {kind} of more than {MOST_PARTS} parts"
            )
    return content


def without_metadata(content: bytes, kind: str) -> bytes | None:
    """A JPEG or PNG with the pixels as they are encoded, but without EXIF, XMP, comments, thumbnails, further images and whatever
    stands behind the end; its colour profile is kept. None for other formats."""
    if kind not in ("JPEG", "PNG"):
        return None
    beginning = content[: 2 if kind == "JPEG" else len(_PNG)]
    return beginning + b"".join(content[part.start : part.end] for part in _parts(content, kind) if part.role != "other")


def _parts(content: bytes, kind: str) -> Iterator[Part]:
    return {"JPEG": _segments, "PNG": _chunks}.get(kind, lambda _: iter(()))(content)


def _chunks(content: bytes) -> Iterator[Part]:
    at = len(_PNG)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        yield Part(at, end, "needed" if kind in _PNG_KEPT else "other")
        if kind == b"IEND":
            return
        at = end


def _segments(content: bytes) -> Iterator[Part]:
    at, in_scan = 2, False
    while marker := _MARKER.search(content, at, len(content) if in_scan else at + _MOST_FILLED):
        kind, end = marker[1][0], marker.end()
        if in_scan:  # the coded pixels up to here
            yield Part(at, marker.start(), "needed")
        if kind in _ALONE:
            yield Part(end - 2, end, "needed" if kind == _END else "other")
            if kind == _END:
                return
            at, in_scan = end, False
        else:
            at = end + int.from_bytes(content[end : end + 2])
            in_scan = kind == _START_OF_SCAN
            yield Part(end - 2, at, _role(kind, content, end + 2))
    if not in_scan:
        raise ImageError("damaged or truncated image (a JPEG without an end)")
    yield Part(at, len(content), "needed")  # decoders say whether pixels are missing


def _role(kind: int, content: bytes, at: int) -> Literal["needed", "scan", "other"]:
    if kind == _START_OF_SCAN:
        return "scan"
    if kind in _KEPT:
        return "needed" if _KEPT[kind].match(content, at) else "other"
    return "other" if 0xE0 <= kind <= 0xEF or kind == _COMMENT else "needed"


def _end_of_first_image(content: bytes) -> int:
    """Where the first image of a GIF ends, or the file."""
    try:
        at = 13 + _colours(content[10])
        for _ in range(MOST_PARTS):
            block = content[at]
            if block == 0x2C:
                return _end_of_blocks(content, at + 10 + _colours(content[at + 9]) + 1)
            if block != 0x21:
                break
            at = _end_of_blocks(content, at + 2)
    except IndexError:
        return len(content)
    raise ImageError("damaged or truncated image (a GIF without an image)")


def _colours(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(content: bytes, at: int) -> int:
    for _ in range(len(content) // 64 + MOST_PARTS):  # encoders fill blocks of 255 bytes
        size = content[at]
        at += size + 1
        if not size:
            return at
    raise ImageError("a GIF of too many small blocks")
