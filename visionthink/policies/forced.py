"""A policy whose first decisions are made by someone else: what to ask for, or to answer.

Both branches of a model are measured with it: "asks because it cannot answer" is not "cannot answer because it always asks".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, Self, runtime_checkable
from typing import Protocol as TypingProtocol

from visionthink.errors import OptionError
from visionthink.policies.render import Renderer
from visionthink.protocol import Protocol
from visionthink.types import Completion, History, turns_taken

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
    """Takes the first decisions and leaves the rest to the wrapped policy.

    A forced request costs no sampling: its text is put into the model's mouth. Where an answer is forced, the string that opens a
    request is banned. Each history is at its own turn. The histories must be of episodes that can ask.

    Args:
        script: for each of the first turns the text of a request, or None for an answer; or what gives them, requests only, for a
            history.
    """

    def __init__(
        self,
        policy: Steerable,
        protocol: Protocol,
        script: Sequence[str | None] | Callable[[History], Sequence[str]],
    ):
        self.policy = policy
        self.script = script
        # a request is put into the model's mouth: only an answer by force needs something banned
        self._silent = policy if callable(script) else policy.forbidding(protocol.request_opening)

    @classmethod
    def of(cls, policy: Steerable, protocol: Protocol, action: ForcedAction) -> ForcedPolicy:
        """The first decision is to answer directly, or to ask for the next level.

        Raises:
            OptionError: this protocol asks for parts, and which one is not said.
        """
        if action == "request" and "level" not in protocol.asks:
            raise OptionError(f"a request by force: the dialect {protocol.dialect} must say which part it asks for")
        return cls(policy, protocol, [protocol.request() if action == "request" else None])

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        said: dict[int, Completion] = {}
        waiting: dict[str, list[int]] = {"answer": [], "free": []}
        for i, history in enumerate(histories):
            turn, script = turns_taken(history), self.script(history) if callable(self.script) else self.script
            if turn >= len(script):
                waiting["free"].append(i)
            elif (text := script[turn]) is None:
                waiting["answer"].append(i)
            else:
                said[i] = self.policy.renderer.dress(Completion(text, by="forced"), history)
        for kind, members in waiting.items():
            if members:
                policy = self.policy if kind == "free" else self._silent
                said |= dict(zip(members, policy.complete([histories[i] for i in members]), strict=True))
        forced = {i: dataclasses.replace(said[i], by="forced") for i in waiting["answer"]}
        return [(said | forced)[i] for i in range(len(histories))]
