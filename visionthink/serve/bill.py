"""What a finished answer cost, and what it would have cost with every image at full."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from visionthink.transcript import Transcript
from visionthink.types import Completion

_CHARACTERS = 4
"""Characters of a token, where nobody counts tokens."""


@dataclass(frozen=True, kw_only=True)
class Bill:
    """Usage of an answer, summed over its rounds."""

    prompt_tokens: int
    completion_tokens: int
    prompt_image_tokens: int
    """Visual tokens out of `prompt_tokens`: each round is sent the views of those before it again."""
    image_tokens: int
    """Visual tokens of the views of all rounds, each counted once, where it was first shown."""
    image_tokens_full: int
    """If every image had been shown at full, by the model's own rule."""
    cached_tokens: int | None = None
    """Prompt tokens that came out of a cache; None where the model does not say."""
    rounds: int = 1
    looks: int = 0
    """Views shown after the opening."""
    measured: bool
    """Whether all of this was counted by what answered, and its image tokens are those of the model's own rule, so that they can
    be set against `image_tokens_full`. Otherwise a part of it is estimated: tokens of texts from their characters, those of
    images from their sizes."""
    rule: str
    """Which rule decided."""
    seconds: float

    @property
    def saved(self) -> int:
        """Visual tokens; negative where the answer cost more than with every image at full."""
        return self.image_tokens_full - self.image_tokens

    @classmethod
    def of(
        cls,
        transcripts: Sequence[Transcript],
        completions: Sequence[Completion],
        *,
        rule: str,
        measured: bool,
        seconds: float,
        asked: str = "",
    ) -> Bill:
        """The bill of one answer, for which one episode was run, or several about the same images: what a later one shows was
        looked at after the opening, too.

        Args:
            transcripts: of the episodes; none where there are no images.
            completions: of all rounds.
            seconds: from the request to the end of the answer.
            measured: whether the image tokens were counted by what answered.
            asked: the texts of the conversation, where there are no transcripts to take them from.
        """
        contexts = [context for transcript in transcripts for context in _contexts(transcript)] or [(0, len(asked))]
        rounds = [_Round.of(completion, *context) for completion, context in zip(completions, contexts, strict=True)]
        shown = sum(transcript.visual_tokens for transcript in transcripts)
        opening = len(transcripts[0].turns[0].views) if transcripts else 0
        cached = [completion.cached_tokens for completion in completions if completion.cached_tokens is not None]
        return cls(
            prompt_tokens=sum(one.prompt_tokens for one in rounds),
            completion_tokens=sum(one.output_tokens for one in rounds),
            prompt_image_tokens=sum(one.image_tokens for one in rounds),
            image_tokens=shown,
            image_tokens_full=transcripts[0].visual_tokens_full if transcripts else 0,
            cached_tokens=sum(cached) if cached else None,
            rounds=len(completions),
            looks=sum(len(transcript.views) for transcript in transcripts) - opening,
            measured=measured and all(one.counted for one in rounds) and _agree(transcripts, completions),
            rule=rule,
            seconds=seconds,
        )

    # -------------------------------------------------------------------------------------------- what a client is told

    def record(self) -> dict[str, Any]:
        """The `visionthink` object of an answer."""
        return {
            "looks": self.looks,
            "rounds": self.rounds,
            "image_tokens": self.image_tokens,
            "image_tokens_full": self.image_tokens_full,
            "saved": self.saved,
            "measured": self.measured,
            "rule": self.rule,
            "seconds": round(self.seconds, 4),
        }

    def chat_usage(self, *, thought: bool) -> dict[str, Any]:
        """`usage` of chat completions. Details that are not known are left out.

        Args:
            thought: whether the answer has thoughts. Their tokens are not counted apart from the others.
        """
        prompt = {"image_tokens": self.prompt_image_tokens}
        if self.cached_tokens is not None:
            prompt["cached_tokens"] = self.cached_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": prompt,
            "completion_tokens_details": {} if thought else {"reasoning_tokens": 0},
            "visionthink": self.record(),
        }

    def responses_usage(self) -> dict[str, Any]:
        """`usage` of the Responses API. It wants numbers where none may be known; those are 0, as with other servers of it."""
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": self.cached_tokens or 0,
                "cache_write_tokens": 0,
                "image_tokens": self.prompt_image_tokens,
            },
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "visionthink": self.record(),
        }

    def headers(self) -> dict[str, str]:
        """The headers of a response that is not streamed."""
        names = ("looks", "image_tokens", "image_tokens_full", "saved", "rule")
        return {f"x-visionthink-{name.replace('_', '-')}": str(getattr(self, name)) for name in names}


@dataclass(frozen=True, kw_only=True)
class _Round:
    """Usage of one round."""

    prompt_tokens: int
    image_tokens: int
    output_tokens: int
    counted: bool
    """Whether nothing is estimated."""

    @classmethod
    def of(cls, completion: Completion, image_tokens: int, characters: int) -> _Round:
        """
        Args:
            image_tokens, characters: of the context, by the transcript.
        """
        prompt = completion.prompt_tokens if completion.prompt_tokens is not None else len(completion.prompt_ids)
        output = completion.output_tokens if completion.output_tokens is not None else len(completion.token_ids)
        images = image_tokens if completion.visual_tokens is None else completion.visual_tokens
        said = completion.text + (json.dumps(completion.calls) if completion.calls else "")
        return cls(
            prompt_tokens=max(prompt, images) if prompt else images + _estimated(characters),
            image_tokens=images,
            output_tokens=output or len(completion.token_texts) or _estimated(len(said)),
            counted=prompt >= max(images, 1) and (output > 0 or not said),
        )


def _estimated(characters: int) -> int:
    """Tokens of a text."""
    return -(-characters // _CHARACTERS)


def _contexts(transcript: Transcript) -> Iterator[tuple[int, int]]:
    """Visual tokens and characters that the model was sent in each turn."""
    images = characters = said = 0
    for turn in transcript.turns:
        images += turn.usage.visual_tokens
        characters += len(turn.prompt) + (0 if turn.restarted else said)
        yield images, characters
        said = len(turn.text)


def _agree(transcripts: Sequence[Transcript], completions: Sequence[Completion]) -> bool:
    """Whether the views of the opening were counted as our rule has it."""
    counted = completions[0].visual_tokens if completions else None
    if counted is None or not transcripts:
        return True
    return counted == sum(view.visual_tokens for view in transcripts[0].turns[0].views)
