"""What a model says, as events while it is said: thoughts and text, never a request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import replace

from visionthink.episode import Speaker
from visionthink.protocol import Piece, Reader
from visionthink.serve.events import Text, Thought
from visionthink.serve.stages import Round
from visionthink.types import Completion, History

HOLD_PIECES, HOLD_SECONDS = 48, 3.0
"""Pieces, and seconds from the first of them, for which text of a streamed answer is held back that may still become a request.
The seconds are looked at when a piece comes."""
_BETWEEN_TURNS = "\n\n"


class ReplyStream:
    """The replies of one answer, turn by turn.

    Args:
        streamed: whether the client is sent pieces as they come. Only then is text given out before it is known not to become a
            request.
    """

    def __init__(self, *, streamed: bool):
        self.answered = False
        """Whether the last turn has given out text."""
        self.completion = Completion.failed("server", "the model said nothing")
        """The last reply, up to the end of its turn."""
        self._streamed = streamed
        self._turn = 0
        self._turn_of: dict[str, int] = {}
        """The last turn in which something of a kind was given out."""

    async def reply(self, speaker: Speaker, history: History, reader: Reader) -> AsyncGenerator[Thought | Text]:
        """What can be given out of the next reply; `completion` is all of it afterwards."""
        self._turn += 1
        self.answered = False
        self.completion = Completion.failed("server", "the reply broke off")
        held, since = 0, 0.0
        with Round() as timed:
            async with contextlib.aclosing(speaker.speak(history, reader.ends)) as pieces:
                async for said in pieces:
                    if isinstance(said, Completion):
                        self.completion = timed.completion = said
                        break
                    timed.heard()
                    shown = reader.feed(said)
                    if self._streamed and reader.holding:
                        since = since if held else time.perf_counter()
                        held += 1
                        if held >= HOLD_PIECES or time.perf_counter() - since >= HOLD_SECONDS:
                            shown += reader.release()
                    for event in self._events(shown):
                        yield event
        if self.completion.finish_reason in ("stop", "length"):
            for event in self._events(reader.finish()):
                yield event
            self.completion = _until(self.completion, reader.end(self.completion.text))

    def _events(self, pieces: list[Piece]) -> list[Thought | Text]:
        events: list[Thought | Text] = []
        for piece in pieces:
            before = self._turn_of.get(piece.kind, self._turn)
            text = (_BETWEEN_TURNS if before < self._turn else "") + piece.text
            self._turn_of[piece.kind] = self._turn
            self.answered |= piece.kind == "text"
            events.append(Thought(text) if piece.kind == "thought" else Text(text))
        return events


def _until(completion: Completion, end: int | None) -> Completion:
    """A reply up to the end of its turn. What stands behind it was not to be heard; ids are cut where token texts say where."""
    if end is None or not completion.text[end:].strip():
        return completion
    kept = length = 0
    for text in completion.token_texts:
        if length >= end:
            break
        length, kept = length + len(text), kept + 1
    if length != end:  # no token ends there: the next prompt is made of the text
        kept = 0
    return replace(
        completion,
        text=completion.text[:end],
        token_ids=completion.token_ids[:kept],
        token_texts=completion.token_texts[:kept],
        logprobs=completion.logprobs[:kept] if completion.logprobs else None,
        spreads=completion.spreads[:kept],
    )
