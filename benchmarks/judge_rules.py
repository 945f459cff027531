"""The rules judge on the pairs labelled by hand (tests/data/answer_pairs), by file and by rule.

Run: python benchmarks/judge_rules.py [FILE.jsonl ...] [--json] [--mistakes]. A file has rows with question, reference, prediction
and label (correct, wrong, or either where nobody can know: a sure verdict is then a mistake). Without files, all of ours. The
bound of what may be decided is the share of pairs whose label is not either; the peer is math-verify on the raw texts.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from visionthink.rewards.judge import Answer
from visionthink.rewards.rules.judge import RulesJudge

PAIRS = Path(__file__).parents[1] / "tests" / "data" / "answer_pairs"


def verdicts(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(verdict, reason) of the rules judge."""
    answers = [Answer(row["question"], row["prediction"], (row["reference"],)) for row in rows]
    return [(v.verdict, v.reason) for v in RulesJudge().compare(answers)]


def peer_verdicts(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The same of math-verify, which knows correct and wrong alone; unscored where it reads nothing."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    found = []
    for row in rows:
        wanted, said = (parse(row[name], parsing_timeout=None) for name in ("reference", "prediction"))
        equal = bool(wanted and said) and verify(wanted, said, timeout_seconds=None)
        found.append(("unscored" if not (wanted and said) else "correct" if equal else "wrong", "math-verify"))
    return found


def measure(rows: list[dict[str, Any]], found: list[tuple[str, str]]) -> dict[str, float]:
    sure = [(row, verdict) for row, (verdict, _) in zip(rows, found, strict=True) if verdict != "unscored"]
    wrong = sum(row["label"] != verdict for row, verdict in sure)
    return {
        "pairs": len(rows),
        "decided": len(sure) / len(rows),
        "mistakes": wrong,
        "precision": 1 - wrong / len(sure) if sure else 1.0,
    }


def by_rule(rows: list[dict[str, Any]], found: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
    decided, wrong = Counter[str](), Counter[str]()
    for row, (verdict, reason) in zip(rows, found, strict=True):
        if verdict != "unscored":
            decided[reason] += 1
            wrong[reason] += row["label"] != verdict
    return {
        rule: {"decided": n, "share": n / len(rows), "mistakes": wrong[rule], "precision": 1 - wrong[rule] / n}
        for rule, n in decided.most_common()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="labelled pairs (default: all of tests/data/answer_pairs)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="without the peer")
    parser.add_argument("--mistakes", action="store_true", help="print the pairs that are decided and should not be, or not so")
    options = parser.parse_args()
    files = options.files or sorted(PAIRS.glob("*.jsonl"))
    sets = {file.stem: [json.loads(line) for line in file.read_text("utf-8").splitlines() if line] for file in files}
    started = time.process_time()
    found = {name: verdicts(rows) for name, rows in sets.items()}
    seconds = time.process_time() - started
    every, all_found = [r for rows in sets.values() for r in rows], [f for fs in found.values() for f in fs]
    ours = {name: measure(rows, found[name]) for name, rows in sets.items()}
    rules = by_rule(every, all_found)
    peer = {} if options.quick else measure(every, peer_verdicts(every))
    knowable = sum(row["label"] != "either" for row in every) / len(every)
    if options.json:
        whole = measure(every, all_found)
        report = {
            "ratio": {"precision over math-verify's": whole["precision"] / peer["precision"]} if peer else {},
            "ours": {"all": whole, "milliseconds a pair": 1e3 * seconds / len(every), "by set": ours, "by rule": rules},
            "peer": peer,
            "bound": {"decided": knowable, "precision": 1.0},
        }
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return
    console = Console(width=110)
    for title, table in (("set", ours | ({"math-verify, all sets": peer} if peer else {})), ("rule, all sets", rules)):
        shown = Table(title, *(name for name in next(iter(table.values()))))
        for name, row in table.items():
            shown.add_row(name, *(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(shown)
    console.print(f"{1e3 * seconds / len(every):.1f} ms CPU a pair; {knowable:.1%} of the pairs can be decided at all")
    for row, (verdict, reason) in zip(every, all_found, strict=True) if options.mistakes else ():
        if verdict not in ("unscored", row["label"]):
            console.print(f"{verdict} by {reason}, is {row['label']}: {row}", markup=False)


if __name__ == "__main__":
    main()
