"""Replies of a local model while they are sampled: ids to text, text to callbacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from tokenizers.decoders import DecodeStream

from visionthink.policies.render import Renderer
from visionthink.types import Completion, FinishReason

TextCallback: TypeAlias = Callable[[str, int], FinishReason | None]
"""Is given the text of a reply so far and its number of tokens, after every token; says how the reply ends there, if it does."""


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


def token_texts(renderer: Renderer, ids: Sequence[int]) -> tuple[str, ...]:
    """What each id of a whole reply has added to its text. Half a character at the end is the text of the last."""
    stream = TextStream(renderer)
    for token in ids:
        stream.add(token)
    *added, last = stream.added
    return (*added, last + renderer.decode(ids).removeprefix(stream.text))


class TokenStreams:
    """Hands the tokens of rows to their callbacks as text; see `engine.sampling.Listen`."""

    def __init__(self, renderer: Renderer, callbacks: Sequence[TextCallback]):
        self._callbacks, self._end_ids = callbacks, frozenset(renderer.end_ids)
        self._streams = [TextStream(renderer) for _ in callbacks]
        self._endings: dict[int, FinishReason] = {}

    def __call__(self, rows: Sequence[int], tokens: Sequence[int]) -> Collection[int]:
        for row, token in zip(rows, tokens, strict=True):
            stream = self._streams[row]
            stream.add(token)
            ending = self._callbacks[row](stream.text, len(stream.added))
            if ending and token not in self._end_ids:
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
