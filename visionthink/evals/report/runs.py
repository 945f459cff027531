"""Evaluation folders as they were read, each beside the always-low and always-full run of its model and suite."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionthink.evals import break_even
from visionthink.evals.comparison import Lines, beside_adaptive, beside_trained, branches, compare
from visionthink.evals.flops import Architecture
from visionthink.evals.gate_baseline import beside_gate
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
    gates: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Gates by the model on whose low view they stand: the run's own, and others of the same architecture, such as its base."""
    control: dict[str, Any] | None = None
    """Comparison of a control with the model's adaptive run."""
    break_even: dict[str, Any] | None = None
    """The break-even of the model's adaptive run with this one."""
    architecture: Architecture | None = None

    @property
    def name(self) -> str:
        return f"{self.summary['model']} · {self.summary['policy']}"

    @property
    def suite(self) -> str:
        """What was asked; runs of the same are compared."""
        return str(self.summary.get("benchmark") or self.summary["suite"] or "a suite without a name")

    def to_dict(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in ("comparison", "trained", "gates", "control", "branches", "break_even")}
        return {"folder": self.folder.name, **self.summary, **found}


def read(folder: Path) -> Run:
    """An evaluation folder; `DataError` where it is none, or damaged."""
    return Run(folder=folder, **vars(read_run(folder)))


class _Others:
    """The runs that a run is compared with: of the same suite, by the same judge."""

    def __init__(self, runs: Sequence[Run]):
        self._runs = runs
        self._named = {(*self._kind(r), r.summary["model"], r.policy): r for r in runs}
        self._ledgers: dict[int, break_even.Ledger] = {}

    def _kind(self, run: Run) -> tuple[object, ...]:
        return run.suite, run.summary.get("judge")

    def named(self, run: Run, model: str, policy: PolicySpec) -> Run | None:
        return self._named.get((*self._kind(run), model, policy))

    def own(self, run: Run, policy: PolicySpec) -> Run | None:
        """The run of the same model under a policy, if there is one."""
        return self.named(run, run.summary["model"], policy)

    def alike(self, run: Run) -> list[Run]:
        """Runs of models of the same architecture on the same suite and by the same judge, its own among them."""
        return [r for r in self._runs if (*self._kind(r), r.architecture) == (*self._kind(run), run.architecture)]

    def ledger(self, run: Run) -> break_even.Ledger:
        if id(run) not in self._ledgers:
            self._ledgers[id(run)] = break_even.ledger((s.transcript for s in run.scored), run.architecture)
        return self._ledgers[id(run)]


def compared(runs: Sequence[Run]) -> list[Run]:
    """The same runs with what they are worth beside others on the same suite: always-low, always-full and adaptive of the same
    model; and of models of the same architecture those that were trained for one level, and gates on their low views."""
    others = _Others(runs)
    return [
        dataclasses.replace(
            run,
            comparison=_comparison(run, others),
            branches=_branches(run, others),
            trained=_trained(run, others),
            gates=_gates(run, others),
            control=_control(run, others),
            break_even=_break_even(run, others),
        )
        for run in runs
    ]


def _comparison(run: Run, others: _Others) -> dict[str, Any] | None:
    low, full = others.own(run, LOW), others.own(run, FULL)
    return compare(run.scored, Lines.of(low.scored, full.scored)) if low and full else None


def _branches(run: Run, others: _Others) -> dict[str, Any] | None:
    """For a run with compression, the results of forced decisions under the same compression."""
    direct, request = (others.own(run, run.policy.with_routing(f"forced:{action}")) for action in ("direct", "request"))
    return branches(run.scored, direct.scored, request.scored) if run.policy.is_adaptive and direct and request else None


def _trained(run: Run, others: _Others) -> dict[str, Any] | None:
    if not run.policy.is_adaptive:
        return None
    lines = {r.policy: r.scored for r in others.alike(run)}
    return beside_trained(run.scored, lines.get(TRAINED_LOW), lines.get(TRAINED_FULL))


def _gates(run: Run, others: _Others) -> dict[str, dict[str, Any]]:
    found = {}
    for model in dict.fromkeys(r.summary["model"] for r in others.alike(run)) if run.policy.is_adaptive else ():
        low, full = others.named(run, model, LOW), others.named(run, model, FULL)
        if low and full and (gate := beside_gate(run.scored, low.scored, full.scored)):
            found[model] = gate
    return found


def _control(run: Run, others: _Others) -> dict[str, Any] | None:
    own = others.own(run, ADAPTIVE)
    return beside_adaptive(run.scored, own.scored) if own and run.policy.control else None


def _break_even(run: Run, others: _Others) -> dict[str, Any] | None:
    own = others.own(run, ADAPTIVE)
    return break_even.against(others.ledger(own), others.ledger(run)) if own and run.policy.shows_one_view else None


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
