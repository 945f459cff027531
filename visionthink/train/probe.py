"""What a training reward cannot show: how each branch would do if it were taken, and how much is answered without looking.

On a few fixed examples: accuracy when made to answer directly, when made to ask, and with the image of another example. A
branch that is no longer taken may decay unseen; a reward that rises together with the control is not about the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from visionthink.episode import Episode, Policy, RunBatch, run_batch
from visionthink.policies.forced import ForcedAction, ForcedPolicy, Steerable
from visionthink.rewards.judge import Judge, judge_transcripts
from visionthink.train.rollouts import EpisodeSource

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
        """Accuracies in [0, 1] by name: `direct` and `request` where something can be asked for, and `swapped_image`."""
        parts: dict[str, float | None] = {"swapped_image": self._accuracy(self._swapped(), self.policy)}
        for action, policy in self._forced.items():
            parts[action] = self._accuracy(self._episodes(), policy)
        return {f"probe/{name}": value for name, value in parts.items() if value is not None}

    def _episodes(self) -> list[Episode]:
        return [episode for i in self.example_ids for episode in self.source.episodes(i, 1)]

    def _swapped(self) -> list[Episode]:
        examples = [self.source.example(i) for i in self.example_ids]
        others = [*examples[1:], examples[0]]
        mixed = [replace(e, image=other.image) for e, other in zip(examples, others, strict=True)]
        return [episode for example in mixed for episode in self.source.over(example)]

    def _accuracy(self, episodes: list[Episode], policy: Policy) -> float | None:
        verdicts = [v.verdict for v in judge_transcripts(self.judge, self.run(episodes, policy))]
        scored = [v == "correct" for v in verdicts if v != "unscored"]
        return sum(scored) / len(scored) if scored else None
