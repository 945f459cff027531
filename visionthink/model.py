"""`load()`: a model, its protocol and its ladder behind one question-answering method."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink.episode import Episode, Policy, run_batch
from visionthink.errors import OptionError
from visionthink.images import MAX_IMAGE_PIXELS
from visionthink.protocol import Protocol
from visionthink.resolution import PixelBudget, ResolutionLadder
from visionthink.types import Example, ImageSource, Transcript


@dataclass(frozen=True)
class Result:
    """What `ask` returns. `answer` is None when the episode ended without one; `transcript.stop_reason` says why."""

    answer: str | None
    levels: tuple[float, ...]
    """The levels the model was shown."""
    usage: dict[str, float]
    transcript: Transcript


class Model:
    """A policy that speaks a protocol over a ladder."""

    def __init__(
        self,
        policy: Policy,
        protocol: Protocol,
        ladder: ResolutionLadder,
        budget: PixelBudget,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ):
        self.policy, self.protocol, self.ladder, self.budget = policy, protocol, ladder, budget
        self.max_image_pixels = max_image_pixels

    def episode(self, example: Example, ladder: ResolutionLadder | None = None) -> Episode:
        """A fresh episode over an example."""
        return Episode(example, ladder or self.ladder, self.protocol, budget=self.budget, max_image_pixels=self.max_image_pixels)

    def run(self, examples: Sequence[Example], ladder: ResolutionLadder | None = None) -> list[Transcript]:
        """Transcripts of many examples, in order."""
        return run_batch([self.episode(example, ladder) for example in examples], self.policy)

    def ask(self, image: ImageSource, question: str, *, ladder: ResolutionLadder | Sequence[float] | None = None) -> Result:
        """Answer a question about an image (a path, the bytes of a file, or an opened image).

        Raises:
            ImageError: the image cannot be used.
            OptionError: the question is not text.
        """
        if not isinstance(question, str):
            raise OptionError(f"question {question!r}: must be text")
        if ladder is not None and not isinstance(ladder, ResolutionLadder):
            ladder = ResolutionLadder(tuple(ladder))
        [transcript] = self.run([Example("ask", question, image)], ladder)
        return Result(transcript.answer, transcript.levels_seen, transcript.usage(), transcript)


def load(
    name: str | Path = "tiny",
    *,
    ladder: ResolutionLadder | Sequence[float] | None = None,
    dialect: str | None = None,
    boundary: str | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    **sampling: Any,
) -> Model:
    """Open a model: `tiny`, `tiny-base`, a checkpoint folder, or a hub id.

    Args:
        ladder: levels to climb; default (0.25, 1).
        dialect, boundary: override what is stored beside the checkpoint, see `protocol.Protocol`.
        max_image_pixels: larger images are refused by their header, before they are unpacked.
        sampling: `temperature`, `max_new_tokens`, `batch_size`, `seed` of `policies.local.LocalPolicy`;
            `device`, `dtype` of `policies.checkpoint.open_checkpoint`.

    Raises:
        ModelError: the checkpoint cannot be loaded.
    """
    from visionthink.policies.checkpoint import open_checkpoint

    where = {key: sampling.pop(key) for key in ("device", "dtype") if key in sampling}
    checkpoint = open_checkpoint(str(name), **where)
    chosen: dict[str, Any] = {"dialect": dialect, "boundary": boundary}
    protocol = dataclasses.replace(checkpoint.protocol, **{k: v for k, v in chosen.items() if v})
    from visionthink.policies.local import LocalPolicy

    if isinstance(ladder, str):
        ladder = ResolutionLadder.parse(ladder)
    if ladder is not None and not isinstance(ladder, ResolutionLadder):
        ladder = ResolutionLadder(tuple(ladder))
    policy = LocalPolicy(checkpoint, protocol=protocol, **sampling)
    return Model(policy, protocol, ladder or ResolutionLadder(), checkpoint.budget, max_image_pixels)
