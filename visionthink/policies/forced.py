"""A policy whose first decision is made by someone else: always ask, or always answer.

Both branches of a model are measured with it: "asks because it cannot answer" is not "cannot answer because it always asks".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, runtime_checkable
from typing import Protocol as TypingProtocol

from visionthink.policies.render import Renderer
from visionthink.protocol import Protocol
from visionthink.types import Completion, History

ForcedAction = Literal["direct", "request"]


@runtime_checkable
class Steerable(TypingProtocol):
    """A policy whose tokens are in our hands: the local one, or the one under training."""

    renderer: Renderer

    def complete(self, histories: Sequence[History]) -> list[Completion]: ...

    def forbidding(self, text: str) -> Self:
        """The same policy, unable to say `text`."""
        ...


class ForcedPolicy:
    """Takes the first decision and leaves the rest to the wrapped policy.

    A forced request costs no sampling: its canonical text is put into the model's mouth. Where a direct answer is forced, the
    string that opens a request is banned. The histories must be of episodes that can ask.
    """

    def __init__(self, policy: Steerable, protocol: Protocol, action: ForcedAction):
        self.policy, self.protocol, self.action = policy, protocol, action
        self._silent = policy.forbidding(protocol.request_opening)

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        if any(message.role == "assistant" for message in histories[0]):  # a batch takes its turns together
            return self.policy.complete(histories)
        if self.action == "direct":
            return self._silent.complete(histories)
        return [self.policy.renderer.dress(Completion(self.protocol.request), history) for history in histories]
