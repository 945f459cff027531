"""`visionthink doctor`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visionthink.cli.common import MODELS, AddCommand, given, suggest, wide, write_json
from visionthink.recipes.doctor import Found, ModelFound, Use, examine


def add(command: AddCommand) -> None:
    text = "Check this installation: versions, GPUs, attention kernels, what is missing for which command, and whether a model "
    text += "can be run here. Nothing is downloaded. The exit status is 1 if something that --model needs is missing."
    doctor = command("doctor", _doctor, text, as_json=True)
    text = "a model (tiny, a checkpoint folder, a hub id or an endpoint): also check what it needs, and estimate its memory"
    suggest(doctor.add_argument("--model", type=given, help=text), MODELS)


def _doctor(options: argparse.Namespace) -> None:
    found = examine(options.needs, options.model)
    if options.json:
        write_json(dataclasses.asdict(found))
    else:
        _print(found, wide())
    if found.model and found.model.missing:
        sys.exit(1)


def _print(found: Found, console: Console) -> None:
    versions = [f"{name} {version}" for name, version in found.versions.items()]
    gpus = [f"{gpu.name}, {_size(gpu.free_bytes)} free of {_size(gpu.bytes)}" for gpu in found.gpus] or list(
        found.torch_gpus or ()
    )
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column()
    facts.add_row("versions", escape(", ".join(versions)))
    facts.add_row("machine", escape(f"{found.platform}, {found.cores} CPU cores"))
    facts.add_row("GPUs", escape("; ".join(gpus) or "none"))
    kernels = [f"{name} ({hindrance})" if hindrance else name for name, hindrance in found.attention.items()]
    facts.add_row("attention", escape(", ".join(kernels) or "not known without torch and transformers"))
    for note in found.notes:
        facts.add_row("note", escape(note))
    console.print(facts)
    console.print(_uses("command", found.commands))
    console.print(_uses("for", found.features))
    if found.model:
        _print_model(found.model, console)


def _uses(title: str, uses: Iterable[Use]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (title, "ready", "to install", "missing"):
        table.add_column(column, no_wrap=column == "to install")
    for use in uses:
        cells = (use.name, "no" if use.missing else "yes", use.install, _few(use.missing))
        table.add_row(*map(escape, cells), style="" if use.missing else "dim")
    return table


def _few(names: Sequence[str]) -> str:
    """The first names; --json has all."""
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[: 3 if more else 4]) + more


def _print_model(model: ModelFound, console: Console) -> None:
    size = f", {model.parameters / 1e9:.3g} billion parameters" if model.parameters else ""
    console.print(f"[bold]model[/] {escape(model.name)}{size}", highlight=False)
    if model.memory:
        largest = f"a question about the largest image, {model.visual_tokens:,} visual tokens"
        table = Table("memory, estimated", "weights", largest, box=box.SIMPLE_HEAD, pad_edge=False)
        for memory in model.memory:
            table.add_row(memory.dtype, _size(memory.weights), f"up to {_size(memory.question)}")
        console.print(table)
        there = f"here: {model.dtype} on the {model.device}, {_size(model.free_bytes)} free"
        console.print(f"{there}; so many of these questions at once: {model.together}", highlight=False)
    for line in model.notes:
        console.print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    for line in model.missing:
        console.print(f"missing: {line}", markup=False, highlight=False, soft_wrap=True)
    if not model.missing:
        console.print("nothing that it needs is missing", highlight=False)


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
