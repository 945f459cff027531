"""What rollouts at two resolutions say about an example (Sec. 3.5 of arXiv 2507.13348).

    low_suffices   all rollouts are right, at the low and at the full resolution: 16 of 16
    needs_full     correct_full - correct_low >= 6, of 8 each
    drop           everything else

Questions with two possible answers are guessed right half of the time at the low resolution, so that few of them reach a
difference of 6 of 8, however much they need the full view; more rollouts and a smaller difference find them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from visionthink.errors import OptionError

Label = Literal["low_suffices", "needs_full", "drop"]


@dataclass(frozen=True)
class Thresholds:
    """`rollouts` at each resolution; `difference` of correct ones from which the full view counts as needed; `wrong` ones that
    an example may have, of both resolutions together, for the low view to suffice."""

    rollouts: int = 8
    difference: int = 6
    wrong: int = 0

    def __post_init__(self) -> None:
        if self.rollouts < 1:
            raise OptionError(f"rollouts {self.rollouts}: must be at least 1")
        if not 1 <= self.difference <= self.rollouts:
            raise OptionError(f"difference {self.difference}: must be from 1 to the {self.rollouts} rollouts")
        if not 0 <= self.wrong < self.difference:
            raise OptionError(f"wrong {self.wrong}: must be at least 0 and below the difference {self.difference}")

    def label(self, correct_low: int, correct_full: int, unscored: int = 0) -> Label:
        """The label that the counts of an example give. One with answers that could not be judged is dropped."""
        if unscored:
            return "drop"
        if correct_full - correct_low >= self.difference:
            return "needs_full"
        return "low_suffices" if correct_low + correct_full >= 2 * self.rollouts - self.wrong else "drop"


def balanced(labels: Mapping[str, Label], most: int = 0) -> list[str]:
    """Ids of as many examples of one label as of the other, at most `most` of each (0: as many as there are), in the order of
    their ids' hashes: which ones are chosen does not depend on the order of the rows."""
    by_label: dict[Label, list[str]] = {"low_suffices": [], "needs_full": []}
    for example_id, label in labels.items():
        if label in by_label:
            by_label[label].append(example_id)
    count = min(len(ids) for ids in by_label.values())
    count = min(count, most) if most else count
    return sorted((i for ids in by_label.values() for i in _drawn(ids)[:count]), key=_hash)


def _drawn(ids: Sequence[str]) -> list[str]:
    return sorted(ids, key=_hash)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
