"""What a training reward cannot show: how each branch would do if it were taken, and how much is answered without looking.

On a few fixed examples: accuracy when made to answer directly, when made to ask, and with the image of another example. A
branch that is no longer taken may decay unseen; a reward that rises together with the control is not about the image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from visionthink.episode import Episode, RunBatch, run_batch
from visionthink.errors import InputError
from visionthink.policies.forced import ForcedAction, ForcedPolicy, Steerable
from visionthink.rewards.judge import Judge, judge_transcripts
from visionthink.train.rollouts import EpisodeSource
from visionthink.transcript import Transcript
from visionthink.types import Example

PROBED = 32
"""Examples per process."""


class Probe:
    """Measures a policy on a few examples of a source. `run` drives the episodes.

    Raises:
        OptionError: this policy cannot be kept from asking.
    """

    def __init__(
        self, source: EpisodeSource, policy: Steerable, judge: Judge, example_ids: Sequence[str], *, run: RunBatch = run_batch
    ):
        self.source, self.policy, self.judge, self.example_ids, self.run = source, policy, judge, example_ids, run
        actions: tuple[ForcedAction, ...] = ("direct", "request") if source.can_ask else ()
        self._forced = {action: ForcedPolicy.of(policy, source.protocol, action) for action in actions}

    def measure(self) -> dict[str, float]:
        """Accuracies in [0, 1] by name: `direct` and `request` where something can be asked for, and `swapped_image`.

        Raises:
            OptionError: the judge has never answered. All episodes have ended by then: processes that generate together drive
                equally many.
        """
        sampled = {"swapped_image": self.run(self._swapped(), self.policy)}
        for action, policy in self._forced.items():
            sampled[action] = self.run(self._episodes(self._examples()), policy)
        accuracies = {name: self._accuracy(transcripts) for name, transcripts in sampled.items()}
        return {f"probe/{name}": value for name, value in accuracies.items() if value is not None}

    def _examples(self) -> list[Example]:
        """Those that can be read; training says of the others that they are left out."""
        examples = []
        for example_id in self.example_ids:
            with contextlib.suppress(InputError):
                examples.append(self.source.example(example_id))
        return examples

    def _episodes(self, examples: Sequence[Example]) -> list[Episode]:
        """One of each example whose images can be opened."""
        episodes: list[Episode] = []
        for example in examples:
            with contextlib.suppress(InputError):
                episodes += self.source.over(example)
        return episodes

    def _swapped(self) -> list[Episode]:
        examples = self._examples()
        others = [*examples[1:], *examples[:1]]
        return self._episodes([replace(e, image=other.image) for e, other in zip(examples, others, strict=True)])

    def _accuracy(self, transcripts: Sequence[Transcript]) -> float | None:
        verdicts = [v.verdict for v in judge_transcripts(self.judge, transcripts)]
        scored = [v == "correct" for v in verdicts if v != "unscored"]
        return sum(scored) / len(scored) if scored else None
