"""What a server left in a text that is no part of what was said: marks of the end of a turn, and thinking in other spellings."""

from __future__ import annotations

import re
from collections.abc import Iterable

from visionthink.errors import is_blank

_ENDS = (
    *(f"<|{name}|>" for name in ("im_end", "endoftext", "end_of_text", "eot_id", "eom_id", "eot", "end", "return")),
    *("</s>", "<eos>", "<end_of_turn>", "<｜end▁of▁sentence｜>"),
)
_NAMES = ("thinking", "thought", "reasoning", "seed:think")
_OPENINGS = (
    *(f"<{name}>" for name in _NAMES),
    *("[THINK]", "◁think▷", "<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>analysis<|message|>"),
)
_CLOSINGS = (
    *(f"</{name}>" for name in _NAMES),
    *("[/THINK]", "◁/think▷"),
    *(f"{before}<|channel|>final<|message|>" for before in ("<|end|><|start|>assistant", "<|start|>assistant", "<|end|>", "")),
)
_OPENS, _CLOSES = (re.compile("|".join(map(re.escape, marks))) for marks in (_OPENINGS, _CLOSINGS))


def taken_apart(text: str) -> tuple[str, str]:
    """Thinking, and what was said behind it, without marks of its end; empty where nothing can be seen.

    Another spelling is thinking where the text begins with it, or where thinking that began in the prompt is closed by it.
    """
    text = _without_ends(text)
    opened = _OPENS.match(text.lstrip())
    *_, closed = [None, *_CLOSES.finditer(text)]
    thinking, said = "", text
    if opened or (closed and not _OPENS.search(text)):
        thinking, said = (text[: closed.start()], text[closed.end() :]) if closed else (text, "")
        thinking = _OPENS.sub("", thinking, count=1)
    return thinking, "" if is_blank(said) else said


class Unfolding:
    """`taken_apart`, piece by piece: what may still turn out to be a mark is held back. Thinking whose beginning was not marked
    is only known for such when it ends, and is given as said."""

    def __init__(self) -> None:
        self._held = ""
        self._opened: bool | None = None
        """Whether thinking that was opened goes on; None at the beginning, where it is not known."""

    def feed(self, text: str) -> tuple[str, str]:
        """Thinking and what was said, as far as this text shows them."""
        text, thinking = self._held + text, ""
        if self._opened is False and not _FIRST.search(text):  # as nearly all pieces are
            end = len(text.rstrip())
            self._held = text[end:]
            return "", text[:end]
        if self._opened is None:
            start = text.lstrip()
            if start in _OPENING_PARTS or not start:
                self._held = text
                return "", ""
            opened = _OPENS.match(start)
            self._opened = opened is not None
            text = text[: len(text) - len(start)] + start[opened.end() if opened else 0 :]
        if self._opened:
            if closed := _CLOSES.search(text):
                self._opened = False
                thinking, text = text[: closed.start()], text[closed.end() :]
            else:
                end = len(text) - _begun(text, _CLOSING_PARTS)
                self._held = text[end:]
                return text[:end], ""
        end = len(_without_ends(text[: len(text) - _begun(text, _END_PARTS)]).rstrip())
        self._held = text[end:]
        return thinking, text[:end]


def _parts(marks: Iterable[str]) -> frozenset[str]:
    return frozenset(mark[:n] for mark in marks for n in range(1, len(mark)))


_OPENING_PARTS, _CLOSING_PARTS, _END_PARTS = map(_parts, (_OPENINGS, _CLOSINGS, _ENDS))


def _begun(text: str, parts: frozenset[str]) -> int:
    """How many characters at the end of a text may be the beginning of a mark."""
    if not _FIRST.search(text, max(0, len(text) - _LONGEST)):
        return 0
    return next((n for n in range(min(len(text), _LONGEST), 0, -1) if text[-n:] in parts), 0)


_FIRST = re.compile("|".join(sorted({re.escape(mark[0]) for mark in (*_OPENINGS, *_CLOSINGS, *_ENDS)})))
_LONGEST = max(map(len, _OPENING_PARTS | _CLOSING_PARTS | _END_PARTS))


def _without_ends(text: str) -> str:
    end = len(text.rstrip())
    while text.endswith(_ENDS, 0, end):
        end -= next(len(mark) for mark in _ENDS if text.endswith(mark, 0, end))
        while end and text[end - 1].isspace():
            end -= 1
    return text if end == len(text.rstrip()) else text[:end]
