"""Texts that are not ours to say: nothing in them may stand for an image, open a turn or answer a call."""

from __future__ import annotations

import re

from visionthink.protocol.dialects import IMAGE_MARK
from visionthink.protocol.grammar import TOOL_RESPONSE

_JOINER = "\u2060"
"""WORD JOINER, a character without width. Behind the `<` of a mark it leaves what is read and takes away what it would do."""
_MARKS = (IMAGE_MARK, *TOOL_RESPONSE, "<start_of_turn>", "<end_of_turn>")
_ARMED = re.compile(f"<(?=[|｜][^<>\\s]*[|｜]>|{'|'.join(re.escape(mark[1:]) for mark in _MARKS)})")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


def disarmed(text: str) -> str:
    """A text of somebody who is not trusted, without marks that a model or this package reads as more than text.

    A `<` is followed by a WORD JOINER where it begins `<image>`, `<|...|>`, a tool's response or its end, or a turn of Gemma's.
    """
    return _ARMED.sub("<" + _JOINER, text)


def disarmed_json(text: str) -> str:
    """As `disarmed`, for JSON in a string, such as the arguments of a call, which servers read before they write a prompt: what
    is written as `\\u003c` becomes a `<` there. Where it is, the escapes of all characters that need none are written out."""
    plain = _ESCAPE.sub(_written_out, text)
    return text if (harmless := disarmed(plain)) == plain else harmless


def _written_out(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16)) if escape[1] else escape[2]
    needless = character == "/" or (escape[1] and character.isprintable() and character not in '"\\')
    return character if needless else escape[0]
