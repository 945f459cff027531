"""A policy on vLLM's offline engine: many histories at once, token-in and token-out, with log-probabilities and a prefix cache.

vLLM is given one pad per image and writes out the rest of them by itself; what it read is compared with our own ids, so that a
checkpoint whose image sizes the two see differently is an error and not a wrong count. vllm is imported when a policy is made.
"""

from __future__ import annotations

import copy
import math
import os
import random
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from visionthink.certainty import LIKELIEST, spread_of
from visionthink.errors import ModelError, OptionError, one_line
from visionthink.policies.checkpoint import describe, resolve
from visionthink.policies.identity import weights_of
from visionthink.policies.render import Renderer, one_pad_an_image, views, within_context
from visionthink.policies.token_streams import token_texts
from visionthink.protocol import Protocol
from visionthink.types import Completion, FinishReason, History, Spread

if TYPE_CHECKING:
    from visionthink.policies.checkpoint_files import Described


class VllmPolicy:
    """Samples from a checkpoint that vLLM has loaded.

    Args:
        name: `tiny`, `tiny-base`, a checkpoint folder or a hub id.
        described: see `policies.checkpoint.describe`; default: read now.
        protocol: overrides the checkpoint's own (only its turn boundary matters here).
        temperature: up to 2; 0 is greedy.
        max_new_tokens: per turn; a turn that reaches it ends with finish reason "length".
        batch_size: histories at once; None leaves it to vLLM.
        seed: of the sampling; the same seed and order of calls give the same text as far as vLLM's arithmetic does.
        engine: further options of `vllm.LLM`, as `tensor_parallel_size`, `gpu_memory_utilization`, `dtype`; they win over ours.

    Raises:
        ModelError: vLLM is not installed, or cannot load the checkpoint.
    """

    def __init__(
        self,
        name: str,
        described: Described | None = None,
        *,
        protocol: Protocol | None = None,
        temperature: float = 0.0,
        max_new_tokens: int = 1024,
        batch_size: int | None = None,
        seed: int = 0,
        **engine: Any,
    ):
        for option, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
            if value is not None and value < 1:
                raise OptionError(f"{option} {value}: must be at least 1")
        if not 0 <= temperature <= 2:
            raise OptionError(f"temperature {temperature}: vLLM takes 0 to 2")
        vllm, self._stopped = _library()
        self._parameters = vllm.SamplingParams
        described = described or describe(name)
        if batch_size is not None:
            engine = {"max_num_seqs": batch_size} | engine
        try:
            self._llm = vllm.LLM(path := resolve(name), **(_defaults() | engine))
        except Exception as error:  # of many kinds; the details are in vLLM's log
            raise ModelError(f"model {name}: vLLM cannot load it ({one_line(error)})") from error
        self.renderer = Renderer(described.tokenizer, (protocol or described.protocol).boundary)
        self.config = described.config
        """The model's configuration in transformers."""
        self.identity = weights_of(path, getattr(self.config, "_commit_hash", None))
        """Names the weights, see `policies.identity`."""
        self._likeliest = 0
        """Tokens whose probabilities are asked for beside the sampled one."""
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        self._seeds = random.Random(seed)
        self._alone = threading.Lock()  # the engine takes one caller at a time; shared by every copy of the policy
        self._suppressed = self.renderer.never_sampled
        self._bad_words: list[str] = []

    @property
    def value_bytes(self) -> int:
        """Bytes of a weight, and of a value in the cache."""
        return self._llm.llm_engine.model_config.dtype.itemsize

    def forbidding(self, text: str) -> VllmPolicy:
        """The same policy, unable to say `text`; it shares the engine."""
        other = copy.copy(self)
        other._seeds = copy.copy(self._seeds)
        if own := self.renderer.own_ids(text):
            other._suppressed = sorted({*self._suppressed, *own})
        else:
            other._bad_words = [*self._bad_words, text]
        return other

    def with_spreads(self) -> VllmPolicy:
        """The same policy, whose completions have `token_texts` and `spreads`; it shares the engine."""
        other = copy.copy(self)
        other._seeds, other._likeliest = copy.copy(self._seeds), LIKELIEST
        return other

    def seeded(self, seed: int) -> VllmPolicy:
        """The same policy with its sampling begun anew; it shares the engine."""
        other = copy.copy(self)
        other._seeds = random.Random(seed)
        return other

    def complete(self, histories: Sequence[History]) -> list[Completion]:
        """One completion per history; an error where the prompt leaves the model's context no room for an answer.

        Raises:
            ModelError: the engine has stopped.
        """
        context = self._llm.llm_engine.model_config.max_model_len
        prompts = [self.renderer.prompt_ids(history) for history in histories]

        def complete(fitting: list[int]) -> list[Completion]:
            started = time.perf_counter()
            with self._alone:
                outputs = self._generate([self._request(prompts[i], histories[i]) for i in fitting])
            share = 1 / len(fitting)
            seconds = (time.perf_counter() - started) * share
            return [self._completion(prompts[i], out, seconds, share) for i, out in zip(fitting, outputs, strict=True)]

        return within_context(prompts, context, complete)

    def _request(self, prompt: list[int], history: History) -> tuple[dict[str, Any], Any]:
        # vLLM repeats the pad of an image itself
        request: dict[str, Any] = {"prompt_token_ids": one_pad_an_image(prompt, self.renderer.image_pad_id)}
        if images := [view.image for view in views(history)]:
            request["multi_modal_data"] = {"image": images}
        return request, self._parameters(
            max_tokens=self.max_new_tokens,
            temperature=self.temperature,
            seed=self._seeds.getrandbits(32) if self.temperature else None,
            logprobs=self._likeliest,  # the sampled token always
            stop_token_ids=self.renderer.end_ids,
            logit_bias=dict.fromkeys(self._suppressed, -math.inf),
            bad_words=self._bad_words or None,
            detokenize=False,
        )

    def _generate(self, requests: Sequence[tuple[dict[str, Any], Any]]) -> list[Any]:
        """An output of vLLM per request, or what it found wrong with it."""
        try:
            return self._llm.generate([p for p, _ in requests], [s for _, s in requests], use_tqdm=False) if requests else []
        except self._stopped as error:
            raise ModelError(f"vLLM has stopped ({one_line(error)}); its log says why") from error
        except Exception as error:  # one is refused, and all are taken back with it
            if len(requests) == 1:
                return [error]
            return [output for request in requests for output in self._generate([request])]

    def _completion(self, prompt: list[int], output: Any, seconds: float, share: float) -> Completion:
        if isinstance(output, Exception):
            return Completion.failed("server", one_line(output), seconds=seconds)
        if (read := list(output.prompt_token_ids)) != prompt:
            error = f"vLLM read {len(read)} tokens where {len(prompt)} were meant: it sees images of other sizes"
            return Completion.failed("bad_request", error, seconds=seconds)
        [said] = output.outputs
        ids = tuple(said.token_ids)
        logprobs = tuple(step[token].logprob for token, step in zip(ids, said.logprobs, strict=True))
        if not all(map(math.isfinite, logprobs)):
            return Completion.failed("server", "the model's logits are not numbers", seconds=seconds)
        ended = ids[-1:] and ids[-1] in self.renderer.end_ids
        finish: FinishReason = "stop" if ended else "length"
        kept = ids[:-1] if ended else ids
        text = self.renderer.decode(kept)
        first = output.metrics.first_token_latency * share if output.metrics else None
        return Completion(
            text,
            finish,
            token_texts=token_texts(self.renderer, ids) if self._likeliest and ids else (),
            spreads=_spreads(ids, said.logprobs) if self._likeliest else (),
            token_ids=ids,
            prompt_ids=tuple(prompt),
            logprobs=logprobs,
            seconds=seconds,
            first_token_seconds=first,
        )


def _spreads(ids: Sequence[int], steps: Sequence[Any]) -> tuple[Spread, ...]:
    """The spread at each sampled token, from the log-probabilities that vLLM gives for the likeliest ones."""
    return tuple(
        spread_of(step[token].logprob, [other.logprob for i, other in step.items() if i != token])
        for token, step in zip(ids, steps, strict=True)
    )


def _library() -> tuple[Any, Any]:
    """vLLM, and what it raises when its engine has died."""
    # it logs to stdout, where a command's result belongs, unless it reads this when it is imported
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        vllm = import_module("vllm")
        vllm.LLM  # noqa: B018  (is imported only now)
        return vllm, import_module("vllm.v1.engine.exceptions").EngineDeadError
    except ModuleNotFoundError as error:
        raise ModelError(f"engine vllm: {error.name} is not installed; pip install 'visionthink[vllm]'") from None
    except Exception as error:  # built for another torch, CUDA or processor
        raise ModelError(f"vLLM is installed and cannot be imported ({one_line(error)})") from error


def _defaults() -> dict[str, Any]:
    """Ours, of the engine. A CPU gets what `open_checkpoint` gives it, and no minutes of compiling."""
    chosen = {
        "max_model_len": -1,  # as long as memory allows
        "limit_mm_per_prompt": {"video": 0},
        "enable_prefix_caching": True,
        "load_format": "safetensors",  # never a pickle
        "generation_config": "vllm",  # nothing that is left out is filled in from the checkpoint
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": False,  # they tell when the first token was there
    }
    on_cpu = import_module("vllm.platforms").current_platform.is_cpu()
    return chosen | ({"dtype": "float32", "enforce_eager": True} if on_cpu else {})
