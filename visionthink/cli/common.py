"""What several commands share: the model's options, consoles, JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

from rich.console import Console

from visionthink.addresses import is_endpoint
from visionthink.durable import check_writable
from visionthink.errors import OptionError
from visionthink.images import MAX_IMAGE_PIXELS
from visionthink.menu import NAMED
from visionthink.model import ENGINES
from visionthink.policies.attention import ATTENTION
from visionthink.policies.placement import AUTO, DTYPES, check_device
from visionthink.pools.pool import Pool
from visionthink.protocol.dialects import DIALECTS, Boundary


class AddCommand(Protocol):
    """Adds a command.

    Args:
        run: what runs it.
        summary: one line of help.
        needs: the extras of this package that it needs, separated by commas.
        as_json: whether it can print JSON; as text: what it prints then, where that is not one object.
    """

    def __call__(
        self, name: str, run: Any, summary: str, *, needs: str = "", as_json: bool | str = False
    ) -> argparse.ArgumentParser: ...


MODELS = ("tiny", "tiny-base")
"""The models that are part of this package."""
JUDGE_HELP = (
    "who decides whether an answer is right: rules (decide only what is certain), exact (as rules, but any other short text is "
    "wrong), a language model as URL#MODEL, or a .toml file that describes one. With several, separated by commas, each judges "
    "what the one before could not decide (default: %(default)s)"
)


def given(text: str) -> str:
    """The type of an option that must not be empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text


def names(text: str) -> tuple[str, ...]:
    """The type of an option that lists names, separated by commas."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r}: a name is empty")
    return found


def path(text: str) -> Path:
    """The type of an option that names a file or folder to write."""
    return Path(given(text))


def folder(text: str) -> Path:
    """The type of --out where it names a folder to write.

    Raises:
        OptionError: it cannot be one, which is better known before hours of work.
    """
    out = path(text)
    if "://" in text:
        raise OptionError(f"--out {text}: is an address; name a folder, as lines are appended to files in it")
    if out.is_file():
        raise OptionError(f"--out {out}: is a file; name a folder")
    check_writable(out)
    return out


def limit_option(parser: argparse._ActionsContainer) -> None:
    text = "largest image that is accepted, in megapixels (default: %(default)g)"
    parser.add_argument("--max-megapixels", type=float, default=MAX_IMAGE_PIXELS / 1e6, metavar="N", help=text)


def pixel_limit(options: argparse.Namespace) -> int:
    if not 0 < options.max_megapixels < 1e6:
        raise OptionError(f"--max-megapixels {options.max_megapixels:g}: must be a number above 0")
    return int(options.max_megapixels * 1e6)


class Groups(NamedTuple):
    """The groups in which help lists the options of a model that are rarely needed."""

    running: argparse._ArgumentGroup
    endpoint: argparse._ArgumentGroup
    protocol: argparse._ArgumentGroup


def model_options(parser: argparse.ArgumentParser) -> Groups:
    """--model, and in groups of their own the options that only some models need."""
    model_option(parser)
    return model_groups(parser)


def model_option(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    text = "tiny or tiny-base (both are part of this package), a checkpoint folder, a hub id, or the address of an "
    text += f"OpenAI-compatible endpoint as http://host/v1#MODEL{'; separate several by commas' if several else ''} "
    model = parser.add_argument("--model", type=given, default="tiny", metavar="MODEL", help=text + "(default: %(default)s)")
    suggest(model, MODELS)


def model_groups(parser: argparse.ArgumentParser, *, several: bool = False) -> Groups:
    """The options that only some models need, in groups of their own."""
    groups = Groups(
        running=parser.add_argument_group("how the model runs"),
        endpoint=parser.add_argument_group("a model behind an endpoint"),
        protocol=parser.add_argument_group(
            "what the model may ask for, and how",
            "Only for models that were trained with other views or another wording than the default.",
        ),
    )
    if several:
        pool_options(groups.running)
    else:
        text = "library that runs the model: transformers or vllm; not for an endpoint (default: %(default)s)"
        suggest(groups.running.add_argument("--engine", default=ENGINES[0], help=text), ENGINES)
    placement_options(groups.running)
    text = "checkpoint folder or hub id of the model that the endpoint serves: its dialect and its image sizes are read from "
    text += "there; no weights are loaded"
    groups.endpoint.add_argument("--checkpoint", help=text)
    omit_option(groups.endpoint)
    menu_options(groups.protocol, default="the one that the dialect belongs to, else visionthink")
    text = "wording in which the model asks for more, for example agent or native; docs/reference/protocol.md lists them "
    text += "(default: that of the menu, else the one stored with the checkpoint, else agent)"
    suggest(groups.protocol.add_argument("--dialect", metavar="NAME", help=text), DIALECTS)
    text = "how turns are separated in the prompt: chatml, or released (for the authors' checkpoints) (default: the "
    text += "one stored with the checkpoint, else chatml)"
    suggest(groups.protocol.add_argument("--boundary", metavar="NAME", help=text), get_args(Boundary))
    text = "after a request, replace the model's own words by the standard wording of the request in the prompt "
    text += "(default: as stored with the checkpoint, else no)"
    groups.protocol.add_argument("--canonical", action=argparse.BooleanOptionalAction, help=text)
    return groups


def placement_options(parser: argparse._ActionsContainer, *, attention: bool = True) -> None:
    """Where a model that transformers runs is put, and how it computes."""
    text = "with transformers: cpu, cuda or cuda:N, the N-th GPU counted from 0 (default: a GPU if there is one)"
    suggest(parser.add_argument("--device", type=_device, default=AUTO, help=text), (AUTO, "cpu", "cuda"))
    text = "number format of the weights: auto, float32, bfloat16 or float16 (default: auto, which is float32 on a CPU and the "
    text += "checkpoint's own on a GPU)"
    parser.add_argument("--dtype", choices=DTYPES, default=AUTO, metavar="FORMAT", help=text)
    if attention:
        text = (
            f"with transformers: attention kernel, one of {', '.join(ATTENTION)} (default: flash_attention_2 if it can be used, "
        )
        text += "else sdpa)"
        parser.add_argument("--attention", choices=ATTENTION, default="", metavar="NAME", help=text)


def placement(options: argparse.Namespace) -> dict[str, Any]:
    """The values of `placement_options`, as `model.load` takes them."""
    return {name: getattr(options, name) for name in ("device", "dtype", "attention") if hasattr(options, name)}


def _device(text: str) -> str:
    check_device(text)
    return text


def suggest(action: argparse.Action, names: Iterable[str]) -> None:
    """What a shell completes an option or argument to, beside files (`cli.completion`); other values are allowed too."""
    action.suggested = tuple(names)  # type: ignore[attr-defined]


def pool_options(parser: argparse._ActionsContainer) -> None:
    """What runs a model, and how many workers on which machines."""
    text = "library that runs the model: transformers or vllm; not for an endpoint. Add ray, as in vllm,ray, to spread the work "
    text += "over a Ray cluster instead of processes of this machine (default: transformers)"
    parser.add_argument("--engine", type=_engine, default=_Engine(), help=text)
    text = "number of worker processes on this machine, which take its GPUs in turn; with ray, number of actors on the cluster "
    parser.add_argument("--workers", type=int, default=1, metavar="N", help=text + "(default: %(default)s)")
    text = "with ray: GPUs of each worker, as 0.5 or 1 (default: 1 if the cluster has GPUs, 0 for an endpoint)"
    parser.add_argument("--gpus-per-worker", type=float, metavar="N", help=text)


@dataclass(frozen=True)
class _Engine:
    """The value of --engine where work can be spread: what runs the model, and whether workers are Ray's."""

    model: str = ENGINES[0]
    ray: bool = False


def _engine(text: str) -> _Engine:
    named = names(text)
    models = [name for name in named if name != "ray"]
    if len(models) > 1 or len(set(named)) < len(named) or not set(models) <= set(ENGINES):
        raise OptionError(f"--engine {text}: choose {' or '.join(ENGINES)}, ray, or one of the former with ray as vllm,ray")
    return _Engine(models[0] if models else ENGINES[0], "ray" in named)


def pool(options: argparse.Namespace, models: Iterable[str]) -> Pool:
    """The workers that were asked for.

    Raises:
        OptionError: see `Pool`.
    """
    share = options.gpus_per_worker
    if share is None and options.engine.ray and all(map(is_endpoint, models)):
        share = 0.0
    return Pool(ray=options.engine.ray, workers=options.workers, gpus_per_worker=share)


def omit_option(parser: argparse._ActionsContainer) -> None:
    text = "fields that the endpoint refuses, for example temperature,seed: they are not sent to it"
    parser.add_argument("--omit", type=names, default=(), metavar="FIELDS", help=text)


def menu_options(parser: argparse._ActionsContainer, *, default: str) -> None:
    text = "named set of views: what is shown first and what the model may ask for, for example visionthink or awares; "
    text += f"docs/reference/menus.md lists them (default: {default})"
    suggest(parser.add_argument("--menu", metavar="NAME", help=text), NAMED)
    text = "resolutions at which a whole image can be shown, as shares of the full view's pixels, as 0.25,1 (default: the menu's)"
    parser.add_argument("--ladder", metavar="SHARES", help=text)


def load(options: argparse.Namespace, **more: Any) -> Any:
    from visionthink.model import load

    if options.max_new_tokens < 1:
        raise OptionError(f"--max-new-tokens {options.max_new_tokens}: must be at least 1")
    return load(
        options.model,
        menu=options.menu,
        ladder=options.ladder,
        dialect=options.dialect,
        boundary=options.boundary,
        canonical=options.canonical,
        max_new_tokens=options.max_new_tokens,
        checkpoint=options.checkpoint,
        engine=options.engine,
        omit=options.omit,
        **placement(options),
        **more,
    )


def wide(*, stderr: bool = False) -> Console:
    """A console that does not cut tables where the output is a file or a log."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=140)


def write_json(result: Any) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
