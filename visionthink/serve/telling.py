"""What a model says, given out while it is said: thoughts and text, never a request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from visionthink.episode import Speaker
from visionthink.protocol import Piece, Reader
from visionthink.serve.events import Text, Thought
from visionthink.types import Completion, History

HOLD_PIECES, HOLD_SECONDS = 48, 3.0
"""Pieces, and seconds from the first of them, for which text is held back that may still become a request."""
_BETWEEN = "\n\n"
"""Between what was said in one turn and in the next."""


class Teller:
    """Gives out the replies of one answer, turn by turn.

    Args:
        started: when the request came, by `time.perf_counter`.
    """

    def __init__(self, started: float):
        self.first_token_seconds: float | None = None
        """From the request until something was given out."""
        self.answering = False
        """Whether any text of an answer was given out."""
        self.completion = Completion.failed("server", "the model said nothing")
        """The last reply, up to the end of its turn."""
        self._started = started
        self._turn: dict[str, int] = {}
        self._turns = 0

    async def reply(self, speaker: Speaker, history: History, reader: Reader) -> AsyncGenerator[Thought | Text]:
        """What can be given out of one reply; `completion` is all of it afterwards."""
        self._turns += 1
        held, since = 0, 0.0
        async with contextlib.aclosing(speaker.speak(history, reader.ends)) as pieces:
            async for said in pieces:
                if isinstance(said, Completion):
                    self.completion = said
                    break
                told = reader.feed(said)
                if reader.holding:
                    since = since if held else time.perf_counter()
                    held += 1
                    if held >= HOLD_PIECES or time.perf_counter() - since >= HOLD_SECONDS:
                        told += reader.release()
                for event in self._told(told):
                    yield event
        if self.completion.finish_reason in ("stop", "length"):
            for event in self._told(reader.finish()):
                yield event
            self.completion = _until(self.completion, reader.end)

    def _told(self, pieces: list[Piece]) -> list[Thought | Text]:
        events: list[Thought | Text] = []
        for piece in pieces:
            if self.first_token_seconds is None:
                self.first_token_seconds = time.perf_counter() - self._started
            before = self._turn.get(piece.kind, self._turns)
            text = (_BETWEEN if before < self._turns else "") + piece.text
            self._turn[piece.kind] = self._turns
            self.answering |= piece.kind == "text"
            events.append(Thought(text) if piece.kind == "thought" else Text(text))
        return events


def _until(completion: Completion, end: int | None) -> Completion:
    """A reply up to the end of its turn. What stands behind it was not to be heard; ids are cut where token texts say where."""
    if end is None or not completion.text[end:].strip():
        return completion
    kept, length = 0, 0
    for text in completion.token_texts:
        if length >= end:
            break
        length, kept = length + len(text), kept + 1
    if length != end:  # no token ends there: the next prompt is made of the text
        kept = 0
    logprobs = completion.logprobs[:kept] if completion.logprobs else None
    return replace(
        completion,
        text=completion.text[:end],
        token_ids=completion.token_ids[:kept],
        token_texts=completion.token_texts[:kept],
        logprobs=logprobs,
    )
