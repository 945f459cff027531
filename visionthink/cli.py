"""The command line: thin. Every command prints a table for people or, with `--json`, one object for programs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
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
        logging.getLogger("trl").setLevel(logging.ERROR)  # it prints a page per unscored rollout; we count them
    try:
        options = _parser().parse_args(arguments)
        options.run(options)
    except VisionThinkError as error:
        return _failed(str(error), debug)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error), debug)
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is not installed; pip install 'visionthink[local,train,eval]'", debug)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _failed(message: str, debug: bool) -> int:
    if debug:
        raise
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="visionthink", description="Vision-language models that look closer only when they need to.")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and library warnings")
    parser.add_argument("--version", action="version", version=f"visionthink {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, *, as_json: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if as_json:
            sub.add_argument("--json", action="store_true", help="print one JSON object")
        return sub

    ask = command("ask", _ask, "Ask a question about an image.", as_json=True)
    ask.add_argument("images", nargs="+", metavar="IMAGE", help="image file; with several, each is asked by itself")
    ask.add_argument("-q", "--question", required=True)
    _model_options(ask)
    ask.add_argument("--max-new-tokens", type=int, default=1024, help="per turn (default: %(default)s)")
    _limit_option(ask)

    tokens = command("tokens", _tokens, "What an image costs in visual tokens, at every level.", as_json=True)
    tokens.add_argument("image", nargs="?", metavar="IMAGE")
    tokens.add_argument("--size", help="WIDTHxHEIGHT in pixels, instead of an image")
    tokens.add_argument(
        "--family", default="qwen2.5-vl", help="qwen2.5-vl, qwen3-vl, openai, claude or gemini (default: %(default)s)"
    )
    tokens.add_argument("--ladder", default="0.25,1", help="shares of the pixels (default: %(default)s)")

    _limit_option(tokens)

    demo = command("demo", _demo, "Train the tiny model to look closer only when needed, and report on it.", as_json=True)
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (default: %(default)s)")

    train = command("train", _train, "Run a training recipe.")
    train.add_argument("recipe", metavar="RECIPE", help="tiny, smart_7b, general_7b, smart_7b_lora, smart_3b_lora, ...")
    train.add_argument("--out", type=Path, required=True, help="folder for checkpoints, metrics.jsonl and the final model")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the output folder")
    train.add_argument("--dry-run", action="store_true", help="check the settings, take one optimiser step, save nothing")
    settings = train.add_argument_group("settings", "override the recipe; see visionthink.train.config.TrainConfig")
    for name, kind in _train_settings().items():
        settings.add_argument(f"--{name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS, metavar=kind.__name__.upper())

    again = command("reproduce", _reproduce, "Run the paper's claims about training in miniature and judge them.", as_json=True)
    again.add_argument("--claims", help="some of them, separated by commas (default: all)")
    again.add_argument("--seeds", type=int, default=3, help="runs of each variant (default: %(default)s)")
    again.add_argument("--out", type=Path, default=Path("runs/reproduction"), help="folder; an interrupted run goes on there")

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
    evaluate.add_argument("--batch-size", type=int, default=16, help="episodes per forward pass (default: %(default)s)")
    evaluate.add_argument("--out", type=Path, required=True, help="folder for transcripts.jsonl and summary.json")

    report = command("report", _report, "One HTML page for evaluation and training folders.")
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    report.add_argument("--out", type=Path, required=True, metavar="FILE.html")
    return parser


def _limit_option(parser: argparse.ArgumentParser) -> None:
    text = "refuse larger images (default: %(default)g)"
    parser.add_argument("--max-megapixels", type=float, default=MAX_IMAGE_PIXELS / 1e6, help=text)


def _pixel_limit(options: argparse.Namespace) -> int:
    if not 0 < options.max_megapixels < 1e6:
        raise OptionError(f"--max-megapixels {options.max_megapixels:g}: must be a number above 0")
    return int(options.max_megapixels * 1e6)


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


def _wide(*, stderr: bool = False) -> Console:
    """A console that does not cut tables where the output is a file or a log."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=140)


def _write_json(result: Any) -> None:
    sys.stdout.write(json.dumps(result) + "\n")


def _ask(options: argparse.Namespace) -> None:
    limit = _pixel_limit(options)
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
    width, height = (
        parse_size(options.size) if options.size else open_image(options.image, max_pixels=_pixel_limit(options)).image.size
    )
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

    result = demo(options.out, _wide(stderr=options.json))
    if options.json:
        _write_json(result)


def _train_settings() -> dict[str, Callable[[str], Any]]:
    """Name and type of every setting of a run that has an option."""
    from visionthink.train.config import TrainConfig

    kinds = typing.get_type_hints(TrainConfig)
    names = [f.name for f in dataclasses.fields(TrainConfig) if f.name not in ("out", "resume")]
    return {name: _on_off if kinds[name] is bool else kinds[name] if kinds[name] in (int, float) else str for name in names}


def _on_off(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError
    return text.lower() == "true"


_on_off.__name__ = "true|false"


def _train(options: argparse.Namespace) -> None:
    from visionthink.recipes import recipe

    chosen = recipe(options.recipe)
    given = {name: getattr(options, name) for name in _train_settings() if hasattr(options, name)}
    config = chosen.config.replace(**given, out=options.out, resume=options.resume)
    from visionthink.train.run import train

    if options.dry_run and chosen.stand_in:
        small = config.rehearsed(config.out)
        checkpoint, examples = chosen.stand_in(small)
        train(config, examples, dry_run=True, checkpoint=checkpoint)
    else:
        train(config, chosen.examples(config), dry_run=options.dry_run)
    where = "dry run: one step taken, nothing saved" if options.dry_run else f"saved to {config.out / 'final'}"
    Console(stderr=True, soft_wrap=True).print(where)


def _reproduce(options: argparse.Namespace) -> None:
    from visionthink.recipes.claims import CLAIMS
    from visionthink.recipes.reproduce import reproduce

    names = [name.strip() for name in options.claims.split(",")] if options.claims else list(CLAIMS)
    record = reproduce(names, options.seeds, options.out, _wide(stderr=options.json))
    if options.json:
        _write_json(record)


def _eval(options: argparse.Namespace) -> None:
    from visionthink.evals.runner import evaluate
    from visionthink.recipes import suite

    if options.batch_size < 1:
        raise OptionError(f"--batch-size {options.batch_size}: must be at least 1")
    examples = suite(options.suite, options.limit)
    model = _load(options, batch_size=options.batch_size)
    names = {"suite": options.suite, "model_name": options.model}
    summary = evaluate(examples, model, options.policy, options.out, **names, batch_size=options.batch_size)
    if options.json:
        _write_json(summary)
        return
    from visionthink.recipes.demo import summary_table

    _wide().print(summary_table([summary]))


def _report(options: argparse.Namespace) -> None:
    from visionthink.evals.report import report

    report(options.folders, options.out)
    Console(stderr=True, soft_wrap=True).print(f"wrote {options.out}")


if __name__ == "__main__":
    sys.exit(main())
