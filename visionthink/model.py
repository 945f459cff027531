"""`load()`: a model, its protocol and its menu behind one question-answering method."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from visionthink.addresses import is_endpoint
from visionthink.episode import Episode, Policy, run_batch
from visionthink.errors import ModelError, OptionError, choose_from
from visionthink.images import MAX_IMAGE_PIXELS
from visionthink.menu import Menu, menu_for, named_menu
from visionthink.picture import Picture, open_pictures
from visionthink.policies.attention import check_attention
from visionthink.policies.placement import AUTO, check_placement
from visionthink.protocol import Protocol
from visionthink.resolution import QWEN2_5_VL, PixelBudget, ResolutionLadder, SizeRule
from visionthink.transcript import Transcript
from visionthink.types import Example, ImageSource

if TYPE_CHECKING:
    import torch

KEY = "VISIONTHINK_API_KEY"
"""Environment variable whose value is sent to the endpoint of a remote model."""

ENGINES = ("transformers", "vllm")
"""What can run a model that is no endpoint."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What `ask` returns. `answer` is None when the episode ended without one; `transcript.stop_reason` says why."""

    answer: str | None
    levels: tuple[float, ...]
    """The level of each view that the model was shown."""
    usage: dict[str, float]
    transcript: Transcript


Asked: TypeAlias = "tuple[ImageSource | Sequence[ImageSource], str]"
"""An image, or several, and a question about them."""


class Model:
    """A policy that speaks a protocol over a menu.

    Raises:
        OptionError: the dialect cannot ask for anything that the menu offers.
    """

    def __init__(
        self,
        policy: Policy,
        protocol: Protocol,
        menu: Menu,
        budget: SizeRule,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ):
        protocol.check_menu(menu)
        self.policy, self.protocol, self.menu, self.budget = policy, protocol, menu, budget
        self.max_image_pixels = max_image_pixels

    def episode(self, example: Example, menu: Menu | None = None, *, pictures: Sequence[Picture] | None = None) -> Episode:
        """A fresh episode over an example, whose images are opened unless they are given.

        Raises:
            ImageError: an image cannot be used.
            DataError: the example does not fit its images, or the dialect.
        """
        if pictures is None:
            pictures = open_pictures(example, max_pixels=self.max_image_pixels)
        return Episode(example, pictures, menu or self.menu, self.protocol, budget=self.budget)

    def run(self, examples: Sequence[Example | Asked], menu: Menu | None = None) -> list[Transcript]:
        """Answer many questions together, which is faster than one by one. Transcripts, in order: `[t.answer for t in ...]`.

            model.run([("shapes.png", "How many shapes are there?"), ("other.png", "Where is the shape?")])

        Args:
            examples: pairs of an image (or several) and a question, as `ask` takes them, which are numbered from 0; or examples,
                which have ids, and answers to be judged by.
            menu: what can be asked for; default: the model's.

        Raises:
            ImageError: an image cannot be used.
            OptionError: something is neither an example nor such a pair.
        """
        asked = [e if isinstance(e, Example) else _example(str(i), e) for i, e in enumerate(examples)]
        return run_batch([self.episode(example, menu) for example in asked], self.policy)

    def ask(
        self,
        image: ImageSource | Sequence[ImageSource],
        question: str,
        *,
        ladder: ResolutionLadder | Sequence[float] | None = None,
    ) -> Result:
        """Answer a question about an image (a path, the bytes of a file, or an opened image), or about several.

        Raises:
            ImageError: an image cannot be used.
            OptionError: the question is not text.
        """
        menu = None if ladder is None else _with_ladder(self.menu, ladder)
        [transcript] = self.run([_example("ask", (image, question))], menu)
        return Result(answer=transcript.answer, levels=transcript.levels_seen, usage=transcript.usage(), transcript=transcript)


def _example(id: str, asked: Asked) -> Example:
    if not isinstance(asked, tuple) or len(asked) != 2:
        raise OptionError(f"question {id}: {type(asked).__name__} is neither an Example nor a pair (image, question)")
    image, question = asked
    if not isinstance(question, str):
        raise OptionError(f"question {question!r}: must be text")
    return Example(id, question, tuple(image) if isinstance(image, Sequence) and not isinstance(image, (str, bytes)) else image)


def _with_ladder(menu: Menu, ladder: ResolutionLadder | Sequence[float] | str) -> Menu:
    """A menu with another ladder, or with other levels."""
    return dataclasses.replace(menu, ladder=ladder) if isinstance(ladder, ResolutionLadder) else menu.with_levels(ladder)


_Opened = tuple[Policy, Protocol, PixelBudget]
_Speaking = Callable[[Protocol], Protocol]
"""From the protocol stored beside a checkpoint to the one that was asked for."""


def _remote(name: str, checkpoint: str | None, speaking: _Speaking, sampling: dict[str, Any]) -> _Opened:
    """A model behind an endpoint; what it serves is described by a checkpoint without its weights."""
    from visionthink.endpoint import Endpoint
    from visionthink.policies.checkpoint import describe
    from visionthink.policies.remote import RemotePolicy

    url, _, served = name.partition("#")
    described = describe(checkpoint) if checkpoint else None
    limits = ("concurrency", "timeout", "deadline", "requests_per_minute")
    connection = {name: sampling.pop(name) for name in limits if name in sampling}
    key = KEY if os.environ.get(KEY) else ""
    protocol = speaking(described.protocol if described else Protocol())
    endpoint = Endpoint(url, model=served, key_env=key, **connection)
    policy = RemotePolicy(endpoint, config=described.config if described else None, protocol=protocol, **sampling)
    return policy, protocol, described.budget if described else QWEN2_5_VL


def _vllm(name: str, speaking: _Speaking, sampling: dict[str, Any]) -> _Opened:
    """A model that vLLM's offline engine runs."""
    from visionthink.policies.checkpoint import describe
    from visionthink.policies.vllm import VllmPolicy

    described = describe(name)
    chosen = speaking(described.protocol)
    return VllmPolicy(name, described, protocol=chosen, **sampling), chosen, described.budget


def _local(name: str, how: dict[str, Any], speaking: _Speaking, sampling: dict[str, Any]) -> _Opened:
    """A model that transformers runs; `how`: device, dtype and attention."""
    from visionthink.policies.checkpoint import open_checkpoint

    opened = open_checkpoint(name, **how)
    chosen = speaking(opened.protocol)
    from visionthink.policies.local import LocalPolicy

    return LocalPolicy(opened, protocol=chosen, **sampling), chosen, opened.budget


def check_installed(engine: str) -> None:
    """
    Raises:
        ModelError: vLLM is to run the model, and is not installed here.
    """
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ModelError("engine vllm: is not installed; pip install 'visionthink[vllm]'")


def load(
    name: str | Path = "tiny",
    *,
    menu: Menu | str | None = None,
    ladder: ResolutionLadder | Sequence[float] | str | None = None,
    dialect: str | None = None,
    boundary: str | None = None,
    canonical: bool | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    checkpoint: str | None = None,
    engine: str = "transformers",
    device: str = AUTO,
    dtype: torch.dtype | str = AUTO,
    attention: str = "",
    temperature: float = 0.0,
    max_new_tokens: int = 1024,
    seed: int = 0,
    batch_size: int | None = None,
    omit: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
    concurrency: int | None = None,
    requests_per_minute: float | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
    engine_options: Mapping[str, Any] | None = None,
) -> Model:
    """Open a model: `tiny`, `tiny-base`, a checkpoint folder, a hub id, or an endpoint as http://host/v1#MODEL.

    Args:
        name: the model.
        menu: what can be asked for: a `menu.Menu`, or the name of one, which brings its dialect along (`awares`, `adaptvision`,
            ...; see `menu.NAMED`); default: the one that the model's dialect belongs to.
        ladder: levels of whole images, instead of the menu's; default (0.25, 1).
        dialect: the wording in which the model asks; default: the menu's, else the one stored beside the checkpoint.
        boundary: what stands between two turns, `chatml` or `released`; default: the one stored beside the checkpoint.
        canonical: whether a request is written anew in canonical words before the next turn, see `protocol.Protocol`; default:
            as stored beside the checkpoint.
        max_image_pixels: larger images are refused by their header, before they are unpacked.
        checkpoint: what an endpoint serves (`tiny`, a folder, a hub id): its protocol and image sizes are read from there;
            default: those of Qwen2.5-VL. A key is taken from the environment variable VISIONTHINK_API_KEY.
        engine: what runs a model that is no endpoint, `transformers` or `vllm`.
        device: where a model that transformers runs is put: `cpu`, `cuda` or `cuda:N`; default: a GPU where there is one.
        dtype: type of a local model's weights: `float32`, `bfloat16` or `float16`; default: float32 on a CPU, else as stored.
        attention: how a model that transformers runs computes it: `sdpa`, `flash_attention_2` or `eager`; default: flash
            attention where it is installed and can be used, else sdpa.
        temperature: of sampling; 0 takes the most likely token.
        max_new_tokens: of a reply, at most.
        seed: of sampling.
        batch_size: questions that are answered at once; default: as many as fit into memory. An endpoint decides this itself.
        omit: fields to leave out of requests to an endpoint, as `seed`, because it refuses them.
        extra: further fields of requests to an endpoint.
        concurrency: requests to an endpoint at once; default 16.
        requests_per_minute: to an endpoint, at most; default: no limit.
        timeout: seconds that one request to an endpoint may take; default 60.
        deadline: seconds after which a question to an endpoint is given up, repeated requests included; default 180.
        engine_options: further options of `vllm.LLM`, as `{"tensor_parallel_size": 2}`.

    Raises:
        ModelError: the checkpoint cannot be loaded.
        OptionError: an address without http://, or an option that the model does not have.
    """
    if isinstance(menu, str):
        menu, spoken = named_menu(menu)
        dialect = dialect or spoken

    def speaking(stored: Protocol) -> Protocol:
        chosen = stored.with_dialect(dialect, boundary)
        return chosen if canonical is None else dataclasses.replace(chosen, canonical=canonical)

    def offered(protocol: Protocol) -> Menu:
        chosen = menu or menu_for(protocol.dialect)
        return chosen if ladder is None else _with_ladder(chosen, ladder)

    # names that do not exist and values that cannot be are known before a model is loaded
    foreseen = speaking(Protocol())
    wanted = offered(foreseen)
    if dialect:
        foreseen.check_menu(wanted)
    if engine not in ENGINES:
        raise OptionError(f"engine {engine!r}: {choose_from(engine, ENGINES)}")
    runner = "the endpoint" if is_endpoint(str(name)) else engine
    check_attention(attention, runner=runner)
    check_placement(device, dtype, runner=runner)
    if engine_options and runner != "vllm":
        raise OptionError(f"engine_options: are for engine vllm, and {name} is run by {runner}")
    sampling: dict[str, Any] = {"temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed}
    limits = {"concurrency": concurrency, "requests_per_minute": requests_per_minute, "timeout": timeout, "deadline": deadline}
    requests: dict[str, Any] = {
        key: value for key, value in {"omit": omit or None, "extra": extra, **limits}.items() if value is not None
    }
    if is_endpoint(str(name)):
        if engine != ENGINES[0]:
            raise OptionError(f"engine {engine}: an endpoint has its own")
        opened = _remote(str(name), checkpoint, speaking, sampling | requests)
    elif requests:
        raise OptionError(f"{', '.join(requests)}: only for an endpoint, and {name} is none; leave it out")
    elif checkpoint:
        raise OptionError("checkpoint describes what an endpoint serves; for a local model, name it as the model")
    elif engine == "vllm":
        chosen = {} if dtype == AUTO else {"dtype": dtype}
        opened = _vllm(str(name), speaking, {"batch_size": batch_size, **sampling, **chosen, **(engine_options or {})})
    else:
        how = {"device": device, "dtype": dtype, "attention": attention}
        opened = _local(str(name), how, speaking, sampling | {"batch_size": batch_size})
    policy, protocol, budget = opened
    return Model(policy, protocol, offered(protocol), budget, max_image_pixels)
