"""What a finished answer cost, and what it would have cost with every image at full."""

from __future__ import annotations

from dataclasses import dataclass


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
