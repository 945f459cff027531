"""Questions with their answers as what a trained compression method learns from: the full view, and the answer said at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from visionthink.compress.fit import Questions
from visionthink.episode import Episode, run_batch
from visionthink.errors import DataError
from visionthink.menu import Menu
from visionthink.picture import open_pictures
from visionthink.policies.checkpoint import Checkpoint
from visionthink.policies.render import Renderer, views
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.types import Example

Split = Literal["train", "test"]


class Answers(Sequence[Demonstration]):
    """Episodes in which the full view is shown and the right answer follows, each made when it is asked for.

    Raises:
        DataError: an example has no answer.
    """

    def __init__(self, examples: Sequence[Example], checkpoint: Checkpoint):
        for example in examples:
            if not example.answer:
                raise DataError(f"example {example.id}: has no answer to learn from")
        self.examples, self.checkpoint = examples, checkpoint
        self.renderer = Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Demonstration:  # type: ignore[override]
        example, checkpoint = self.examples[index], self.checkpoint
        episode = Episode(example, open_pictures(example), Menu().full(), checkpoint.protocol, budget=checkpoint.budget)
        script = ScriptedPolicy([checkpoint.protocol.format_answer(str(example.answer))], self.renderer)
        [transcript] = run_batch([episode], script)
        return Demonstration(transcript, tuple(view.image for view in views(episode.history)))


def questions(name: str, train: Sequence[Demonstration], test: Sequence[Demonstration], checkpoint: Checkpoint) -> Questions:
    """
    Args:
        train: to learn from; a list keeps their images in memory, `Answers` makes them again.
        test: to measure on, others than those.
    """
    splits: Mapping[Split, Sequence[Demonstration]] = {"train": train, "test": test}
    renderer = Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary)

    def batch(split: Split, numbers: Sequence[int]) -> dict[str, Tensor]:
        return collate([splits[split][i] for i in numbers], renderer, checkpoint.image_processor, padding="left")

    return Questions(name=name, train=len(train), test=len(test), batch=batch)
