"""A model of this process behind the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from visionthink.certainty import NEED_SPREADS
from visionthink.episode import Speaker
from visionthink.errors import OptionError
from visionthink.model import Model
from visionthink.policies.batcher import Batcher
from visionthink.policies.local import LocalPolicy
from visionthink.serve.conversation import Conversation, Detail
from visionthink.serve.errors import ApiError
from visionthink.types import Completion, History

_CHARACTERS_PER_TOKEN = 16
"""More than any text has on average."""


@dataclass(frozen=True)
class _Sampled:
    """A batcher that samples by the rule of one request."""

    batcher: Batcher
    policy: LocalPolicy

    def speak(self, history: History, until: Callable[[str], bool] | None = None) -> AsyncGenerator[str | Completion]:
        return self.batcher.speak(history, until, policy=self.policy)


class LocalUpstream:
    """A model of this process; requests that come together are answered in one call."""

    error_prefix = ""
    details: Mapping[Detail, str] = MappingProxyType({})

    def __init__(self, model: Model, name: str, *, batch_size: int = 32):
        if not isinstance(model.policy, LocalPolicy):
            raise OptionError(f"{name}: not a model that transformers runs in this process")
        self.model, self.name = model, name
        self.policy = model.policy
        self.batcher = Batcher(model.policy, batch_size=batch_size)

    def speaker(self, conversation: Conversation, *, key: str = "", score: str = "") -> Speaker:
        """See `Upstream`. Log-probabilities are always given.

        Tools that may be called are left aside: the model never calls one. Chat applications send some with every question.
        """
        if conversation.tool_choice not in (None, "auto", "none"):
            raise _unsupported("tool_choice", "the model of this server calls no functions; leave it out")
        if any(message.wire for message in conversation.messages):
            raise _unsupported("messages", "the model of this server reads no names, tool calls or their results")
        context = self.policy.config.get_text_config().max_position_embeddings
        characters = sum(len(part) for message in conversation.messages for part in message.content if isinstance(part, str))
        if characters > _CHARACTERS_PER_TOKEN * context:  # known without the model, which others wait for
            words = f"messages: {characters} characters are more than the model's context of {context} tokens holds"
            raise ApiError(400, words, param="messages", code="context_length_exceeded")
        sampling = conversation.sampling
        refused = {"top_p": sampling.top_p not in (None, 1.0), "stop": bool(sampling.stop), **dict.fromkeys(sampling.more, True)}
        for field, asked in refused.items():
            if asked:
                raise _unsupported(field, "the model of this server does not have this option; leave it out")
        policy = self.policy
        if (sampling.temperature, sampling.max_tokens, sampling.seed) != (None, None, None):
            most = None if sampling.max_tokens is None else min(sampling.max_tokens, policy.max_new_tokens)
            policy = policy.sampling_as(temperature=sampling.temperature, max_new_tokens=most, seed=sampling.seed)
        return _Sampled(self.batcher, policy.with_spreads() if score in NEED_SPREADS else policy)

    async def ready(self) -> str:
        return ""

    async def aclose(self) -> None:
        await asyncio.to_thread(self.batcher.close)


def _unsupported(field: str, words: str) -> ApiError:
    return ApiError(400, f"{field}: {words}", param=field, code="unsupported_value")
