"""A reply read while it is said: thinking and answer are given out as they come, a request never is.

What may still become a request is held back. The pieces that are given out are the same however the reply is cut, unless what is
held back is released.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from visionthink.protocol.dialects import Dialect

_THINK, _THOUGHT = "<think>", "</think>"
_ANSWER, _ANSWERED = "<answer>", "</answer>"


@dataclass(frozen=True)
class Piece:
    """A part of a reply that can be shown."""

    kind: Literal["thought", "text"]
    text: str


def turn_end(text: str, dialect: Dialect) -> int | None:
    """Where a turn that is said so far has come to its end, in characters: behind the first answer or request that is closed
    outside of thinking. None where it may still go on.

    A request to which others may be added ends the turn when something else follows.
    """
    for start, end in _outside(text):
        grammar = dialect.grammar
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


class Reader:
    """Reads one reply.

    Args:
        dialect: the one that is spoken.
        opens: what opens a request, also where none can be made: it is not shown then either.
    """

    def __init__(self, dialect: Dialect, opens: str = ""):
        self._dialect, self._opens = dialect, opens
        self._tags = [tag for tag in (_THINK, _THOUGHT, _ANSWER, _ANSWERED, self._opens) if tag]
        self._flowing = dialect.grammar is None and not dialect.answer_tags
        """Whether text is given out that is not marked as the answer."""
        self.text = ""
        """All that was said so far."""
        self._given = {"thought": 0, "text": 0}
        """Characters."""

    def feed(self, text: str) -> list[Piece]:
        """What can be shown now that this was said."""
        self.text += text
        return self._pieces(ended=False)

    def finish(self) -> list[Piece]:
        """What can be shown now that the reply has ended."""
        return self._pieces(ended=True)

    def release(self) -> list[Piece]:
        """Hold nothing back any more but what is a request for sure."""
        self._flowing = self._flowing or self.holding
        return self._pieces(ended=False)

    @property
    def holding(self) -> bool:
        """Whether something was said that is not thinking and is not shown, since it may become a request."""
        outside = self._split(self.text)[1]
        return not self._flowing and bool(outside.strip()) and not self._shown(outside, ended=False)

    @property
    def end(self) -> int | None:
        """Where the turn has come to its end, in characters; see `turn_end`."""
        return turn_end(self.text, self._dialect)

    def ends(self, text: str) -> bool:
        """Whether something follows in a reply behind the end of its turn, so that the rest need not be heard."""
        end = turn_end(text, self._dialect)
        return end is not None and bool(text[end:].strip())

    def _pieces(self, *, ended: bool) -> list[Piece]:
        text = self.text[: self.end]
        if not ended:
            text = text[: len(text) - _tag_begun(text, self._tags)]
        thought, outside = self._split(text)
        found: list[tuple[Literal["thought", "text"], str]] = [("thought", thought), ("text", self._shown(outside, ended=ended))]
        pieces = []
        for kind, whole in found:
            whole = whole.strip()
            if new := whole[self._given[kind] :]:
                pieces.append(Piece(kind, new))
                self._given[kind] = len(whole)
        return pieces

    def _split(self, text: str) -> tuple[str, str]:
        """Thinking, and what is said outside of it."""
        thought = outside = ""
        thinks = False
        for part in re.split(rf"({_THINK}|{_THOUGHT})", text):
            if part not in (_THINK, _THOUGHT):
                thought, outside = (thought + part, outside) if thinks else (thought, outside + part)
            elif part == _THOUGHT and not thinks and not self._flowing:  # it opened before the turn
                thought, outside = thought + outside, ""
            thinks = part == _THINK or (thinks and part != _THOUGHT)
        return thought, outside

    def _shown(self, outside: str, *, ended: bool) -> str:
        """What can be shown of what is said outside of thinking."""
        asked = outside.find(self._opens) if self._opens else -1
        answered = outside.find(_ANSWER) if self._dialect.answer_tags else -1
        before = outside if asked < 0 else outside[:asked]
        if self._flowing:
            return before.replace(_ANSWER, "").replace(_ANSWERED, "") if self._dialect.answer_tags else before
        if answered >= 0 and (asked < 0 or answered < asked):
            return outside[answered + len(_ANSWER) :].partition(_ANSWERED)[0]
        return before if ended and asked < 0 else ""


def _tag_begun(text: str, tags: list[str]) -> int:
    """Characters at the end of a text that may be the beginning of a tag."""
    return max(
        (n for tag in tags for n in range(1, len(tag)) if text.endswith(tag[:n])),
        default=0,
    )
