"""Any method as a policy: the same model, and fewer of its visual tokens."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

from visionthink.compress.selection import Method
from visionthink.compress.session import compress
from visionthink.errors import OptionError
from visionthink.policies.local import LocalPolicy
from visionthink.types import Completion, History


class CompressedPolicy:
    """A local policy whose prompts are compressed, every view of every round. Completions say how many visual tokens were left,
    averaged over the decoder's layers."""

    def __init__(self, policy: LocalPolicy, method: Method):
        self.policy, self.method = policy, method
        self.renderer = policy.renderer

    @property
    def config(self) -> Any:
        return self.policy.config

    @property
    def value_bytes(self) -> int:
        return self.policy.value_bytes

    def forbidding(self, text: str) -> CompressedPolicy:
        """The same policy, unable to say `text`."""
        return self._with(self.policy.forbidding(text))

    def seeded(self, seed: int) -> CompressedPolicy:
        """The same policy with its sampling begun anew."""
        return self._with(self.policy.seeded(seed))

    def _with(self, policy: LocalPolicy) -> CompressedPolicy:
        other = copy.copy(self)
        other.policy = policy
        return other

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history."""
        with compress(self.policy.checkpoint.model, self.method) as session:
            completions = self.policy.complete(histories)
        left = iter(session.samples())
        # a prompt that was too long for the model was never read
        return [c if not c.prompt_ids else _with_bill(c, *next(left)) for c in completions]


def _with_bill(completion: Completion, visual_by_layer: tuple[int, ...], flops: int) -> Completion:
    return dataclasses.replace(completion, visual_by_layer=visual_by_layer, selection_flops=flops)


def compressed(policy: Any, method: Method) -> CompressedPolicy:
    """`policy` with a method.

    Raises:
        OptionError: its model is not in our hands.
    """
    if not isinstance(policy, LocalPolicy):
        raise OptionError(f"{method.name}: needs a local model")
    return CompressedPolicy(policy, method)
