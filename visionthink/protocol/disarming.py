"""Texts that are not ours to say: nothing in them may stand for an image, open a turn or answer a call."""

from __future__ import annotations

import re

from visionthink.protocol.dialects import IMAGE_MARK
from visionthink.protocol.grammar import TOOL_RESPONSE

_JOINER = "\u2060"
"""WORD JOINER, a character without width. Behind the `<` of a mark it leaves what is read and takes away what it would do."""
_MARKS = (IMAGE_MARK, *TOOL_RESPONSE, "<start_of_turn>", "<end_of_turn>")
_ARMED = re.compile(f"<(?=[|｜][^<>\\s]*[|｜]>|{'|'.join(re.escape(mark[1:]) for mark in _MARKS)})")


def disarmed(text: str) -> str:
    """A text of somebody who is not trusted, without marks that a model or this package reads as more than text.

    A `<` is followed by a WORD JOINER where it begins `<image>`, `<|...|>`, a tool's response or its end, or a turn of Gemma's.
    """
    return _ARMED.sub("<" + _JOINER, text)
