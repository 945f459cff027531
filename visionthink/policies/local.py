"""A policy on stock transformers: Qwen2-VL, Qwen2.5-VL and Qwen3-VL, batched, token-in and token-out, with log-probabilities.

Knows nothing about turns. What the prompts that fit into memory at once share, with each other and with the prompts before, is
computed once (see `engine`); image and vision tokens cannot be sampled.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch

from visionthink.engine.attention import why_not
from visionthink.engine.engine import Engine
from visionthink.engine.sampling import Said, Sampling, Streams
from visionthink.engine.stock import StockGeneration
from visionthink.engine.tower import PreparedImages
from visionthink.engine.trial import SENTENCE, difference
from visionthink.errors import OptionError
from visionthink.policies import memory
from visionthink.policies.checkpoint import Checkpoint
from visionthink.policies.identity import weights_of
from visionthink.policies.render import Renderer, shown, within_context
from visionthink.policies.token_streams import TextCallback, TokenStreams, token_texts
from visionthink.protocol import Protocol
from visionthink.types import Completion, History

log = logging.getLogger(__name__)


class LocalPolicy:
    """Samples from a loaded checkpoint.

    Args:
        checkpoint: see `policies.checkpoint.open_checkpoint`.
        protocol: overrides the checkpoint's own (only its turn boundary matters here).
        temperature: 0 is greedy.
        max_new_tokens: per turn; a turn that reaches it ends with finish reason "length".
        batch_size: histories per forward pass; None takes as many as fit into memory.
        seed: of the sampling. What is sampled depends on the seed, on the prompt and on how many times the prompt was completed
            before: not on the batch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        protocol: Protocol | None = None,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        batch_size: int | None = None,
        seed: int = 0,
    ):
        _check(temperature, max_new_tokens=max_new_tokens, **({} if batch_size is None else {"batch_size": batch_size}))
        self.checkpoint, self.batch_size, self.seed = checkpoint, batch_size, seed
        self.renderer = Renderer(checkpoint.tokenizer, (protocol or checkpoint.protocol).boundary)
        self._sampling = Sampling(
            ends=frozenset(self.renderer.end_ids),
            most=max_new_tokens,
            temperature=temperature,
            banned=tuple(self.renderer.never_sampled),
        )
        self._streams = Streams(seed)
        # one call at a time: what is known of the call before, and position offsets that `generate` keeps in the model, are
        # shared by every copy of the policy
        self._lock = threading.Lock()
        model, pad = checkpoint.model, self.renderer.image_pad_id
        padding = checkpoint.tokenizer.pad_token_id
        self._stock = StockGeneration(model, PreparedImages(checkpoint.image_processor), pad, padding)
        self._generation: Engine | StockGeneration = self._stock
        hindrance = why_not(model)
        if not hindrance:
            engine = Engine(model, PreparedImages(checkpoint.image_processor), pad)
            if model.device.type == "cuda":  # its attention is compiled for the machine, and is not relied upon unseen
                hindrance = difference(engine, self._stock, self.renderer.plain(SENTENCE))
            self._generation = self._stock if hindrance else engine
        if hindrance:
            log.warning("prefixes are computed for every prompt anew: %s", hindrance)

    @property
    def config(self) -> Any:
        """The model's configuration in transformers."""
        return self.checkpoint.model.config

    @property
    def value_bytes(self) -> int:
        """Bytes of a weight, and of a value in the cache."""
        return self.checkpoint.model.dtype.itemsize

    @property
    def identity(self) -> str:
        """Names the weights, see `policies.identity`."""
        return weights_of(self.checkpoint.path, getattr(self.config, "_commit_hash", None))

    def forbidding(self, text: str) -> Self:
        """The same policy, unable to say `text`; it shares the weights."""
        rule = self._sampling
        if own := self.renderer.own_ids(text):
            return self._with(_sampling=dataclasses.replace(rule, banned=(*rule.banned, *own)))
        return self._with(_sampling=dataclasses.replace(rule, phrases=(*rule.phrases, tuple(self.renderer.plain(text)))))

    def with_spreads(self) -> Self:
        """The same policy, whose completions have `token_texts` and `spreads`; it shares the weights."""
        return self._with(_sampling=dataclasses.replace(self._sampling, spreads=True))

    def seeded(self, seed: int) -> Self:
        """The same policy with its sampling begun anew; it shares the weights."""
        return self._with(seed=seed, _streams=Streams(seed))

    def sampling_as(
        self, *, temperature: float | None = None, max_new_tokens: int | None = None, seed: int | None = None
    ) -> Self:
        """The same policy with another rule of sampling, where one is given; it shares the weights.

        Raises:
            OptionError: a value that cannot be.
        """
        rule = self._sampling
        most = rule.most if max_new_tokens is None else max_new_tokens
        temperature = rule.temperature if temperature is None else temperature
        _check(temperature, max_new_tokens=most)
        own = self if seed is None else self.seeded(seed)
        return own._with(_sampling=dataclasses.replace(rule, most=most, temperature=temperature))

    def samples_like(self, other: LocalPolicy) -> bool:
        """Whether prompts of both can be completed in one call, but for the length of the replies."""
        one, another = (dataclasses.replace(policy._sampling, most=1) for policy in (self, other))
        return one == another and (not one.temperature or self._streams is other._streams)

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of a reply."""
        return self._sampling.most

    def reading_whole(self) -> Self:
        """The same policy, which has `generate` of transformers read every prompt as a whole; it shares the weights."""
        return self._with(_generation=self._stock)

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def complete(self, histories: Sequence[History], callbacks: Sequence[TextCallback] = ()) -> list[Completion]:
        """One completion per history; an error where the prompt leaves the model's context no room for an answer.

        Args:
            callbacks: one for each history, or none. One hears a reply again that is sampled again, because memory ran out.
        """

        def complete_batch(part: Sequence[int]) -> list[Completion]:
            return self.complete_batch([histories[i] for i in part], [callbacks[i] for i in part] if callbacks else ())

        return self.complete_with(complete_batch, histories)

    def complete_with(
        self, complete_batch: Callable[[Sequence[int]], list[Completion]], histories: Sequence[History]
    ) -> list[Completion]:
        """As `complete`.

        Args:
            complete_batch: gets the indices of as many histories as fit into memory, and completes these at once.
        """
        context = self.checkpoint.model.config.get_text_config().max_position_embeddings
        prompts = [self.renderer.prompt_ids(history) for history in histories]
        complete = memory.halving(complete_batch)

        def in_parts(fitting: Sequence[int]) -> list[Completion]:
            return memory.complete_in_parts(fitting, [len(ids) for ids in prompts], self._fitting, complete)

        return within_context(prompts, context, in_parts)

    def _fitting(self, lengths: Sequence[int]) -> int:
        if self.batch_size or len(lengths) == 1:
            return self.batch_size or 1
        model = self.checkpoint.model
        per_token = memory.bytes_per_token(model.config, model.dtype.itemsize)
        free = memory.free_bytes(model.device) + self._generation.bytes_held  # which is dropped, or spares as much
        return memory.fitting([n + self._sampling.most for n in lengths], per_token, free)

    def complete_batch(self, histories: Sequence[History], callbacks: Sequence[TextCallback] = ()) -> list[Completion]:
        """One completion per history, all read at once; see `complete`."""
        prompts = [self.renderer.prompt_ids(history) for history in histories]
        images = shown(histories)
        with self._lock, torch.inference_mode():
            started = time.perf_counter()
            # the engine passes by the model's own forward, and what is hooked in there (`compress.compress`)
            generation = self._stock if self.checkpoint.model.model._forward_pre_hooks else self._generation
            streams = TokenStreams(self.renderer, callbacks) if callbacks else None
            said = generation.complete(prompts, images, self._sampling, self._streams, listen=streams)
            first_token = generation.first_token
        share = 1 / len(histories)
        seconds, first_token_seconds = (time.perf_counter() - started) * share, (first_token - started) * share
        completions = [
            self._completion(prompt, each, seconds, first_token_seconds) for prompt, each in zip(prompts, said, strict=True)
        ]
        return streams.noted(completions) if streams else completions

    def model_inputs(self, prompts: Sequence[list[int]], histories: Sequence[History]) -> dict[str, torch.Tensor]:
        """What transformers is given of prompts and the views of their histories, see `engine.stock.StockGeneration.inputs`."""
        return self._stock.inputs(prompts, self._stock.images.of(shown(histories)))

    def _completion(self, prompt: list[int], said: Said, seconds: float, first_token_seconds: float) -> Completion:
        if not all(map(math.isfinite, said.logprobs)):
            return Completion.failed("server", "the model's logits are not numbers", seconds=seconds)
        return Completion(
            text=self.renderer.decode(said.ids),
            finish_reason="stop" if said.ids[-1] in self.renderer.end_ids else "length",
            token_ids=said.ids,
            prompt_ids=tuple(prompt),
            logprobs=said.logprobs,
            token_texts=token_texts(self.renderer, said.ids) if said.spreads else (),
            spreads=said.spreads,
            seconds=seconds,
            first_token_seconds=first_token_seconds,
        )


def _check(temperature: float, **counts: int) -> None:
    for name, value in counts.items():
        if not (isinstance(value, int) and value >= 1):
            raise OptionError(f"{name} {value!r}: must be a whole number of at least 1")
    if not (isinstance(temperature, (int, float)) and 0 <= temperature < math.inf):
        raise OptionError(f"temperature {temperature!r}: must be a number of at least 0")
