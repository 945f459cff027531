"""The command line: thin. Every command prints a table for people or, with `--json`, one object for programs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visionthink import __version__
from visionthink.errors import OptionError, VisionThinkError
from visionthink.images import MAX_IMAGE_PIXELS, open_image
from visionthink.resolution import ResolutionLadder, parse_size


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 on bad input, 130 when interrupted."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    debug = "--debug" in arguments
    if not debug:
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        parser = _parser()
        options, rest = parser.parse_known_args(arguments)
        if rest and options.command != "train":
            raise OptionError(f"unrecognised argument {rest[0]}")
        options.rest = rest
        options.run(options)
    except VisionThinkError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="visionthink", description="Vision-language models that look closer only when they need to.")
    parser.add_argument("--version", action="version", version=f"visionthink {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, *, as_json: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", help="show tracebacks and library warnings")
        if as_json:
            sub.add_argument("--json", action="store_true", help="print one JSON object")
        return sub

    ask = command("ask", _ask, "Ask a question about an image.", as_json=True)
    ask.add_argument("images", nargs="+", metavar="IMAGE", help="image file; with several, each is asked by itself")
    ask.add_argument("-q", "--question", required=True)
    _model_options(ask)
    ask.add_argument("--max-new-tokens", type=int, default=1024, help="per turn (default: %(default)s)")
    ask.add_argument(
        "--max-megapixels", type=float, default=MAX_IMAGE_PIXELS / 1e6, help="refuse larger images (default: %(default)g)"
    )

    tokens = command("tokens", _tokens, "What an image costs in visual tokens, at every level.", as_json=True)
    tokens.add_argument("image", nargs="?", metavar="IMAGE")
    tokens.add_argument("--size", help="WIDTHxHEIGHT in pixels, instead of an image")
    tokens.add_argument(
        "--family", default="qwen2.5-vl", help="qwen2.5-vl, qwen3-vl, openai, claude or gemini (default: %(default)s)"
    )
    tokens.add_argument("--ladder", default="0.25,1", help="shares of the pixels (default: %(default)s)")

    demo = command("demo", _demo, "Train the tiny model to look closer only when needed, and report on it.", as_json=True)
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (default: %(default)s)")

    train = command("train", _train, "Run a training recipe. Any of its settings can be given as --NAME VALUE.")
    train.add_argument("recipe", metavar="RECIPE", help="tiny")
    train.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics.jsonl and the final model")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    train.add_argument("--dry-run", action="store_true", help="check the settings, take one optimiser step, save nothing")
    train.epilog = "Settings: " + ", ".join(f"--{n.replace('_', '-')}" for n in _train_settings())

    evaluate = command("eval", _eval, "Evaluate a model on a suite under a policy.", as_json=True)
    evaluate.add_argument("suite", metavar="SUITE", help="mini")
    _model_options(evaluate)
    evaluate.add_argument(
        "--policy",
        default="adaptive",
        help="adaptive, full, low, random:P, oracle, forced:direct or forced:request (default: %(default)s)",
    )
    evaluate.add_argument("--limit", type=int, help="only the first N examples")
    evaluate.add_argument("--max-new-tokens", type=int, default=1024, help="per turn (default: %(default)s)")
    evaluate.add_argument("--out", type=Path, required=True, help="folder for transcripts.jsonl and summary.json")

    report = command("report", _report, "One HTML page for evaluation and training folders.")
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    report.add_argument("--out", type=Path, required=True, metavar="FILE.html")
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="tiny", help="tiny, tiny-base, a checkpoint folder or a hub id (default: %(default)s)")
    parser.add_argument("--ladder", default="0.25,1", help="shares of the pixels to climb (default: %(default)s)")
    parser.add_argument("--dialect", help="protocol wording; default: what is stored beside the checkpoint, else agent")
    parser.add_argument("--boundary", help="turn boundary, chatml or released; default likewise, else chatml")


def _load(options: argparse.Namespace, **more: Any) -> Any:
    from visionthink.model import load

    if options.max_new_tokens < 1:
        raise OptionError(f"--max-new-tokens {options.max_new_tokens}: must be at least 1")
    ladder = ResolutionLadder.parse(options.ladder)
    return load(
        options.model,
        ladder=ladder,
        dialect=options.dialect,
        boundary=options.boundary,
        max_new_tokens=options.max_new_tokens,
        **more,
    )


def _write_json(result: Any) -> None:
    sys.stdout.write(json.dumps(result) + "\n")


def _ask(options: argparse.Namespace) -> None:
    if options.max_megapixels <= 0:
        raise OptionError(f"--max-megapixels {options.max_megapixels:g}: must be above 0")
    limit = int(options.max_megapixels * 1e6)
    for image in options.images:  # bad files are known before a model is loaded
        open_image(image, max_pixels=limit)
    model = _load(options, max_image_pixels=limit)
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
        _write_json(answers[0] if len(answers) == 1 else {"results": answers})
        return
    console = Console(soft_wrap=True)
    for image, answer in zip(options.images, answers, strict=True):
        if len(answers) > 1:
            console.print(f"[bold]{escape(image)}[/]")
        console.print(escape(answer["answer"]) if answer["answer"] is not None else f"[red]no answer: {answer['stop_reason']}[/]")
        usage = answer["usage"]
        seen = "asked for full resolution" if len(answer["levels"]) > 1 else f"looked at {answer['levels'][0]:g} of the pixels"
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
    width, height = parse_size(options.size) if options.size else open_image(options.image).image.size
    rule, ladder = SIZE_RULES[options.family], ResolutionLadder.parse(options.ladder)
    full = rule.visual_tokens(width, height)
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
        _write_json({"family": options.family, "width": width, "height": height, "visual_tokens_full": full, "levels": levels})
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


def _demo(options: argparse.Namespace) -> None:
    from visionthink.recipes.demo import demo

    result = demo(options.out, Console(stderr=options.json))
    if options.json:
        _write_json(result)


def _train_settings() -> dict[str, Any]:
    from visionthink.train.config import TrainConfig

    hints = typing.get_type_hints(TrainConfig)
    return {f.name: hints[f.name] for f in dataclasses.fields(TrainConfig) if f.name not in ("out", "resume", "overrides")}


def _train_overrides(rest: Sequence[str]) -> dict[str, Any]:
    settings = _train_settings()
    overrides: dict[str, Any] = {}
    words = list(rest)
    while words:
        key = words.pop(0)
        name, has_value, value = key.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not key.startswith("--") or name not in settings:
            raise OptionError(
                f"train: unknown setting {key}; choose from {', '.join('--' + s.replace('_', '-') for s in settings)}"
            )
        if not has_value and not words:
            raise OptionError(f"{key}: a value is missing")
        text = value if has_value else words.pop(0)
        kind = settings[name] if settings[name] in (int, float) else str
        try:
            overrides[name] = kind(text)
        except ValueError:
            raise OptionError(f"{key} {text!r}: expected {'an integer' if kind is int else 'a number'}") from None
    return overrides


def _train(options: argparse.Namespace) -> None:
    from visionthink.recipes import recipe

    chosen = recipe(options.recipe)
    config = chosen.config.replace(**_train_overrides(options.rest), out=options.out, resume=options.resume)
    from visionthink.train.run import train

    train(config, chosen.examples, dry_run=options.dry_run)
    where = "dry run: one step taken, nothing saved" if options.dry_run else f"saved to {config.out / 'final'}"
    Console(stderr=True, soft_wrap=True).print(where)


def _eval(options: argparse.Namespace) -> None:
    from visionthink.evals.runner import evaluate
    from visionthink.recipes import suite

    examples = suite(options.suite, options.limit)
    model = _load(options, batch_size=64)
    summary = evaluate(examples, model, options.policy, options.out, suite=options.suite, model_name=options.model)
    if options.json:
        _write_json(summary)
        return
    from visionthink.recipes.demo import summary_table

    Console().print(summary_table([summary]))


def _report(options: argparse.Namespace) -> None:
    from visionthink.evals.report import report

    report(options.folders, options.out)
    Console(stderr=True, soft_wrap=True).print(f"wrote {options.out}")


if __name__ == "__main__":
    sys.exit(main())
