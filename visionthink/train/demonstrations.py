"""Transcripts to learn from: chosen, replayed as episodes, and made into batches when their turn comes.

A transcript is replayed through our episode, so that a model learns exactly the tokens it will meet, and only those that a model
says. What is kept in memory is the transcript; its images are opened when a batch needs them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from visionthink.episode import Episode, run_batch
from visionthink.errors import DataError, OptionError
from visionthink.menu import Edit
from visionthink.picture import Picture, measured, source_name
from visionthink.policies.render import Renderer, views
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.protocol import Protocol
from visionthink.rewards.format import format_reward
from visionthink.rewards.judge import Verdict
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.sequences import sequences
from visionthink.transcript import Transcript, Turn
from visionthink.types import Box, Completion, Example


@dataclass(frozen=True)
class Demonstration:
    """A transcript with all its token ids, and the views it shows, in order."""

    transcript: Transcript
    images: tuple[Image.Image, ...]


def choose(
    transcripts: Sequence[Transcript], verdicts: Sequence[Verdict], protocol: Protocol, *, most: int = 0, seed: int = 0
) -> list[Transcript]:
    """Correct and well-formed transcripts, as many with a request as without (the paper's 1:1), in random order; no more than
    `most`, where that is above 0.

    Raises:
        DataError: one of the two kinds is missing.
    """
    good = [t for t, v in zip(transcripts, verdicts, strict=True) if v.verdict == "correct" and format_reward(t, protocol)]
    asked, direct = [t for t in good if t.requested], [t for t in good if not t.requested]
    if not asked or not direct:
        unscored = sum(v.verdict == "unscored" for v in verdicts)
        raise DataError(
            f"demonstrations: {len(asked)} good transcripts with a request, {len(direct)} without, of {len(transcripts)} "
            f"({unscored} unscored); both are needed"
        )
    order = random.Random(seed)
    n = min(len(asked), len(direct), most // 2 or len(good))
    chosen = [*order.sample(asked, n), *order.sample(direct, n)]
    order.shuffle(chosen)
    return chosen


class Demonstrations(Sequence[Demonstration]):
    """Transcripts, each replayed with its images when it is asked for.

    Raises, when one is:
        InputError: an image that could be measured cannot be opened.
    """

    def __init__(self, transcripts: Sequence[Transcript], source: EpisodeSource, renderer: Renderer):
        self.transcripts, self.source, self.renderer = transcripts, source, renderer

    def __len__(self) -> int:
        return len(self.transcripts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Demonstrations(self.transcripts[index], self.source, self.renderer)
        transcript = self.transcripts[index]
        [episode] = self.source.episodes(transcript.example_id, 1)
        replayed = _replayed(transcript, episode, self.renderer)
        return Demonstration(replayed, tuple(view.image for view in views(episode.history)))


def demonstrate(
    transcripts: Sequence[Transcript], source: EpisodeSource, renderer: Renderer, *, context: int = 0
) -> Demonstrations:
    """Transcripts, which may come from a file, as demonstrations. Each is replayed once without its images, which are measured by
    their headers, so that what cannot be learnt from is known before training. Sampled ids are kept as they are; where they are
    those of another tokenizer, the text is learnt from.

    Args:
        context: the most tokens a model reads; 0 does not limit them.

    Raises:
        DataError: there are none, an example is missing, or a transcript cannot be replayed, or is too long.
        ImageError: the header of an image cannot be read.
    """
    if not transcripts:
        raise DataError("demonstrations: there are none")
    for transcript in transcripts:
        if transcript.example_id not in source.examples:
            raise DataError(f"transcript {transcript.example_id}: its example is missing")
        example = source.examples[transcript.example_id]
        episode = Episode(example, _unopened(example), source.menu, source.protocol, budget=source.budget)
        tokens = max(len(sequence.ids) for sequence in sequences(_replayed(transcript, episode, renderer)))
        if 0 < context < tokens:
            raise DataError(
                f"transcript {example.id}: takes {tokens} tokens, and the model reads {context}; set max_image_tokens"
            )
    return Demonstrations(transcripts, source, renderer)


def _replayed(transcript: Transcript, episode: Episode, renderer: Renderer) -> Transcript:
    """The same turns in a new episode.

    Raises:
        DataError: the episode shows or says something else than it did, or ends otherwise.
    """
    name = f"transcript {transcript.example_id}"
    said = [Completion(turn.text, token_ids=_own_ids(turn, renderer)) for turn in transcript.turns]
    again = "was it sampled with another dialect, menu or ladder? Give the same here"
    try:
        [replayed] = run_batch([episode], ScriptedPolicy(said, renderer))
    except OptionError:  # the script is over, and the episode is not
        raise DataError(f"{name}: ended as {transcript.stop_reason}, replayed it goes on; {again}") from None
    if replayed.stop_reason != transcript.stop_reason or len(replayed.turns) != len(transcript.turns):
        raise DataError(f"{name}: ended as {transcript.stop_reason}, replayed as {replayed.stop_reason}; {again}")
    for number, (then, now) in enumerate(zip(transcript.turns, replayed.turns, strict=True), 1):
        if then.prompt != now.prompt:
            raise DataError(f"{name}: the prompt of turn {number} was {then.prompt!r:.80} and is {now.prompt!r:.80}; {again}")
    return replayed


def _own_ids(turn: Turn, renderer: Renderer) -> tuple[int, ...]:
    return turn.token_ids if renderer.decode(turn.token_ids) == turn.text else ()


class _Unopened(Picture):
    """A picture of which only the size is known. Its views have their sizes and show nothing."""

    _NOTHING = Image.new("RGB", (1, 1))

    def __init__(self, size: tuple[int, int], name: str):
        super().__init__(self._NOTHING, name=name)
        self._size = size

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def _pixels(self, box: Box, width: int, height: int, edit: Edit | None) -> Image.Image:
        return self._NOTHING


def _unopened(example: Example) -> list[Picture]:
    return [_Unopened(size, source_name(example, i)) for i, size in enumerate(measured(example, row=f"example {example.id}"))]


def collate(
    batch: Sequence[Demonstration], renderer: Renderer, image_processor: Any, *, padding: Literal["left", "right"] = "right"
) -> dict[str, torch.Tensor]:
    """Padded model inputs [batch, width] with labels, -100 where nothing was said by the model."""
    rows = [(d, sequence) for d in batch for sequence in sequences(d.transcript)]
    width = max(len(sequence.ids) for _, sequence in rows)

    def padded(values: Iterable[np.ndarray], fill: int) -> torch.Tensor:
        missing = ((row.tolist(), [fill] * (width - len(row))) for row in values)
        return torch.tensor([[*row, *fills] if padding == "right" else [*fills, *row] for row, fills in missing])

    ids = padded((sequence.ids for _, sequence in rows), renderer.tokenizer.pad_token_id)
    masks = padded((sequence.mask(d.transcript.loss_mask) for d, sequence in rows), 0)
    images = [image for d, sequence in rows for image in d.images[: sequence.views]]
    pixels = image_processor(images=images, return_tensors="pt")
    return {
        "input_ids": ids,
        "attention_mask": padded((np.ones_like(sequence.ids) for _, sequence in rows), 0),
        "mm_token_type_ids": (ids == renderer.image_pad_id).long(),
        "pixel_values": pixels["pixel_values"],
        "image_grid_thw": pixels["image_grid_thw"],
        "labels": ids.masked_fill(masks == 0, -100),
    }
