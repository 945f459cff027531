"""`visionthink eval`, `visionthink score` and `visionthink report`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visionthink.cli.common import (
    JUDGE_HELP,
    AddCommand,
    folder,
    given,
    model_groups,
    model_option,
    path,
    pool,
    suggest,
    wide,
    write_json,
)
from visionthink.errors import OptionError
from visionthink.evals.policy_spec import ROUTINGS
from visionthink.progress import stage
from visionthink.recipes import SUITES
from visionthink.rewards.judge import JUDGES


def add(command: AddCommand) -> None:
    text = "Evaluate models on a suite of questions: their accuracy, and the visual tokens that they read."
    evaluate = command("eval", _eval, text, needs="eval", as_json=True)
    suite_argument(evaluate, nargs="?")
    model_option(evaluate, several=True)
    text = (
        "who decides which views are shown; separate several by commas (default: %(default)s). adaptive: the model; low, full: "
    )
    text += "always one view; random: chance, with as many visual tokens as adaptive; oracle: the known need of each question; "
    text += "gate:FILE: how certain the model is; fastv:0.5: always the full view, with half of its visual tokens. "
    text += "docs/reference/evaluation.md lists all"
    suggest(evaluate.add_argument("--policy", default="adaptive", metavar="NAMES", help=text), ROUTINGS)
    text = "folder for the results; an interrupted run continues there, and a changed table needs a new folder. Several models "
    text += "or policies each get a folder in it, and a report"
    evaluate.add_argument("--out", type=folder, required=True, metavar="DIR", help=text)
    suite_options(evaluate)
    answer_options(model_groups(evaluate, several=True).running)
    compared = evaluate.add_argument_group("other results to compare with")
    for line, level in (("low", "0.25"), ("full", "1")):
        text = (
            f"model that was trained to answer from the {line} view alone (visionthink train --ladder {level}); it is evaluated "
        )
        compared.add_argument(f"--trained-{line}", metavar="MODEL", help=text + f"under the policy trained-{line}")
    text = "read the results that lmms-eval has logged in this folder, instead of asking a model (docs/how-to/lmms-eval.md)"
    compared.add_argument("--from-lmms", type=Path, metavar="LOGS", help=text)

    rows = "print one JSON object for each answer, in order, with verdict, by and reason; the summary is in DIR/summary.json"
    text = "Judge answers that are saved in a file: transcripts of visionthink eval, samples of lmms-eval, or plain rows."
    score = command("score", _score, text, needs="judge", as_json=rows)
    text = "file of answers, with a JSON object in each line; plain rows hold question, ground_truth and prediction"
    score.add_argument("file", type=Path, metavar="FILE.jsonl", help=text)
    suggest(score.add_argument("--judge", default="rules", help=JUDGE_HELP), JUDGES)
    text = "second judge, with which the first is compared (default: the verdicts in the file, if it holds any)"
    score.add_argument("--against", metavar="JUDGE", help=text)
    text = "folder for verdicts.jsonl and summary.json; an interrupted run continues there"
    score.add_argument("--out", type=path, metavar="DIR", help=text)

    text = "Write an HTML page and a CSV file about evaluations and training runs."
    report = command("report", _report, text, needs="eval", as_json=True)
    text = "folder that visionthink eval or train has written, or a folder of such folders"
    report.add_argument("folders", nargs="+", type=Path, metavar="DIR", help=text)
    text = "the page to write; a .csv file beside it gets all numbers"
    report.add_argument("--out", type=path, required=True, metavar="FILE.html", help=text)


def suite_argument(parser: argparse.ArgumentParser, **more: Any) -> None:
    text = "mini or another generated suite (docs/how-to/data.md), or a table of examples: a file, a folder or a hub id"
    suggest(parser.add_argument("suite", metavar="SUITE", help=text, **more), SUITES)


def suite_options(parser: argparse.ArgumentParser) -> None:
    """What is asked of a suite, and how it is judged."""
    usual = "exact for generated suites and benchmarks without a judge of their own, rules for other data"
    suggest(parser.add_argument("--judge", type=given, help=JUDGE_HELP.replace("%(default)s", usual)), JUDGES)
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N examples")
    table = parser.add_argument_group("how a table is read")
    text = "names of the table's columns where they differ from question, image and answer, for example question=q,image=picture"
    table.add_argument("--columns", default="", metavar="NAME=COLUMN,...", help=text)
    text = "folder that image paths are relative to (default: the table's folder)"
    table.add_argument("--image-root", default="", metavar="DIR", help=text)
    text = "split of a hub id or of a folder with splits (default: the benchmark's own, else test)"
    table.add_argument("--split", metavar="NAME", help=text)
    text = "name of the benchmark that SUITE is a local copy of; its prompts and metric are used (docs/reference/benchmarks.md)"
    table.add_argument("--benchmark", metavar="NAME", help=text)


def answer_options(running: argparse._ArgumentGroup) -> None:
    """How the questions of a suite are answered."""
    text = "largest number of tokens in a reply (default: %(default)s)"
    running.add_argument("--max-new-tokens", type=int, default=1024, metavar="N", help=text)
    text = "examples that are answered at once (default: as many as fit into memory)"
    running.add_argument("--batch-size", type=int, metavar="N", help=text)


def _eval(options: argparse.Namespace) -> None:
    from visionthink.evals.policy_spec import TRAINED_FULL, TRAINED_LOW, PolicySpec
    from visionthink.evals.routing import check_judge
    from visionthink.recipes.evaluate import EvalConfig
    from visionthink.recipes.frontier import check_names, check_one, evaluate_all, evaluate_one, with_method
    from visionthink.rewards.spec import read_judge

    if (options.suite is None) == (options.from_lmms is None):
        raise OptionError("eval: takes a SUITE, or --from-lmms LOGS")
    if options.from_lmms is not None:
        _from_lmms(options)
        return
    models = _names(options.model, "model")
    policies = [PolicySpec.parse(name) for name in _names(options.policy, "policy")]
    check_names(models, policies)
    spread = {"engine": options.engine.model, "pool": pool(options, models)}
    names = [field.name for field in dataclasses.fields(EvalConfig) if field.name not in spread]
    config = EvalConfig(**{name: getattr(options, name) for name in names}, **spread)
    judge = read_judge(config.judged_by)
    for policy in policies:
        check_judge(policy, judge)
    examples = config.examples()
    metric = config.task.metric if config.task else None
    common: dict[str, Any] = {"suite": config.suite, "judge": judge, "settings": config.settings}
    lines = {line: getattr(options, str(line).replace("-", "_")) for line in (TRAINED_LOW, TRAINED_FULL)}
    trained = {line: name for line, name in lines.items() if name}
    if len(models) == len(policies) == 1 and not trained:
        one, policy = config.open_model(models[0]), policies[0]
        common["model_name"] = models[0]
        check_one(policy, with_method(policy, one), examples, options.out, **common)
        common |= {"metric": metric, "results": config.results(models[0], policy)}
        summaries = [evaluate_one(policy, one, examples, options.out, **common)]
    else:
        common |= {"metric": metric, "open_model": config.open_model, "results": config.results, "trained": trained}
        summaries = evaluate_all(examples, models, policies, options.out, **common)
    _print_evaluations(summaries, options)


def _print_evaluations(summaries: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Results for people or for programs, and what does not count in them.

    Raises:
        OptionError: in one of them the model answered nothing at all; the others, where there are some, are printed.
    """
    from visionthink.evals.summary import nothing_answered

    unanswered = [s for s in summaries if nothing_answered(s)]
    if len(unanswered) < len(summaries):
        _print_results(summaries, options)
    if unanswered:
        s, again = unanswered[0], "" if options.from_lmms else "; the same command asks them again"
        none = f"answered none of the {s['n']} examples under {s['policy']}"
        raise OptionError(f"--model {s['model']}: {none}, {_main_reason(s, options.out)}{again}")


def _print_results(summaries: list[dict[str, Any]], options: argparse.Namespace) -> None:
    from visionthink.evals.table import summary_table
    from visionthink.evals.words import all_problems, overview

    if options.json:
        write_json(summaries[0] if len(summaries) == 1 else {"runs": summaries})
    else:
        wide().print(summary_table(summaries))
    console = wide(stderr=options.json)
    for line in all_problems(summaries):
        console.print(line, markup=False, soft_wrap=True, highlight=False)
    for s in summaries:
        for metric, value in ({} if options.json else s.get("metrics", {})).items():
            shown = value if value is None or isinstance(value, (int, str)) else f"{value:.4g}"
            console.print(f"  {metric} {'–' if shown is None else shown}", markup=False)
    if not options.json:
        console.print(f"\n{overview(summaries)}\n", markup=False, highlight=False)
        one = f"results in {options.out}; for a page of them: visionthink report {options.out} --out {options.out}.html"
        text = f"open {options.out / 'report.html'}" if len(summaries) > 1 else one
        console.print(text, markup=False, soft_wrap=True, highlight=False)


def _main_reason(summary: Mapping[str, Any], out: Path) -> str:
    """The most frequent reason, and where the others are."""
    reason, count = next(iter(summary["unscored_reasons"].items()))
    file = out / summary.get("folder", "") / "transcripts.jsonl"
    return f"{count} because of: {' '.join(reason.split())} (all of them: {file})"


def _from_lmms(options: argparse.Namespace) -> None:
    from visionthink.evals.lmms_logs import evaluate_logs
    from visionthink.rewards.spec import read_judge

    summary = evaluate_logs(options.from_lmms, options.out, judge=read_judge(options.judge) if options.judge else None)
    _print_evaluations([summary], options)


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise OptionError(f"--{option} {text!r}: a name is empty")
    return names


def _score(options: argparse.Namespace) -> None:
    from visionthink.evals.answers import SavedAnswer, check_any_usable, read_answers
    from visionthink.evals.scoring import check_out, score, verdicts
    from visionthink.rewards.judge import Verdict
    from visionthink.rewards.spec import read_judge

    judge, other = read_judge(options.judge), read_judge(options.against) if options.against else None
    answers = list(read_answers(options.file))
    check_any_usable(options.file, answers)
    if options.out is not None:
        check_out(options.out, judge)
    if other:
        with stage(f"judging by {options.against}", len(answers)) as advance:
            found = verdicts(other, answers)
            advance(len(found))
        answers = [dataclasses.replace(a, recorded=v.verdict) for a, v in zip(answers, found, strict=True)]
    with stage(f"judging by {options.judge}", len(answers)) as advance:

        def tell(_: SavedAnswer, verdict: Verdict) -> None:
            advance(1)
            if options.json:
                write_json(vars(verdict))

        summary = score(answers, judge, options.out, tell=tell)
    _print_score(summary, options.against or "the verdicts in the file", wide(stderr=options.json))


def _print_score(summary: dict[str, Any], other: str, console: Console) -> None:
    accuracy = "–" if summary["accuracy"] is None else f"{100 * summary['accuracy']:.1f} %"
    console.print(
        f"{summary['n']} answers by {summary['judge']}: {summary['correct']} correct, {summary['wrong']} wrong, "
        f"{summary['unscored']} unscored; accuracy of those scored {accuracy}",
        markup=False,
    )
    for reason, count in summary["unscored_reasons"].items():
        console.print(f"  {count} unscored: {reason}", markup=False)
    if confusion := summary["confusion"]:
        table = Table(escape(f"{other} (rows), {summary['judge']} (columns)"), *confusion["counts"], box=box.SIMPLE_HEAD)
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
    from visionthink.evals.report.page import report

    runs = report(options.folders, options.out)
    Console(stderr=True, soft_wrap=True).print(f"wrote {options.out}", markup=False)
    if options.json:
        write_json({"runs": [run.to_dict() for run in runs]})
