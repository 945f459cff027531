"""Evaluation folders as they were read, each beside the always-low and always-full run of its model and suite."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionthink.evals import break_even
from visionthink.evals.comparison import Lines, beside_trained, branches, compare
from visionthink.evals.flops import Architecture
from visionthink.evals.metrics import Scored
from visionthink.evals.policy_spec import ADAPTIVE, FULL, LOW, TRAINED_FULL, TRAINED_LOW, PolicySpec
from visionthink.evals.run_folder import read_run


@dataclass(frozen=True, kw_only=True)
class Run:
    """An evaluation folder that was read. `comparison`, `branches` and `break_even` are there where the runs they need are, and
    `trained` where the model decides."""

    folder: Path
    summary: dict[str, Any]
    policy: PolicySpec
    scored: list[Scored]
    comparison: dict[str, Any] | None = None
    branches: dict[str, Any] | None = None
    trained: dict[str, Any] | None = None
    break_even: dict[str, Any] | None = None
    """Of the model's adaptive run with this one."""
    architecture: Architecture | None = None

    @property
    def name(self) -> str:
        return f"{self.summary['model']} · {self.summary['policy']}"

    @property
    def suite(self) -> str:
        """What was asked; runs of the same are compared."""
        return str(self.summary.get("benchmark") or self.summary["suite"] or "a suite without a name")

    def to_dict(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in ("comparison", "trained", "branches", "break_even")}
        return {"folder": self.folder.name, **self.summary, **found}


def read(folder: Path) -> Run:
    """An evaluation folder; `DataError` where it is none, or damaged."""
    return Run(folder=folder, **vars(read_run(folder)))


def compared(runs: Sequence[Run]) -> list[Run]:
    """The same runs with what they are worth beside always-low, always-full and adaptive of the same model on the same suite, and
    beside models of the same architecture that were trained for one level."""

    def key(run: Run, policy: PolicySpec) -> tuple[object, ...]:
        return run.suite, run.summary["model"], run.summary.get("judge"), policy

    by_policy = {key(r, r.policy): r for r in runs}

    def of(run: Run, policy: PolicySpec) -> Run | None:
        return by_policy.get(key(run, policy))

    def trained(run: Run, policy: PolicySpec) -> list[Scored] | None:
        alike = (run.suite, run.summary.get("judge"), run.architecture, policy)
        return next((r.scored for r in runs if (r.suite, r.summary.get("judge"), r.architecture, r.policy) == alike), None)

    ledgers = dict[int, break_even.Ledger]()

    def ledger(run: Run) -> break_even.Ledger:
        if id(run) not in ledgers:
            ledgers[id(run)] = break_even.ledger((s.transcript for s in run.scored), run.architecture)
        return ledgers[id(run)]

    result = []
    for run in runs:
        low, full, own = of(run, LOW), of(run, FULL), of(run, ADAPTIVE)
        # of a compressed run, what a decision by force would have given under the same compression
        direct, request = (of(run, run.policy.with_routing(f"forced:{action}")) for action in ("direct", "request"))
        comparison = compare(run.scored, Lines.of(low.scored, full.scored)) if low and full else None
        forced = branches(run.scored, direct.scored, request.scored) if run.policy.is_adaptive and direct and request else None
        lines = (trained(run, TRAINED_LOW), trained(run, TRAINED_FULL))
        alone = beside_trained(run.scored, *lines) if run.policy.is_adaptive else None
        even = break_even.against(ledger(own), ledger(run)) if own and run.policy.shows_one_view else None
        found = dataclasses.replace(run, comparison=comparison, branches=forced, trained=alone, break_even=even)
        result.append(found)
    return result


def missing_lines(runs: Sequence[Run]) -> list[str]:
    """What there is no run of beside those in which a model decides: a model that was trained for one level."""
    decided = [run.trained for run in runs if run.trained]
    return [
        f"a model that was trained to answer from the {line} view alone (trained-{line})"
        for line in ("low", "full")
        if any(found[line] is None for found in decided)
    ]


def as_csv(runs: Sequence[Run]) -> str:
    """One line per run with every figure, columns named by their path."""
    rows = [dict(_flat({k: v for k, v in run.to_dict().items() if k != "architecture"})) for run in runs]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, f"{path}.{name}" if path else str(name))
    else:
        yield path, value
