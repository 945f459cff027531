"""`visionthink ask` and `visionthink tokens`."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visionthink.cli.common import AddCommand, given, limit_option, load, model_options, pixel_limit, write_json
from visionthink.errors import ImageError, OptionError
from visionthink.images import open_image
from visionthink.resolution import ResolutionLadder, parse_size


def add(command: AddCommand) -> None:
    ask = command("ask", _ask, "Ask a question about an image.", as_json=True)
    ask.add_argument("images", nargs="+", metavar="IMAGE", help="image file; with several, each is asked by itself")
    ask.add_argument("-q", "--question", type=given, required=True)
    model_options(ask)
    ask.add_argument("--max-new-tokens", type=int, default=1024, help="per turn (default: %(default)s)")
    limit_option(ask)

    tokens = command("tokens", _tokens, "What an image costs in visual tokens, at every level.", as_json=True)
    tokens.add_argument("image", nargs="?", metavar="IMAGE")
    tokens.add_argument("--size", help="WIDTHxHEIGHT in pixels, instead of an image")
    tokens.add_argument(
        "--family", default="qwen2.5-vl", help="qwen2.5-vl, qwen3-vl, openai, claude or gemini (default: %(default)s)"
    )
    tokens.add_argument("--ladder", default="0.25,1", help="shares of the pixels (default: %(default)s)")

    limit_option(tokens)


def _ask(options: argparse.Namespace) -> None:
    limit = pixel_limit(options)
    try:
        options.question.encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError("--question: not valid UTF-8") from None
    for image in options.images:  # bad files are known before a model is loaded
        open_image(image, max_pixels=limit)
    model = load(options, max_image_pixels=limit)
    answers = []
    for image in options.images:
        result = model.ask(image, options.question)
        t = result.transcript
        answers.append(
            {
                "answer": result.answer,
                "levels": list(result.levels),
                "stop_reason": t.stop_reason.value,
                "usage": result.usage,
                "turns": [{"level": turn.level, "text": turn.text, "action": turn.action, "note": turn.note} for turn in t.turns],
                "notes": list(t.notes),
            }
        )
    if options.json:
        write_json(answers[0] if len(answers) == 1 else {"results": answers})
        return
    console = Console(soft_wrap=True)
    for image, answer in zip(options.images, answers, strict=True):
        if len(answers) > 1:
            console.print(f"[bold]{escape(image)}[/]")
        if answer["answer"] is None:
            why = answer["turns"][-1]["note"] or answer["stop_reason"]
            console.print(f"[red]no answer: {escape(why)}[/]")
        else:
            console.print(escape(answer["answer"]))
        usage = answer["usage"]
        *lower, last = (f"{level:g}" for level in answer["levels"])
        seen = f"asked for more: {', '.join(lower)}, then {last} of the pixels" if lower else f"looked at {last} of the pixels"
        console.print(
            f"[dim]{seen}; {usage['visual_tokens']} visual tokens, {usage['visual_tokens_full']} for the full view alone; "
            f"{usage['output_tokens']} output tokens; {usage['seconds']:.2f} s[/]"
        )
        for note in answer["notes"]:
            console.print(f"[dim]note: {escape(note)}[/]")


def _tokens(options: argparse.Namespace) -> None:
    from visionthink.providers import SIZE_RULES

    if (options.image is None) == (options.size is None):
        raise OptionError("tokens: give an image or --size WxH, one of the two")
    if options.family not in SIZE_RULES:
        raise OptionError(f"--family {options.family!r}: choose one of {', '.join(SIZE_RULES)}")
    width, height = (
        parse_size(options.size)
        if options.size is not None
        else open_image(options.image, max_pixels=pixel_limit(options)).image.size
    )
    rule, ladder = SIZE_RULES[options.family], ResolutionLadder.parse(options.ladder)
    try:
        full = rule.visual_tokens(width, height)
    except ImageError as error:
        raise ImageError(f"{options.image or '--size'}: {error}") from None
    levels = [
        {
            "level": level,
            "width": w,
            "height": h,
            "visual_tokens": rule.visual_tokens(w, h),
            "share": rule.visual_tokens(w, h) / full,
        }
        for level, w, h in ladder.sizes(width, height, rule)
    ]
    if options.json:
        write_json({"family": options.family, "width": width, "height": height, "visual_tokens_full": full, "levels": levels})
        return
    table = Table(title=f"{width}x{height} px, {options.family}")
    for column in ("level", "size", "visual tokens", "share of full"):
        table.add_column(column, justify="right")
    for entry in levels:
        table.add_row(
            f"{entry['level']:g}",
            f"{entry['width']}x{entry['height']}",
            str(entry["visual_tokens"]),
            f"{100 * entry['share']:.1f} %",
        )
    Console().print(table)
    if len(levels) < len(ladder.levels):
        Console().print("[dim]lower levels would save no tokens and were left out[/]")
