"""TRL's environment, driving *our* episode. Knows no prompt and no turn rule: it only translates.

TRL's loop sees one tool, `respond`. The tokenizer hook below turns every reply that the protocol continues (a request,
or a call that cannot be read) into a call of that tool; what comes back is the episode's next message.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visionthink.episode import Episode
from visionthink.errors import VisionThinkError
from visionthink.protocol import Answer, Protocol
from visionthink.resolution import PixelBudget, ResolutionLadder
from visionthink.types import Completion, Example, ImageView, Message, Transcript

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Blocks = list[dict[str, Any]]
"""Content blocks of a chat message as transformers and TRL want them."""


def blocks(message: Message) -> Blocks:
    """A message's content as content blocks; views become their images."""
    return [
        {"type": "image", "image": part.image} if isinstance(part, ImageView) else {"type": "text", "text": part}
        for part in message.content
    ]


@dataclass(frozen=True)
class EpisodeSource:
    """Makes the episode of a row: what every environment of a run shares."""

    examples: Mapping[str, Example]
    ladder: ResolutionLadder
    protocol: Protocol
    budget: PixelBudget

    @property
    def can_request(self) -> bool:
        """Whether episodes of this run have something to ask for; examples that do not are left out beforehand."""
        return len(self.ladder.levels) > 1 and self.protocol.can_ask

    def episode(self, example_id: str) -> Episode:
        return Episode(self.examples[example_id], self.ladder, self.protocol, budget=self.budget)


class ResolutionEnvironment:
    """One rollout of TRL's loop. `reset` and `respond` are TRL's to call; `finish` is the trainer's."""

    def __init__(self, source: EpisodeSource):
        self._source = source
        self._episode: Episode | None = None
        self._transcript: Transcript | None = None

    def reset(self, example_id: str, **_: Any) -> Blocks:
        self._episode, self._transcript = self._source.episode(example_id), None
        return blocks(self._episode.opening()[-1])

    def respond(self, text: str, token_ids: list, prompt_ids: list) -> Blocks:
        """Continue the episode after a turn that is not an answer.

        Args:
            text: What the model said.
            token_ids: The sampled ids.
            prompt_ids: All ids before them.
        """
        step = self._live().step(Completion(text, token_ids=tuple(token_ids), prompt_ids=tuple(prompt_ids)))
        if step.done:  # TRL would sample a turn the episode does not have
            raise VisionThinkError("the loop went on after the end of the episode")
        return blocks(step.new_messages[0])

    def _live(self) -> Episode:
        if self._episode is None:
            raise VisionThinkError("the environment was not reset")
        return self._episode

    def _finish(self, completion: Completion) -> Transcript:
        """Record the last turn; private so that TRL does not take it for a tool."""
        episode = self._live()
        episode.step(completion)
        self._transcript = episode.transcript()
        return self._transcript

    @property
    def transcript(self) -> Transcript:
        """The record of the finished rollout."""
        if self._transcript is None:
            raise VisionThinkError("the rollout has not ended")
        return self._transcript


def parse_response(
    tokenizer: PreTrainedTokenizerBase,
    source: EpisodeSource,
    ids: Sequence[int],
    prefix: Sequence[int] | None = None,
    tools: Any = None,
) -> dict[str, Any]:
    """What TRL should make of sampled ids: an answer is content; anything the episode replies to is a call of `respond`.

    A turn that was cut off (no end token) is never continued.
    """
    text, ended = read_turn(tokenizer, ids)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if ended and not isinstance(source.protocol.parse(text, can_request=source.can_request), Answer):
        arguments = {"text": text, "token_ids": list(ids), "prompt_ids": list(prefix or ())}
        message["tool_calls"] = [{"type": "function", "function": {"name": "respond", "arguments": arguments}}]
    return message


def read_turn(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, bool]:
    """(text without control tokens, whether the turn was ended by the model)."""
    ended = bool(ids) and ids[-1] in (tokenizer.eos_token_id, tokenizer.pad_token_id)
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), ended


def teach_tokenizer(tokenizer: PreTrainedTokenizerBase, source: EpisodeSource, template: str) -> None:
    """Give a tokenizer our reading of replies and our chat template, for TRL."""
    from trl.chat_template_utils import qwen3_template

    tokenizer.chat_template = template
    tokenizer.response_template = qwen3_template  # only its presence matters: the next line takes over the parsing
    tokenizer.parse_response = functools.partial(parse_response, tokenizer, source)


def forget_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Undo `teach_tokenizer`'s parsing, so that it is not saved with the model."""
    tokenizer.response_template = None
    del tokenizer.parse_response


def environment_factory(source: EpisodeSource) -> Callable[[], ResolutionEnvironment]:
    """What TRL calls for every rollout it needs room for."""
    return functools.partial(ResolutionEnvironment, source)
