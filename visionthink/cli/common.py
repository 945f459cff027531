"""What several commands share: the model's options, consoles, JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from visionthink.addresses import is_endpoint
from visionthink.errors import OptionError
from visionthink.images import MAX_IMAGE_PIXELS
from visionthink.menu import NAMED
from visionthink.model import ENGINES
from visionthink.policies.attention import ATTENTION
from visionthink.pools.pool import Pool


class AddCommand(Protocol):
    """Adds a command: name, what runs it, one line of help, whether it can print JSON (as text: what it prints then, where that
    is not one object)."""

    def __call__(self, name: str, run: Any, summary: str, *, as_json: bool | str = False) -> argparse.ArgumentParser: ...


JUDGE_HELP = (
    "rules (only what is sure), exact (another short text is wrong), an endpoint URL#model, a .toml file; "
    "several with commas: each judges what the one before could not (default: %(default)s)"
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
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OptionError(f"--out {out}: {nearest} is not a folder that can be written to")
    return out


def limit_option(parser: argparse.ArgumentParser) -> None:
    text = "refuse images of more than this many megapixels (default: %(default)g)"
    parser.add_argument("--max-megapixels", type=float, default=MAX_IMAGE_PIXELS / 1e6, help=text)


def pixel_limit(options: argparse.Namespace) -> int:
    if not 0 < options.max_megapixels < 1e6:
        raise OptionError(f"--max-megapixels {options.max_megapixels:g}: must be a number above 0")
    return int(options.max_megapixels * 1e6)


def model_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    model = "tiny, tiny-base, a folder, a hub id or an endpoint as http://host/v1#MODEL"
    model += f"{'; separate several with commas' if several else ''} (default: %(default)s)"
    parser.add_argument(
        "--model",
        type=given,
        default="tiny",
        help=model,
    )
    menu_options(parser, default="the one that the dialect belongs to, else visionthink")
    parser.add_argument(
        "--dialect", help="wording of the protocol; by default the menu's, else the one stored beside the checkpoint, else agent"
    )
    parser.add_argument("--checkpoint", help="what an endpoint serves; its protocol and image sizes are read from there")
    if several:
        pool_options(parser)
    else:
        text = "runs a model that is no endpoint: transformers or vllm (default: %(default)s)"
        parser.add_argument("--engine", default="transformers", help=text)
    attention_option(parser)
    omit_option(parser)
    parser.add_argument("--boundary", help="turn boundary, chatml or released; default likewise, else chatml")
    text = "go on from a request in canonical words, and not as the model said it; default likewise, else no"
    parser.add_argument("--canonical", action=argparse.BooleanOptionalAction, help=text)


def attention_option(parser: argparse.ArgumentParser) -> None:
    text = (
        "attention of a model that transformers runs (default: flash attention where it is installed and can be used, else sdpa)"
    )
    parser.add_argument("--attention", choices=ATTENTION, default="", help=text)


def pool_options(parser: argparse.ArgumentParser) -> None:
    """What runs a model, and how many workers on which machines."""
    text = "transformers or vllm runs a model that is no endpoint; ray spreads the work over a Ray cluster instead of processes "
    text += "of this machine; both as vllm,ray (default: transformers)"
    parser.add_argument("--engine", type=_engine, default=_Engine(), help=text)
    text = "processes of this machine, which take its GPUs in turn; with ray actors on the cluster (default: %(default)s)"
    parser.add_argument("--workers", type=int, default=1, help=text)
    text = "with ray: GPUs of each worker, as 0.5 or 1 (default: 1 where the cluster has some, and 0 for an endpoint)"
    parser.add_argument("--gpus-per-worker", type=float, help=text)


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


def omit_option(parser: argparse.ArgumentParser) -> None:
    text = "request fields to leave out because the endpoint refuses them, as temperature,seed"
    parser.add_argument("--omit", type=names, default=(), help=text)


def menu_options(parser: argparse.ArgumentParser, *, default: str) -> None:
    menus = f"what can be asked for: {', '.join(NAMED)} (default: {default})"
    parser.add_argument("--menu", help=menus)
    parser.add_argument("--ladder", help="levels of whole images, as shares of the pixels, instead of the menu's (0.25,1)")


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
        **{name: getattr(options, name) for name in ("omit", "attention") if getattr(options, name)},
        **more,
    )


def wide(*, stderr: bool = False) -> Console:
    """A console that does not cut tables where the output is a file or a log."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=140)


def write_json(result: Any) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
