"""What answers behind the gateway: a model of this process, or an endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from visionthink.endpoint import Unanswered
from visionthink.episode import Speaker
from visionthink.errors import OptionError
from visionthink.model import Model
from visionthink.policies.batcher import Batcher
from visionthink.policies.local import LocalPolicy
from visionthink.policies.remote import RemotePolicy
from visionthink.serve.conversation import Conversation, SamplingOptions
from visionthink.serve.errors import ApiError


class Upstream(Protocol):
    """A model with its protocol and menu, and who speaks for it."""

    model: Model
    name: str
    """What clients call it."""

    def speaker(self, conversation: Conversation, *, key: str = "", logprobs: bool = False) -> Speaker:
        """Who answers a conversation.

        Args:
            key: name of the client's key; what is cached for one is not used for another, where the upstream can tell them apart.
            logprobs: whether log-probabilities of tokens are needed.

        Raises:
            ApiError: the conversation wants what the upstream does not have.
        """
        ...

    async def ready(self) -> str:
        """Empty; or why no answer can be had now."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class _Voice:
    """A batcher's reply by one request's rule of sampling."""

    batcher: Batcher
    policy: LocalPolicy

    def speak(self, history: Any, until: Any = None) -> Any:
        return self.batcher.speak_as(self.policy, history, until)


class LocalUpstream:
    """A model of this process; requests that come together are answered in one call."""

    def __init__(self, model: Model, name: str, *, batch_size: int = 32):
        if not isinstance(model.policy, LocalPolicy):
            raise OptionError(f"{name}: not a model that transformers runs in this process")
        self.model, self.name = model, name
        self.policy = model.policy
        self.batcher = Batcher(model.policy, most=batch_size)

    def speaker(self, conversation: Conversation, *, key: str = "", logprobs: bool = False) -> Speaker:
        """See `Upstream`. Log-probabilities are always given."""
        if conversation.tools:
            raise _unsupported("tools", "the model of this server calls no functions; leave tools out")
        if any(message.wire for message in conversation.messages):
            raise _unsupported("messages", "the model of this server reads no names, tool calls or their results")
        sampling = conversation.sampling
        refused = {"top_p": sampling.top_p not in (None, 1.0), "stop": bool(sampling.stop), **dict.fromkeys(sampling.more, True)}
        for field, asked in refused.items():
            if asked:
                raise _unsupported(field, "the model of this server does not have this option; leave it out")
        policy = self.policy
        if (sampling.temperature, sampling.max_tokens, sampling.seed) != (None, None, None):
            most = None if sampling.max_tokens is None else min(sampling.max_tokens, policy.max_new_tokens)
            policy = policy.sampling_as(temperature=sampling.temperature, max_new_tokens=most, seed=sampling.seed)
        return _Voice(self.batcher, policy)

    async def ready(self) -> str:
        return ""

    async def aclose(self) -> None:
        self.batcher.close()


class RemoteUpstream:
    """An endpoint that speaks OpenAI's chat completions.

    Args:
        salted: whether the endpoint takes `cache_salt` (vLLM), so that what is cached for one key is not used for another.
    """

    def __init__(self, model: Model, name: str, *, salted: bool = False):
        if not isinstance(model.policy, RemotePolicy):
            raise OptionError(f"{name}: not the address of an endpoint")
        self.model, self.name, self.salted = model, name, salted
        self.policy = model.policy

    def speaker(self, conversation: Conversation, *, key: str = "", logprobs: bool = False) -> Speaker:
        """See `Upstream`."""
        fields: dict[str, Any] = dict(_fields(conversation.sampling))
        if conversation.tools:
            fields |= {"tools": list(conversation.tools), "tool_choice": conversation.tool_choice}
        if logprobs:
            fields["logprobs"] = True
        if self.salted:
            fields["cache_salt"] = hashlib.sha256(f"visionthink {key}".encode()).hexdigest()
        return self.policy.with_fields({name: value for name, value in fields.items() if value is not None})

    async def ready(self) -> str:
        try:
            await self.policy.models()
        except Unanswered as failure:
            return str(failure)
        return ""

    async def aclose(self) -> None:
        await self.policy.aclose()


def _fields(sampling: SamplingOptions) -> Mapping[str, Any]:
    """Fields of the request to an endpoint; None where the client leaves it to the server."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        **sampling.more,
    }


def _unsupported(field: str, words: str) -> ApiError:
    return ApiError(400, f"{field}: {words}", param=field, code="unsupported_value")
