"""`visionthink ask` and `visionthink tokens`."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visionthink.action_space import ActionSpace
from visionthink.cli.common import (
    AddCommand,
    given,
    limit_option,
    load,
    menu_options,
    model_options,
    pixel_limit,
    suggest,
    write_json,
)
from visionthink.episode import run_batch
from visionthink.errors import ImageError, OptionError, choose_from
from visionthink.images import measure
from visionthink.menu import Menu, named_menu
from visionthink.picture import Picture
from visionthink.resolution import PixelBudget, parse_size
from visionthink.transcript import Transcript
from visionthink.types import Example, Shown, StopReason


def add(command: AddCommand) -> None:
    ask = command("ask", _ask, "Ask a question about one image, or about several together.", needs="local", as_json=True)
    images = ask.add_argument("images", nargs="+", metavar="IMAGE", help="image file; one question is asked about all of them")
    suggest(images, ())
    ask.add_argument("-q", "--question", type=given, required=True, metavar="TEXT", help="the question, in quotation marks")
    running = model_options(ask).running
    text = "largest number of tokens in a reply (default: %(default)s)"
    running.add_argument("--max-new-tokens", type=int, default=1024, metavar="N", help=text)
    limit_option(running)

    text = "Print how many visual tokens each view of an image costs a model."
    tokens = command("tokens", _tokens, text, as_json=True)
    suggest(tokens.add_argument("image", nargs="?", metavar="IMAGE", help="image file to measure"), ())
    tokens.add_argument("--size", metavar="WIDTHxHEIGHT", help="a size in pixels, instead of an image file")
    text = "family of models, whose rule turns pixels into visual tokens: qwen2.5-vl, qwen3-vl, openai, claude or gemini "
    text += "(default: %(default)s)"
    tokens.add_argument("--family", default="qwen2.5-vl", metavar="NAME", help=text)
    menu_options(tokens, default="visionthink")
    limit_option(tokens)


def _ask(options: argparse.Namespace) -> None:
    limit = pixel_limit(options)
    try:
        options.question.encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError("--question: not valid UTF-8") from None
    # bad files are known before a model is loaded, and are read once
    pictures = [Picture.open(image, max_pixels=limit) for image in options.images]
    model = load(options, max_image_pixels=limit)
    example = Example("ask", options.question, tuple(options.images))
    [t] = run_batch([model.episode(example, pictures=pictures)], model.policy)
    if options.json:
        write_json(_record(t))
    if t.stop_reason == StopReason.POLICY_ERROR:
        raise OptionError(f"--model {options.model}: no answer: {t.turns[-1].note}")
    if not options.json:
        _print(t, Console(soft_wrap=True))


def _record(t: Transcript) -> dict[str, Any]:
    return {
        "answer": t.answer,
        "levels": list(t.levels_seen),
        "looks": [_view(v) for turn in t.turns[1:] for v in turn.views],
        "stop_reason": t.stop_reason.value,
        "usage": t.usage(),
        "turns": [{"text": x.text, "action": x.action, "note": x.note, "views": [_view(v) for v in x.views]} for x in t.turns],
        "notes": list(t.notes),
    }


def _view(view: Shown) -> dict[str, Any]:
    edit = {"edit": view.edit} if view.edit else {}
    return {"image": view.image, "box": list(view.box), "level": view.level, "visual_tokens": view.visual_tokens} | edit


def _print(t: Transcript, console: Console) -> None:
    if t.answer is None:
        console.print(f"[red]no answer: {escape(t.turns[-1].note or t.stop_reason.value)}[/]")
    else:
        console.print(escape(t.answer))
    usage = t.usage()
    looks = [_named(v, t) for turn in t.turns[1:] for v in turn.views]
    first = f"looked at {100 * t.levels_seen[0]:g} % of the pixels"
    seen = f"{first}, then asked for {', '.join(looks)}" if looks else first
    console.print(
        f"[dim]{seen}; {usage['visual_tokens']} visual tokens, {usage['visual_tokens_full']} for the full view alone; "
        f"{usage['output_tokens']} output tokens; {usage['seconds']:.2f} s[/]"
    )
    for note in (*t.notes, *(turn.note for turn in t.turns if turn.note and t.answer is not None)):
        console.print(f"[dim]note: {escape(note)}[/]")


def _named(view: Shown, t: Transcript) -> str:
    which = f" of image {view.image + 1}" if len(t.sizes) > 1 else ""
    if view.edit:
        return f"{view.edit}{which}"
    if t.is_whole(view):
        return f"{100 * view.level:g} % of the pixels{which}"
    return f"the region {', '.join(map(str, view.box))}{which}"


def _tokens(options: argparse.Namespace) -> None:
    from visionthink.providers import SIZE_RULES

    if (options.image is None) == (options.size is None):
        raise OptionError("tokens: give an image or --size WxH, one of the two")
    if options.family not in SIZE_RULES:
        raise OptionError(f"--family {options.family!r}: {choose_from(options.family, SIZE_RULES)}")
    size = parse_size(options.size) if options.size is not None else measure(options.image, max_pixels=pixel_limit(options))
    rule = SIZE_RULES[options.family]
    menu = named_menu(options.menu)[0] if options.menu else Menu()
    if options.ladder is not None:
        menu = menu.with_levels(options.ladder)
    if menu.has_regions and not isinstance(rule, PixelBudget):
        raise OptionError(f"--menu {options.menu}: offers regions, which {options.family} does not charge by the pixel")
    space = ActionSpace(menu, [size], rule)
    try:
        full = space.full_tokens
        offers = space.offers()
        shown = [*space.shown(space.opening), *(v for offer in offers for v in space.shown(offer.looks))]
        kept = [rule.fit(view.width, view.height) for view in shown]
        views = [dataclasses.replace(v, width=w, height=h) for v, (w, h) in zip(shown, kept, strict=True)]
        any_box = next((offer for offer in offers if offer.any_box), None)
    except ImageError as error:
        raise ImageError(f"{options.image or '--size'}: {error}") from None
    names = ["shown first", *(offer.name for offer in offers if not offer.any_box)]
    if options.json:
        record = {"family": options.family, "width": size[0], "height": size[1], "visual_tokens_full": full}
        levels = [
            {"name": n, **dataclasses.asdict(v), "share": v.visual_tokens / full} for n, v in zip(names, views, strict=True)
        ]
        least = {"least_tokens_of_a_box": any_box.visual_tokens} if any_box else {}
        write_json(record | {"levels": levels} | least)
        return
    table = Table(title=f"{size[0]}x{size[1]} px, {options.family}")
    named_rows = ["name", "box"] if menu.beyond_levels else []
    for column in (*named_rows, "level", "size", "visual tokens", "share of full"):
        table.add_column(column, justify="right", no_wrap=column == "box")
    for name, view in zip(names, views, strict=True):
        table.add_row(
            *([name, ", ".join(map(str, view.box))] if named_rows else []),
            f"{view.level:g}",
            f"{view.width}x{view.height}",
            str(view.visual_tokens),
            f"{100 * view.visual_tokens / full:.1f} %",
        )
    Console().print(table)
    if any_box:
        Console().print(f"any box can be asked for, from {any_box.visual_tokens} visual tokens on")
    if space.notes:
        Console().print("[dim]lower levels would save no tokens and were left out[/]")
