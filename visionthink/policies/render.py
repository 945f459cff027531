"""Histories to token ids, token-in and token-out: next prompt = previous prompt + sampled ids + bridge.

Knows ChatML (`chatml`) and a tokenizer; nothing it has once produced is tokenised a second time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from visionthink import chatml
from visionthink.errors import ModelError
from visionthink.protocol import Boundary
from visionthink.types import Completion, History, ImageView

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase


_REMEMBERED = 20_000
"""Characters of a text whose ids are kept: prompts of ours and most questions."""


class Renderer:
    """Turns a conversation into the ids a Qwen-VL model reads.

    Raises:
        ModelError: the tokenizer lacks a control token of ChatML.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, boundary: Boundary = "chatml"):
        self.tokenizer, self.boundary = tokenizer, boundary
        self._ids_of = functools.lru_cache(maxsize=1024)(self._tokenised)
        vocabulary = tokenizer.get_vocab()
        needed = (chatml.TURN_START, chatml.TURN_END, chatml.VISION_START, chatml.VISION_END, chatml.IMAGE_PAD)
        if missing := [token for token in needed if token not in vocabulary]:
            raise ModelError(f"the tokenizer has no {missing[0]}: not a Qwen-VL tokenizer")
        self._control = {token: vocabulary[token] for token in needed}
        self.end_id: int = vocabulary[chatml.TURN_END]
        self.image_pad_id: int = vocabulary[chatml.IMAGE_PAD]
        self.end_ids = sorted({self.end_id, *(vocabulary[t] for t in (chatml.END_OF_TEXT,) if t in vocabulary)})
        named = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
        marks = {vocabulary[t] for t in (*chatml.CONTROL_TOKENS, *chatml.NEVER_SAMPLED) if t in vocabulary}
        self.not_said = marks | {token for token in named if token is not None}
        """Ids that are no text."""
        self.never_sampled = sorted(vocabulary[t] for t in chatml.NEVER_SAMPLED if t in vocabulary)

    def prompt_ids(self, history: History) -> list[int]:
        """All ids up to and including the header of the reply that is wanted."""
        last = max((i for i, m in enumerate(history) if m.completion is not None), default=None)
        if last is None:
            return self.encode(chatml.opening(history, self.boundary))
        said = history[last].completion
        assert said is not None
        prompt = said.prompt_ids or self.prompt_ids(history[:last])  # a completion that only has text gets its ids now
        sampled = list(said.token_ids or self.plain(said.text))
        if sampled[-1:] != [self.end_id]:  # a turn that was cut off still has to end
            sampled.append(self.end_id)
        return [*prompt, *sampled, *self.encode(chatml.bridge(history[last + 1 :], self.boundary))]

    def encode(self, pieces: Iterable[chatml.Piece]) -> list[int]:
        """Ids of ChatML pieces. Control tokens inside plain text are text; an image is as many pads as it has visual tokens."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, ImageView):
                ids += [self.image_pad_id] * piece.visual_tokens
            elif isinstance(piece, chatml.Markup):
                ids.append(self._control[piece.token])
            else:
                ids += self.plain(piece)
        return ids

    def plain(self, text: str) -> list[int]:
        """Ids of text in which control tokens are only characters."""
        return list(self._ids_of(text) if len(text) <= _REMEMBERED else self._tokenised(text))

    def _tokenised(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of sampled ids: all that was said, without the marks of turns and images, padding and the like.

        What a tokenizer calls special is not left out for that: a model may be tuned to say <answer> as a special token.
        """
        said = [token for token in ids if token not in self.not_said]
        return self.tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def own_ids(self, text: str) -> list[int]:
        """Added tokens that hold `text`: where there are any, banning them keeps it from being said."""
        return [i for i, token in self.tokenizer.added_tokens_decoder.items() if text in token.content]

    def dress(self, completion: Completion, history: History) -> Completion:
        """Give a completion that only has text the ids a sampled one would have."""
        prompt = self.prompt_ids(history)
        ended = completion.finish_reason == "stop"
        sampled = completion.token_ids or (*self.plain(completion.text), *([self.end_id] if ended else []))
        return dataclasses.replace(
            completion,
            prompt_ids=tuple(prompt),
            token_ids=tuple(sampled),
        )


def views(history: History) -> list[ImageView]:
    """Every view in a history, in order."""
    return [part for message in history for part in message.content if isinstance(part, ImageView)]


def shown(histories: Sequence[History]) -> list[list[Image]]:
    """The images of each history, in order."""
    return [[view.image for view in views(history)] for history in histories]


def one_pad_an_image(ids: Sequence[int], pad: int) -> list[int]:
    """Runs of image pads shortened to one. Two images never touch: each stands between its own marks."""
    return [token for token, before in zip(ids, [None, *ids], strict=False) if token != pad or before != pad]


def within_context(
    prompts: Sequence[Sequence[int]], context: int, complete: Callable[[list[int]], list[Completion]]
) -> list[Completion]:
    """One completion per prompt, in order; an error where a prompt leaves the model's context no room for an answer.

    Args:
        complete: gets the indices of the other prompts and returns their completions.
    """
    fitting = [i for i, ids in enumerate(prompts) if len(ids) < context]
    said = dict(zip(fitting, complete(fitting), strict=True)) if fitting else {}
    too_long = "the prompt takes {} tokens, and the model reads {}"
    return [
        said[i] if i in said else Completion.failed("context", too_long.format(len(ids), context))
        for i, ids in enumerate(prompts)
    ]
