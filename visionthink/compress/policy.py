"""Any method as a policy: the same model, and fewer of its visual tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from visionthink.compress.selection import Method
from visionthink.compress.session import Hooks
from visionthink.compress.target import Target
from visionthink.errors import OptionError
from visionthink.policies.checkpoint import Checkpoint
from visionthink.policies.local import LocalPolicy
from visionthink.policies.render import Renderer, views
from visionthink.types import Completion, History

Which = Literal["all", "low", "full"]
"""Views that a method acts on: every one, those below full resolution, those at full resolution."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CompressedPolicy:
    """A local policy whose prompts are compressed, in every round. Completions say how many visual tokens entered each layer of
    the decoder, and what choosing them took."""

    policy: LocalPolicy
    method: Method
    which: Which = "all"
    flops: dict[Hashable, int] = field(default_factory=dict, repr=False)
    """Floating-point operations of choosing tokens, each counted once; see `compress.target.Target`."""

    @property
    def checkpoint(self) -> Checkpoint:
        return self.policy.checkpoint

    @property
    def renderer(self) -> Renderer:
        return self.policy.renderer

    @property
    def config(self) -> Any:
        """The configuration of the model, as transformers has it."""
        return self.policy.config

    @property
    def value_bytes(self) -> int:
        """Bytes of a weight, or of a value in the cache."""
        return self.policy.value_bytes

    def forbidding(self, text: str) -> CompressedPolicy:
        """The same policy, unable to say `text`."""
        return dataclasses.replace(self, policy=self.policy.forbidding(text))

    def with_spreads(self) -> CompressedPolicy:
        """The same policy, whose completions have `token_texts` and `spreads`."""
        return dataclasses.replace(self, policy=self.policy.with_spreads())

    def seeded(self, seed: int) -> CompressedPolicy:
        """The same policy with its sampling begun anew."""
        return dataclasses.replace(self, policy=self.policy.seeded(seed))

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        """See `LocalPolicy.complete`."""
        return self.policy.complete_with(lambda part: self.complete_batch([histories[i] for i in part]), histories)

    def complete_batch(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history, all read at once."""
        acting = None
        if self.which != "all":
            acting = [[(view.level == 1) == (self.which == "full") for view in views(history)] for history in histories]
        with Hooks(self.checkpoint.model, self.method, acting, self.flops).open() as session:
            completions = self.policy.complete_batch(histories)
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
    Target(policy.checkpoint.model, method)  # what cannot work is refused now, and not by the first prompt
    # what is left of a prompt depends on all of it, and so do the keys and values that are computed
    own = policy.reading_whole().seeded(policy.seed)
    return CompressedPolicy(policy=own, method=method, which=which)
