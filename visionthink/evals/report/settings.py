"""How the runs of a suite were made: when, by which version, judged by whom, with which settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from visionthink.evals.report.runs import Run

_WORDS = {
    "date": "evaluated on",
    "version": "visionthink version",
    "judge": "judge",
    "ladder": "ladder: shares of the pixels, lowest first",
    "regions": "menu: parts of an image",
    "edits": "menu: operations",
    "method": "what the trained method was fitted to (a digest)",
    "batch": "episodes per batch",
}
"""Names of settings that are not those of the command line."""
NOT_RECORDED = "not recorded"


def settings(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Names and values; where runs differ, each value with the runs that have it."""
    records = [_of(run) for run in runs]
    found = []
    for key in dict.fromkeys(name for record in records for name in record):
        having: dict[str, list[str]] = {}
        for run, record in zip(runs, records, strict=True):
            having.setdefault(record.get(key, "none"), []).append(run.name)
        values = [value if len(having) == 1 else f"{value} ({', '.join(members)})" for value, members in having.items()]
        found.append((_WORDS.get(key, key.replace("_", " ")), "; ".join(values)))
    return found


def _of(run: Run) -> dict[str, str]:
    s = run.summary
    made = {name: s.get(name) or NOT_RECORDED for name in ("date", "version", "judge")}
    return {name: _text(value) for name, value in {**made, **(s.get("settings") or {"ladder": NOT_RECORDED})}.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
