"""Images written as text: data URLs, and base64 without one."""

from __future__ import annotations

import base64
import binascii
import re

from visionthink.errors import DataError

_URL = re.compile(r"data:(?P<type>[^,;]*)(?P<options>[^,]*),(?P<content>.*)", re.DOTALL | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{32,}={0,2}\s*")
_BEGINNINGS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|....ftypavi[fs]|\0\0\0\x0cjP  ",
    re.DOTALL,
)
"""First bytes of the image formats accepted as base64 text."""


def from_base64(text: str) -> bytes | None:
    """The file that a text holds, or None where the text is not of this kind: a path, an address.

    Text without `data:` counts only where it is long and what it decodes to begins as a file of an image does.

    Raises:
        DataError: a data URL that is not base64.
    """
    if text[:5].lower() == "data:":
        url = _URL.fullmatch(text)
        content = _decoded(url["content"]) if url and url["options"].lower().endswith(";base64") else None
        if not content:
            raise DataError(f"the image is a data URL, but not one in base64: {text[:40]!r}")
        return content
    content = _decoded(text) if _BASE64.fullmatch(text) else None
    return content if content and _BEGINNINGS.match(content) else None


def _decoded(text: str) -> bytes | None:
    """Decode base64 in the standard or the URL alphabet; line breaks and missing padding are accepted."""
    written = re.sub(r"\s+", "", text).rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    try:
        return base64.b64decode(written + "=" * (-len(written) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
