"""Replies of a local model heard while they are sampled: ids to text, text to whoever listens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from tokenizers.decoders import DecodeStream

from visionthink.policies.render import Renderer
from visionthink.types import Completion, FinishReason

Listener: TypeAlias = Callable[[str], FinishReason | None]
"""Is given all that a reply has said so far, after every token; the reason, where the reply ends there."""


class TextStream:
    """The text of a reply while its ids are sampled. A character that is not complete yet is held back."""

    def __init__(self, renderer: Renderer):
        self.text = ""
        """All of it so far."""
        self.added: list[str] = []
        """What each id has added."""
        self._tokenizer, self._not_said = renderer.tokenizer.backend_tokenizer, renderer.not_said
        self._decoder = DecodeStream(skip_special_tokens=False)

    def add(self, token: int) -> None:
        self.added.append("" if token in self._not_said else self._decoder.step(self._tokenizer, token) or "")
        self.text += self.added[-1]


class Hearing:
    """Hands the tokens of rows to their listeners as text; see `engine.sampling.Listen`."""

    def __init__(self, renderer: Renderer, listeners: Sequence[Listener]):
        self._listeners = listeners
        self._streams = [TextStream(renderer) for _ in listeners]
        self._endings: dict[int, FinishReason] = {}

    def __call__(self, rows: Sequence[int], tokens: Sequence[int]) -> Collection[int]:
        for row, token in zip(rows, tokens, strict=True):
            self._streams[row].add(token)
            if ending := self._listeners[row](self._streams[row].text):
                self._endings[row] = ending
        return self._endings

    def noted(self, completions: Sequence[Completion]) -> list[Completion]:
        """The completions of all rows with how they ended and the text that each of their tokens added."""
        return [self._noted(row, completion) for row, completion in enumerate(completions)]

    def _noted(self, row: int, completion: Completion) -> Completion:
        if completion.error:
            return completion
        *added, last = self._streams[row].added
        last += completion.text.removeprefix(self._streams[row].text)  # half a character at the end
        ending = self._endings.get(row, completion.finish_reason)
        return dataclasses.replace(completion, finish_reason=ending, token_texts=(*added, last))
