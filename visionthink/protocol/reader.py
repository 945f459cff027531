"""A reply read while it is said: thinking and answer are given out as they come, a request never is.

What may still become a request is held back. The pieces that are given out are the same however the reply is cut, unless what is
held back is released.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from visionthink.protocol.dialects import Dialect

_THINK, _THOUGHT = "<think>", "</think>"
_ANSWER, _ANSWERED = "<answer>", "</answer>"

Kind = Literal["thought", "text"]
_Mode = Literal["outside", "thinking", "answer", "over"]


@dataclass(frozen=True)
class Piece:
    """A part of a reply that can be shown."""

    kind: Kind
    text: str


def turn_end(text: str, dialect: Dialect) -> int | None:
    """Where a turn that is said so far has come to its end, in characters: behind the first answer or request that is closed
    outside of thinking. None where it may still go on.

    A request to which others may be added ends the turn when something else follows.
    """
    grammar = dialect.grammar
    closing = ([grammar.closes or grammar.opens] if grammar else []) + ([_ANSWERED] if dialect.answer_tags else [])
    if not any(mark in text for mark in closing):
        return None
    for start, end in _outside(text):
        asked = text.find(grammar.opens, start, end) if grammar else -1
        answered = text.find(_ANSWER, start, end) if dialect.answer_tags else -1
        if answered >= 0 and (asked < 0 or answered < asked):
            closed = text.find(_ANSWERED, answered, end)
            return closed + len(_ANSWERED) if closed >= 0 else None
        if grammar and asked >= 0:
            return _request_end(text, asked, grammar.opens, grammar.closes, several=grammar.several)
    return None


def _request_end(text: str, at: int, opens: str, closes: str, *, several: bool) -> int | None:
    while True:
        closed = text.find(closes, at + len(opens))
        if closed < 0:
            return None
        end = closed + len(closes)
        following = text[end:].lstrip()
        if not several or (following and not following.startswith(opens) and not opens.startswith(following)):
            return end
        if not following.startswith(opens):
            return None
        at = text.index(opens, end)


def _outside(text: str) -> list[tuple[int, int]]:
    """Where a reply is not thinking: begin and end of each part, in characters. Thinking that opened before the turn ends at its
    first `</think>`."""
    parts, begin = [], 0
    for found in re.finditer(rf"{_THINK}|{_THOUGHT}", text):
        if begin < 0 and found[0] == _THOUGHT:
            begin = found.end()
        elif begin >= 0:
            parts += [(begin, found.start())] if found[0] == _THINK else []
            begin = -1 if found[0] == _THINK else found.end()
    return parts + ([(begin, len(text))] if begin >= 0 else [])


@functools.cache
def _patterns(tags: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds tags in a text, and the beginning of one at its end."""
    begins = sorted({tag[:n] for tag in tags for n in range(1, len(tag))})
    return re.compile("|".join(map(re.escape, tags))), re.compile(rf"(?:{'|'.join(map(re.escape, begins))})\Z")


class Reader:
    """Reads one reply. What it does with a piece takes time in proportion to the piece.

    Args:
        dialect: the one that is spoken.
        opens: what opens a request, also where none can be made: it is not shown then either.
    """

    def __init__(self, dialect: Dialect, opens: str = ""):
        self._dialect, self._opens = dialect, opens
        tags = (_THINK, _THOUGHT, *((_ANSWER, _ANSWERED) if dialect.answer_tags else ()), *((opens,) if opens else ()))
        self._tags, self._begun = _patterns(tags)
        self._flowing = dialect.grammar is None and not dialect.answer_tags
        """Whether text is given out that is not marked as the answer."""
        self._mode: _Mode = "outside"
        self._before_thinking: _Mode = "outside"
        self._unread = ""
        """What may be the beginning of a tag."""
        self._held = ""
        self._blank: dict[Kind, str | None] = {"thought": None, "text": None}
        """White space that is given out if something follows; None where nothing was given out yet."""

    def feed(self, text: str) -> list[Piece]:
        """What can be shown now that this was said."""
        self._unread += text
        pieces: list[Piece] = []
        at = 0
        for tag in self._tags.finditer(self._unread):
            self._say(self._unread[at : tag.start()], pieces)
            self._pass(tag[0], pieces)
            at = tag.end()
        rest = self._unread[at:]
        begun = self._begun.search(rest)
        end = begun.start() if begun else len(rest)
        self._say(rest[:end], pieces)
        self._unread = rest[end:]
        return pieces

    def finish(self) -> list[Piece]:
        """What can be shown now that the reply has ended."""
        pieces: list[Piece] = []
        self._say(self._unread, pieces)
        self._unread = ""
        if self._mode in ("outside", "thinking"):
            self._give("text", self._held, pieces)
        self._held = ""
        return pieces

    def release(self) -> list[Piece]:
        """Hold nothing back any more but what is a request for sure."""
        pieces: list[Piece] = []
        if self.holding:
            self._flowing = True
            self._give("text", self._held, pieces)
            self._held = ""
        return pieces

    @property
    def holding(self) -> bool:
        """Whether something was said that is not thinking and is not shown, since it may become a request."""
        return self._mode in ("outside", "thinking") and bool((self._held + self._unread).strip())

    def ends(self, text: str) -> bool:
        """Whether something follows in a reply behind the end of its turn, so that the rest need not be heard."""
        end = self.end(text)
        return end is not None and bool(text[end:].strip())

    def end(self, text: str) -> int | None:
        """Where the turn of a reply has come to its end, in characters; see `turn_end`."""
        return turn_end(text, self._dialect)

    def _pass(self, tag: str, pieces: list[Piece]) -> None:
        """Go from one part of the reply to the next."""
        if self._mode == "over":
            return
        if tag == _THINK and self._mode != "thinking":
            self._before_thinking, self._mode = self._mode, "thinking"
        elif tag == _THOUGHT:
            if self._mode == "thinking":
                self._mode = self._before_thinking
            elif self._mode == "outside" and not self._flowing:  # it opened before the turn
                self._give("thought", self._held, pieces)
                self._held = ""
        elif self._mode == "thinking":
            self._say(tag, pieces)
        elif tag == _ANSWER:
            self._mode, self._held = "answer", ""
        elif tag == self._opens or self._mode == "answer":
            self._mode, self._held = "over", ""

    def _say(self, text: str, pieces: list[Piece]) -> None:
        if self._mode == "thinking":
            self._give("thought", text, pieces)
        elif self._mode == "answer" or (self._mode == "outside" and self._flowing):
            self._give("text", text, pieces)
        elif self._mode == "outside":
            self._held += text

    def _give(self, kind: Kind, text: str, pieces: list[Piece]) -> None:
        """Without white space at the beginning and at the end of all that is given out of a kind."""
        blank = self._blank[kind]
        whole = text.lstrip() if blank is None else blank + text
        shown = whole.rstrip()
        if shown:
            pieces.append(Piece(kind, shown))
        if shown or blank is not None:
            self._blank[kind] = whole[len(shown) :]
