"""`load()`: a model, its protocol and its ladder behind one question-answering method."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink.episode import Episode, Policy, run_batch
from visionthink.errors import OptionError
from visionthink.images import MAX_IMAGE_PIXELS
from visionthink.protocol import Protocol
from visionthink.resolution import QWEN2_5_VL, PixelBudget, ResolutionLadder
from visionthink.types import Example, ImageSource, Transcript

KEY = "VISIONTHINK_API_KEY"
"""Environment variable whose value is sent to the endpoint of a remote model."""

ENGINES = ("transformers", "vllm")
"""What can run a model that is no endpoint."""


@dataclass(frozen=True)
class Result:
    """What `ask` returns. `answer` is None when the episode ended without one; `transcript.stop_reason` says why."""

    answer: str | None
    levels: tuple[float, ...]
    """The levels the model was shown."""
    usage: dict[str, float]
    transcript: Transcript


class Model:
    """A policy that speaks a protocol over a ladder."""

    def __init__(
        self,
        policy: Policy,
        protocol: Protocol,
        ladder: ResolutionLadder,
        budget: PixelBudget,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ):
        self.policy, self.protocol, self.ladder, self.budget = policy, protocol, ladder, budget
        self.max_image_pixels = max_image_pixels

    def episode(self, example: Example, ladder: ResolutionLadder | None = None) -> Episode:
        """A fresh episode over an example."""
        return Episode(example, ladder or self.ladder, self.protocol, budget=self.budget, max_image_pixels=self.max_image_pixels)

    def run(self, examples: Sequence[Example], ladder: ResolutionLadder | None = None) -> list[Transcript]:
        """Transcripts of many examples, in order."""
        return run_batch([self.episode(example, ladder) for example in examples], self.policy)

    def ask(self, image: ImageSource, question: str, *, ladder: ResolutionLadder | Sequence[float] | None = None) -> Result:
        """Answer a question about an image (a path, the bytes of a file, or an opened image).

        Raises:
            ImageError: the image cannot be used.
            OptionError: the question is not text.
        """
        if not isinstance(question, str):
            raise OptionError(f"question {question!r}: must be text")
        if ladder is not None and not isinstance(ladder, ResolutionLadder):
            ladder = ResolutionLadder(tuple(ladder))
        [transcript] = self.run([Example("ask", question, image)], ladder)
        return Result(transcript.answer, transcript.levels_seen, transcript.usage(), transcript)


_Opened = tuple[Policy, Protocol, PixelBudget]


def _remote(name: str, checkpoint: str | None, protocol: Mapping[str, Any], sampling: dict[str, Any]) -> _Opened:
    """A model behind an endpoint; what it serves is described by a checkpoint without its weights."""
    from visionthink.endpoint import Endpoint
    from visionthink.policies.checkpoint import describe
    from visionthink.policies.remote import RemotePolicy

    url, _, served = name.partition("#")
    described = describe(checkpoint) if checkpoint else None
    limits = ("concurrency", "timeout", "deadline", "requests_per_minute")
    connection = {name: sampling.pop(name) for name in limits if name in sampling}
    sampling.pop("batch_size", None)  # the server's business
    key = KEY if os.environ.get(KEY) else ""
    policy = RemotePolicy(
        Endpoint(url, served, key_env=key, **connection), config=described.config if described else None, **sampling
    )
    chosen = dataclasses.replace(described.protocol if described else Protocol(), **protocol)
    return policy, chosen, described.budget if described else QWEN2_5_VL


def _vllm(name: str, protocol: Mapping[str, Any], sampling: dict[str, Any]) -> _Opened:
    """A model that vLLM's offline engine runs."""
    from visionthink.policies.checkpoint import describe
    from visionthink.policies.vllm import VllmPolicy

    described = describe(name)
    chosen = dataclasses.replace(described.protocol, **protocol)
    return VllmPolicy(name, described, protocol=chosen, **sampling), chosen, described.budget


def _local(name: str, protocol: Mapping[str, Any], sampling: dict[str, Any]) -> _Opened:
    """A model that transformers runs."""
    from visionthink.policies.checkpoint import open_checkpoint

    where = {key: sampling.pop(key) for key in ("device", "dtype") if key in sampling}
    opened = open_checkpoint(name, **where)
    chosen = dataclasses.replace(opened.protocol, **protocol)
    from visionthink.policies.local import LocalPolicy

    return LocalPolicy(opened, protocol=chosen, **sampling), chosen, opened.budget


def load(
    name: str | Path = "tiny",
    *,
    ladder: ResolutionLadder | Sequence[float] | None = None,
    dialect: str | None = None,
    boundary: str | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    checkpoint: str | None = None,
    engine: str = "transformers",
    **sampling: Any,
) -> Model:
    """Open a model: `tiny`, `tiny-base`, a checkpoint folder, a hub id, or an endpoint as http://host/v1#MODEL.

    Args:
        ladder: levels to climb; default (0.25, 1).
        dialect, boundary: override what is stored beside the checkpoint, see `protocol.Protocol`.
        max_image_pixels: larger images are refused by their header, before they are unpacked.
        checkpoint: what an endpoint serves (`tiny`, a folder, a hub id): its protocol and image sizes are read from there;
            default: those of Qwen2.5-VL. A key is taken from the environment variable VISIONTHINK_API_KEY.
        engine: what runs a model that is no endpoint, `transformers` or `vllm`.
        sampling: `temperature`, `max_new_tokens`, `batch_size`, `seed` of `policies.local.LocalPolicy`;
            `device`, `dtype` of `policies.checkpoint.open_checkpoint`; for an endpoint `temperature`, `max_new_tokens`, `seed`,
            and `concurrency`, `timeout`, `deadline`, `requests_per_minute` of `endpoint.Endpoint`; for `vllm` see
            `policies.vllm.VllmPolicy`.

    Raises:
        ModelError: the checkpoint cannot be loaded.
    """
    chosen: dict[str, Any] = {key: value for key, value in (("dialect", dialect), ("boundary", boundary)) if value}
    if isinstance(ladder, str):
        ladder = ResolutionLadder.parse(ladder)
    if ladder is not None and not isinstance(ladder, ResolutionLadder):
        ladder = ResolutionLadder(tuple(ladder))
    if engine not in ENGINES:
        raise OptionError(f"engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if str(name).startswith(("http://", "https://")):
        if engine != ENGINES[0]:
            raise OptionError(f"engine {engine}: an endpoint has its own")
        opened = _remote(str(name), checkpoint, chosen, sampling)
    elif checkpoint:
        raise OptionError("checkpoint describes what an endpoint serves; for a local model, name it as the model")
    else:
        opened = (_vllm if engine == "vllm" else _local)(str(name), chosen, sampling)
    policy, protocol, budget = opened
    return Model(policy, protocol, ladder or ResolutionLadder(), budget, max_image_pixels)
