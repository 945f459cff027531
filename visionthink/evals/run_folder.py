"""The folder of a finished evaluation: transcripts.jsonl, failed.jsonl, summary.json, views/. What is written, and read again.

The figures of a summary follow from the transcripts: they are worked out again when a folder is read, and one that says
otherwise is refused. Only what transcripts cannot say is taken from summary.json.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from visionthink import records
from visionthink.durable import replace_json, replace_text
from visionthink.errors import DataError, OptionError
from visionthink.evals.flops import Architecture
from visionthink.evals.metrics import Scored
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.summary import summarise
from visionthink.types import Shown


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What was measured when a method was trained, on questions of the training's own: accuracies of the method, of its control
    (a module of the same size, trained alike, that lacks what the method is about), of the untrained method, and of all visual
    tokens."""

    family: str
    keep: float
    questions: str
    """What they are."""
    tested: int
    trained: float
    control: float
    untrained: float
    full: float


@dataclass(frozen=True, kw_only=True)
class _StoredSummary:
    """What summary.json says that the transcripts do not, and the figures that both do."""

    model: str
    policy: str
    suite: str | None = None
    benchmark: str | None = None
    judge: str | None = None
    judge_usage: Mapping[str, float] = field(default_factory=dict)
    failed: int = 0
    failed_reasons: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    architecture: Mapping[str, Any] | None = None
    date: str | None = None
    version: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    fit: Fit | None = None
    n: int | None = None
    unscored: int | None = None
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class SavedRun:
    """What an evaluation folder holds."""

    summary: dict[str, Any]
    scored: list[Scored]
    policy: PolicySpec
    architecture: Architecture | None


def write_run(out: Path, summary: Mapping[str, Any], scored: Iterable[Scored], failed: Mapping[str, str]) -> None:
    """Transcripts, reasons of what failed by id, and last the summary."""
    replace_text(out / "transcripts.jsonl", "".join(json.dumps(s.to_dict()) + "\n" for s in scored))
    replace_text(out / "failed.jsonl", "".join(json.dumps({"example_id": i, "reason": r}) + "\n" for i, r in failed.items()))
    replace_json(out / "summary.json", summary)


def read_run(folder: Path) -> SavedRun:
    """An evaluation folder.

    Raises:
        DataError: a file is missing, or says what cannot be used as a whole; the message names file, line and field.
    """
    file = folder / "summary.json"
    record, said = _summary(file)
    transcripts = folder / "transcripts.jsonl"
    if not transcripts.is_file():
        raise DataError(f"{folder}: no transcripts.jsonl")
    scored = _transcripts(transcripts)
    try:
        policy = PolicySpec.parse(said.policy)
        architecture = None if said.architecture is None else Architecture.from_dict(said.architecture)
    except (OptionError, ValueError) as error:
        raise DataError(f"{file}: {error}") from None
    summary = summarise(scored, suite=said.suite or "", model=said.model, policy=said.policy, architecture=architecture)
    again = "evaluate again into this folder, which asks nothing twice"
    for name in ("n", "unscored", "accuracy"):
        was, now = getattr(said, name), summary[name]
        if name in record and was != now and not (was and now and math.isclose(was, now)):
            raise DataError(f"{file}: says {name} {was}, and {transcripts.name} gives {now}; {again}")
    kept = ("benchmark", "judge", "judge_usage", "failed", "failed_reasons", "metrics", "date", "version", "settings")
    summary |= {name: getattr(said, name) for name in kept if name in record}
    if "fit" in record:
        summary["fit"] = said.fit and asdict(said.fit)
    return SavedRun(summary=summary, scored=scored, policy=policy, architecture=architecture)


def _summary(file: Path) -> tuple[dict[str, Any], _StoredSummary]:
    try:
        record = json.loads(file.read_bytes(), parse_constant=_no_number)
    except FileNotFoundError:
        there = "not an evaluation folder" if file.parent.exists() else "there is no such folder"
        raise DataError(f"{file.parent}: no summary.json; {there}; visionthink eval writes one") from None
    except (ValueError, RecursionError):
        raise DataError(f"{file}: not valid JSON") from None
    if not isinstance(record, dict) or not {"model", "policy", "accuracy"} <= set(record):
        raise DataError(f"{file}: not the summary of an evaluation")
    try:
        said: _StoredSummary = records.read(
            _StoredSummary, {name: value for name, value in record.items() if name in _StoredSummary.__annotations__}
        )
        for name, value in said.metrics.items():
            if not (value is None or isinstance(value, (str, int)) or (type(value) is float and math.isfinite(value))):
                raise ValueError(f"metrics.{name}: {value!r:.60} is neither a number nor text")
    except ValueError as error:
        raise DataError(f"{file}: {error}") from None
    return record, said


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _transcripts(file: Path) -> list[Scored]:
    scored: dict[str, Scored] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            one = Scored.from_dict(records.parse(line))
        except ValueError as error:
            raise DataError(f"{file}, line {number}: not a transcript: {error}") from None
        if one.transcript.example_id in scored:
            raise DataError(f"{file}, line {number}: example {one.transcript.example_id} stands there already")
        scored[one.transcript.example_id] = one
    if not scored:
        raise DataError(f"{file}: is empty")
    return list(scored.values())


def view_file(folder: Path, example_id: str, image: int, view: Shown | None = None) -> Path:
    """Where the picture of a view is kept; of the full view of an image where there is none."""
    which = "full"
    if view is not None:
        edit = f"@{_quoted(view.edit, 50)}" if view.edit else ""
        which = f"{'-'.join(map(str, view.box))}@{view.level:g}{edit}"
    return folder / "views" / f"{_quoted(example_id, 150)}.{image}.{which}.png"


def _quoted(text: str, most: int) -> str:
    """The text as a part of a file name, which has 255 bytes at most."""
    name = quote(text, safe="", errors="surrogatepass")
    return name if len(name) <= most else name[: most - 50] + hashlib.sha256(name.encode()).hexdigest()[:16]
