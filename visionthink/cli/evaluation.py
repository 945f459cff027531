"""`visionthink eval` and `visionthink report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from visionthink.cli.common import AddCommand, folder, load, model_options, wide, write_json
from visionthink.errors import OptionError


def add(command: AddCommand) -> None:
    evaluate = command("eval", _eval, "Evaluate a model on a suite under a policy.", as_json=True)
    evaluate.add_argument("suite", metavar="SUITE", help="mini")
    model_options(evaluate)
    evaluate.add_argument(
        "--policy",
        default="adaptive",
        help="adaptive, full, low, random:P, oracle, forced:direct or forced:request (default: %(default)s)",
    )
    evaluate.add_argument("--limit", type=int, help="only the first N examples")
    evaluate.add_argument("--max-new-tokens", type=int, default=1024, help="per turn (default: %(default)s)")
    evaluate.add_argument("--batch-size", type=int, default=16, help="episodes per forward pass (default: %(default)s)")
    evaluate.add_argument("--out", type=folder, required=True, help="folder for transcripts.jsonl and summary.json")

    report = command("report", _report, "One HTML page for evaluation and training folders.")
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    report.add_argument("--out", type=folder, required=True, metavar="FILE.html")


def _eval(options: argparse.Namespace) -> None:
    from visionthink.evals.runner import evaluate
    from visionthink.recipes import suite

    if options.batch_size < 1:
        raise OptionError(f"--batch-size {options.batch_size}: must be at least 1")
    examples = suite(options.suite, options.limit)
    model = load(options, batch_size=options.batch_size)
    names = {"suite": options.suite, "model_name": options.model}
    summary = evaluate(examples, model, options.policy, options.out, **names, batch_size=options.batch_size)
    if options.json:
        write_json(summary)
        return
    from visionthink.recipes.demo import summary_table

    wide().print(summary_table([summary]))


def _report(options: argparse.Namespace) -> None:
    from visionthink.evals.report import report

    report(options.folders, options.out)
    Console(stderr=True, soft_wrap=True).print(f"wrote {options.out}", markup=False)
