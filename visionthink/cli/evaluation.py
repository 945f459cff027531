"""`visionthink eval` and `visionthink report`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from visionthink.cli.common import JUDGE_HELP, AddCommand, folder, load, model_options, wide, write_json
from visionthink.errors import OptionError
from visionthink.types import Examples


def add(command: AddCommand) -> None:
    evaluate = command("eval", _eval, "Evaluate a model on a suite under a policy.", as_json=True)
    evaluate.add_argument("suite", metavar="SUITE", help="mini, or a table of examples: a file, a folder or a hub id")
    model_options(evaluate)
    evaluate.add_argument(
        "--policy",
        default="adaptive",
        help="adaptive, full, low, random:P, oracle, forced:direct or forced:request (default: %(default)s)",
    )
    usual = "exact for mini, rules for other data"
    evaluate.add_argument("--judge", help=JUDGE_HELP.replace("%(default)s", usual))
    evaluate.add_argument("--split", default="test", help="of a hub id or saved splits (default: %(default)s)")
    evaluate.add_argument("--columns", default="", help="names of the columns, as question=q,image=picture,answer=label")
    evaluate.add_argument("--image-root", default="", help="folder that the images lie in; default: the table's")
    evaluate.add_argument("--limit", type=int, help="only the first N examples")
    evaluate.add_argument("--max-new-tokens", type=int, default=1024, help="per turn (default: %(default)s)")
    evaluate.add_argument("--batch-size", type=int, default=16, help="episodes per forward pass (default: %(default)s)")
    evaluate.add_argument("--out", type=folder, required=True, help="folder for transcripts.jsonl and summary.json")

    score = command("score", _score, "Judge saved answers: our transcripts, lmms-eval's samples, or plain rows.", as_json=True)
    score.add_argument("file", type=Path, metavar="FILE.jsonl", help="plain rows hold question, ground_truth, prediction")
    score.add_argument("--judge", default="rules", help=JUDGE_HELP)
    score.add_argument("--against", help="another judge to compare with; verdicts in the file are compared with anyway")
    score.add_argument("--out", type=folder, help="file for the verdicts; one that was begun is continued")

    report = command("report", _report, "One HTML page for evaluation and training folders.")
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    report.add_argument("--out", type=folder, required=True, metavar="FILE.html")


def _eval(options: argparse.Namespace) -> None:
    from visionthink.evals.runner import evaluate
    from visionthink.rewards.spec import read_judge

    if options.batch_size < 1:
        raise OptionError(f"--batch-size {options.batch_size}: must be at least 1")
    examples = _examples(options)
    model = load(options, batch_size=options.batch_size)
    judge = read_judge(options.judge or ("exact" if options.suite == "mini" else "rules"))
    names = {"suite": options.suite, "model_name": options.model, "judge": judge}
    summary = evaluate(examples, model, options.policy, options.out, **names, batch_size=options.batch_size)
    if options.json:
        write_json(summary)
        return
    from visionthink.recipes.demo import summary_table

    wide().print(summary_table([summary]))


def _examples(options: argparse.Namespace) -> Examples:
    from visionthink.data.examples import read_examples
    from visionthink.recipes import suite

    if "/" not in options.suite and not Path(options.suite).exists() and not Path(options.suite).suffix:
        return suite(options.suite, options.limit)
    table = read_examples(options.suite, options.split, columns=options.columns, image_root=options.image_root)
    if options.limit is not None and options.limit < 1:
        raise OptionError(f"--limit {options.limit}: must be at least 1")
    return table.first(options.limit) if options.limit else table


def _score(options: argparse.Namespace) -> None:
    from visionthink.evals.answers import SavedAnswer, read_answers
    from visionthink.evals.scoring import score, verdicts
    from visionthink.rewards.judge import Verdict
    from visionthink.rewards.spec import read_judge

    answers = list(read_answers(options.file))
    if options.against:
        other = read_judge(options.against)
        answers = [dataclasses.replace(a, recorded=v.verdict) for a, v in zip(answers, verdicts(other, answers), strict=True)]
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("judging", total=len(answers))

        def tell(_: SavedAnswer, verdict: Verdict) -> None:
            progress.advance(task)
            if options.json:
                write_json(vars(verdict))

        summary = score(answers, read_judge(options.judge), options.out, tell=tell)
    _print_score(summary, wide(stderr=options.json))


def _print_score(summary: dict[str, Any], console: Console) -> None:
    accuracy = "–" if summary["accuracy"] is None else f"{100 * summary['accuracy']:.1f} %"
    console.print(
        f"{summary['n']} answers by {summary['judge']}: {summary['correct']} correct, {summary['wrong']} wrong, "
        f"{summary['unscored']} unscored; accuracy of those scored {accuracy}",
        markup=False,
    )
    for reason, count in summary["unscored_reasons"].items():
        console.print(f"  {count} unscored: {reason}", markup=False)
    if confusion := summary["confusion"]:
        table = Table("the other judge", *confusion["counts"], box=box.SIMPLE_HEAD)
        for kind, row in confusion["counts"].items():
            table.add_row(kind, *map(str, row.values()))
        console.print(table)
        if confusion["agreement"] is not None:
            kappa = "–" if confusion["kappa"] is None else f"{confusion['kappa']:.3f}"
            both = f"agreement {100 * confusion['agreement']:.1f} % of {confusion['both_decided']} that both decided"
            console.print(f"{both}; kappa {kappa}")
    for name, value in summary["usage"].items():
        console.print(f"  {name} {value:g}", markup=False)


def _report(options: argparse.Namespace) -> None:
    from visionthink.evals.report import report

    report(options.folders, options.out)
    Console(stderr=True, soft_wrap=True).print(f"wrote {options.out}", markup=False)
