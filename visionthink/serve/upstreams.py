"""What answers behind the gateway: an endpoint here, a model of this process in `local_upstream`, which needs torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from visionthink.certainty import LIKELIEST, NEED_SPREADS
from visionthink.endpoint import Unanswered
from visionthink.episode import Speaker
from visionthink.errors import OptionError
from visionthink.model import Model
from visionthink.policies.remote import RemotePolicy
from visionthink.providers import OpenAITiles
from visionthink.serve.conversation import Conversation, Detail, SamplingOptions


class Upstream(Protocol):
    """A model with its protocol and menu, and who speaks for it."""

    model: Model
    name: str
    """What clients call it."""
    error_prefix: str
    """Before the words of a failure that is its own."""
    details: Mapping[Detail, str]
    """The field `detail` that it is sent beside the views of an image, for each detail that a client may want; none is sent where
    it does not know the field."""

    def speaker(self, conversation: Conversation, *, key: str = "", score: str = "") -> Speaker:
        """Who answers a conversation.

        Args:
            key: name of the client's key; what is cached for one is not used for another, where the upstream can tell them apart.
            score: what a gate needs of the answer, out of `certainty.SCORES`; empty where there is none.

        Raises:
            ApiError: the conversation wants what the upstream does not have.
        """
        ...

    async def ready(self) -> str:
        """Empty; or why no answer can be had now."""
        ...

    async def aclose(self) -> None: ...


_DETAILS: Mapping[Detail, str] = {"auto": "high", "low": "low", "high": "high", "original": "original"}
"""For a vendor with `detail`. We choose the pixels of `auto` ourselves, and the vendor is to take them as they are: its own
`auto` might shrink them once more, and bills differ between models."""


class RemoteUpstream:
    """An endpoint that speaks OpenAI's chat completions.

    Args:
        salted: whether the endpoint takes `cache_salt` (vLLM), so that what is cached for one key is not used for another.
    """

    error_prefix = "upstream: "

    def __init__(self, model: Model, name: str, *, salted: bool = False):
        if not isinstance(model.policy, RemotePolicy):
            raise OptionError(f"{name}: not the address of an endpoint")
        self.model, self.name, self.salted = model, name, salted
        self.policy = model.policy
        self.details = _DETAILS if isinstance(model.budget, OpenAITiles) else {}

    def speaker(self, conversation: Conversation, *, key: str = "", score: str = "") -> Speaker:
        """See `Upstream`."""
        fields = self._fields(conversation.sampling)
        if conversation.tools:
            fields |= {"tools": list(conversation.tools), "tool_choice": conversation.tool_choice}
        if score:
            fields["logprobs"] = True
        if score in NEED_SPREADS:
            fields["top_logprobs"] = LIKELIEST
        if self.salted:
            fields["cache_salt"] = hashlib.sha256(f"visionthink {key}".encode()).hexdigest()
        return self.policy.with_fields(fields)

    def _fields(self, sampling: SamplingOptions) -> dict[str, Any]:
        """Fields of the request to the endpoint. What the client leaves to the server keeps its default, but for the seed: who
        asks twice without one wants two answers."""
        most = self.policy.max_new_tokens
        fields = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": None if sampling.max_tokens is None else min(sampling.max_tokens, most),
            "stop": list(sampling.stop) or None,
            **sampling.more,
        }
        return {name: value for name, value in fields.items() if value is not None} | {"seed": sampling.seed}

    async def ready(self) -> str:
        try:
            await self.policy.models()
        except Unanswered as failure:
            return str(failure)
        return ""

    async def aclose(self) -> None:
        await self.policy.aclose()
