"""What an example is evaluated with: a menu, and who speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol as TypingProtocol

from visionthink.episode import Episode, Policy, run_batch
from visionthink.menu import Menu
from visionthink.transcript import Transcript


@dataclass(frozen=True)
class Lane:
    """Examples in the same lane share batches."""

    menu: Menu
    policy: Policy
    policy_without_tool: Policy
    """Speaks where nothing is on offer: a forced decision needs something to decide."""

    def run(self, episodes: Sequence[Episode]) -> list[Transcript]:
        """Transcripts of episodes over the lane's menu, in order."""
        ended: dict[int, Transcript] = {}
        for policy, can_request in ((self.policy, True), (self.policy_without_tool, False)):
            members = [i for i, episode in enumerate(episodes) if episode.can_request == can_request]
            ended |= dict(zip(members, run_batch([episodes[i] for i in members], policy), strict=True))
        return [ended[i] for i in range(len(episodes))]


class AnyLane(TypingProtocol):
    """A `Lane`, or one that runs several."""

    @property
    def menu(self) -> Menu:
        """The menu of the episodes that this policy is given."""
        ...

    def run(self, episodes: Sequence[Episode]) -> list[Transcript]: ...
