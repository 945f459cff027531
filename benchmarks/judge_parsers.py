"""Replies of a judge, labelled by hand, read by our parser, by the released code's and by lmms-eval's.

Run: python benchmarks/judge_parsers.py [--json]. lmms-eval is measured where it is installed (pip install --no-deps
lmms-eval==0.7.3 loguru); its parsers are then its own, imported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visionthink.rewards.llm.reply import legacy_contains_1, parse_score

REPLIES = Path(__file__).parents[1] / "tests" / "data" / "judge_replies.jsonl"
PEERS = {
    "released: '1' in reply": (None, None),
    "lmms-eval llm_judge": ("lmms_eval.llm_judge.utils", "ResponseParser.parse_binary_response"),
    "lmms-eval verifiers": ("lmms_eval.verifiers.base", "parse_binary_response"),
}


def peer(module: str | None, name: str | None) -> Callable[[str], Any] | None:
    if module is None or name is None:
        return legacy_contains_1
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found
    except Exception as error:  # whatever its imports need
        sys.stderr.write(f"{module}: not measured ({type(error).__name__}: {error})\n")
        return None


def measure(read: Callable[[str], Any], rows: list[dict[str, Any]]) -> dict[str, int]:
    """Misread: a verdict that the reply does not give. Unread: none, where it gives one."""
    found = [(row["means"], read(row["reply"])) for row in rows]
    return {
        "replies": len(rows),
        "misread": sum(got is not None and (means is None or bool(got) != bool(means)) for means, got in found),
        "read as correct, but are not": sum(bool(got) and means != 1 for means, got in found),
        "unread": sum(got is None and means is not None for means, got in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="the same: it takes no time")
    options = parser.parse_args()
    rows = [json.loads(line) for line in REPLIES.read_text("utf-8").splitlines()]
    peers = {name: read for name, where in PEERS.items() if (read := peer(*where))}
    ours, theirs = measure(parse_score, rows), {name: measure(read, rows) for name, read in peers.items()}
    if options.json:
        right = {name: (len(rows) - t["misread"]) / (len(rows) - ours["misread"]) for name, t in theirs.items()}
        sys.stdout.write(json.dumps({"ratio": right, "ours": ours, "peer": theirs, "bound": {"misread": 0}}) + "\n")
        return
    for name, result in {"visionthink": ours, **theirs}.items():
        sys.stdout.write(f"{name:24} " + ", ".join(f"{key}: {value}" for key, value in result.items()) + "\n")


if __name__ == "__main__":
    main()
