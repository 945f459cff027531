"""What a finished answer cost, and what it would have cost with every image at full."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visionthink.transcript import Transcript
from visionthink.types import Completion


@dataclass(frozen=True, kw_only=True)
class Bill:
    """Usage of an answer, summed over its rounds."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int
    """Visual tokens of the views of all rounds, each counted where it was first shown."""
    image_tokens_full: int
    """If every image had been shown at full."""
    cached_tokens: int | None = None
    """Prompt tokens that came out of a cache; None where the model does not say."""
    rounds: int = 1
    looks: int = 0
    """Views shown after the opening."""
    measured: bool
    """Whether the image tokens were counted by what answered; otherwise they follow from the sizes of the images."""
    rule: str
    """Which rule decided."""
    seconds: float
    first_token_seconds: float | None = None

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
        first_token_seconds: float | None = None,
    ) -> Bill:
        """The bill of one answer, for which one episode was run, or several about the same images: what a later one shows was
        looked at after the opening, too.

        Args:
            transcripts: of the episodes; none where there are no images.
            completions: of all rounds.
            seconds: from the request to the end of the answer.
            first_token_seconds: until the client was sent a first token.
        """
        shown = sum(transcript.visual_tokens for transcript in transcripts)
        opening = len(transcripts[0].turns[0].views) if transcripts else 0
        cached = [completion.cached_tokens for completion in completions if completion.cached_tokens is not None]
        return cls(
            prompt_tokens=max(shown, sum(map(_prompt_tokens, completions))),
            completion_tokens=sum(map(_output_tokens, completions)),
            image_tokens=shown,
            image_tokens_full=transcripts[0].visual_tokens_full if transcripts else 0,
            cached_tokens=sum(cached) if cached else None,
            rounds=len(completions),
            looks=sum(len(transcript.views) for transcript in transcripts) - opening,
            measured=measured,
            rule=rule,
            seconds=seconds,
            first_token_seconds=first_token_seconds,
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
        prompt = {"image_tokens": self.image_tokens}
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
                "image_tokens": self.image_tokens,
            },
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "visionthink": self.record(),
        }

    def headers(self) -> dict[str, str]:
        """Of a response that is not streamed."""
        names = ("looks", "image_tokens", "image_tokens_full", "saved", "rule")
        return {f"x-visionthink-{name.replace('_', '-')}": str(getattr(self, name)) for name in names}


def _prompt_tokens(completion: Completion) -> int:
    return len(completion.prompt_ids) if completion.prompt_tokens is None else completion.prompt_tokens


def _output_tokens(completion: Completion) -> int:
    return len(completion.token_ids) if completion.output_tokens is None else completion.output_tokens
