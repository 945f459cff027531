"""Any method as a policy: the same model, and fewer of its visual tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any, Literal

from visionthink.compress.selection import Method
from visionthink.compress.session import Hooks
from visionthink.errors import OptionError
from visionthink.policies.local import LocalPolicy
from visionthink.policies.render import views
from visionthink.types import Completion, History

Which = Literal["all", "low", "full"]
"""Views that a method acts on: every one, those below full resolution, those at full resolution."""


class CompressedPolicy(LocalPolicy):
    """A local policy whose prompts are compressed, in every round. Completions say how many visual tokens entered each layer of
    the decoder, and what choosing them took."""

    def __init__(self, policy: LocalPolicy, method: Method, which: Which = "all"):
        self.__dict__.update(policy.__dict__)  # the same checkpoint, settings and lock
        self.method, self.which = method, which
        self._flops: dict[Hashable, int] = {}

    def complete_batch(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history, all read at once."""
        acting = None
        if self.which != "all":
            acting = [[(view.level == 1) == (self.which == "full") for view in views(history)] for history in histories]
        with Hooks(self.checkpoint.model, self.method, acting, self._flops).open() as session:
            completions = super().complete_batch(histories)
        return [
            dataclasses.replace(completion, visual_by_layer=left, selection_flops=flops)
            for completion, (left, flops) in zip(completions, session.samples(), strict=True)
        ]


def compressed(policy: Any, method: Method, which: Which = "all") -> CompressedPolicy:
    """`policy` with a method.

    Raises:
        OptionError: its model is not in our hands, or has no place for the method.
        CompressionError: it is not one that tokens can be taken out of.
    """
    if not isinstance(policy, LocalPolicy):
        raise OptionError(f"{method.name}: needs a local model")
    Hooks(policy.checkpoint.model, method)  # what cannot work is refused now, and not by the first prompt
    return CompressedPolicy(policy, method, which)
