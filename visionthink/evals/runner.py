"""Examples x routing -> transcripts.jsonl, views to look at, summary.json. What is interrupted goes on where it was.

While a run is under way, every batch is one line of progress.jsonl, written when the batch is done; a batch that was cut off is
done again as a whole, so that the result does not depend on where the cut was. One process at a time writes in a folder, whoever
runs the batches, and nothing outside it is written.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from visionthink import __version__, records
from visionthink.durable import (
    another_setting,
    append_lines,
    different_settings,
    lines_of_one,
    same_settings,
    stored_settings,
    whole_lines,
)
from visionthink.errors import DataError, OptionError
from visionthink.evals import controls
from visionthink.evals.batches import Batch, BatchRunner, Key, architecture_of, batches, example_of
from visionthink.evals.flops import Architecture
from visionthink.evals.metrics import Scored
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.routing import check_judge, routing
from visionthink.evals.run_folder import view_file, write_run
from visionthink.evals.summary import summarise
from visionthink.model import Model
from visionthink.pools.work import Finished
from visionthink.progress import stage
from visionthink.rewards.cascade import steady
from visionthink.rewards.judge import Judge, judge_transcripts
from visionthink.rewards.usage import total
from visionthink.types import Examples, ImageView, Look, StopReason

BATCH = 64
"""Episodes that take their turns together; so many are lost at most when a run is interrupted. How many of them the model reads
at once is the policy's business."""
GALLERY = 200
"""Episodes per run whose views are kept as pictures: the first, in the order of the table, that had anything on offer."""


Results = Callable[[Iterator[Batch]], Iterator[Finished]]
"""Runs batches, and gives their results in whatever order they are finished."""


class Metric(Protocol):
    """A benchmark's own figure, beside the judge's accuracy."""

    def __call__(self, scored: Sequence[Scored], /) -> Mapping[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """One line of progress.jsonl."""

    batch: int
    of: str
    """A digest of what was asked."""
    scored: tuple[Mapping[str, Any], ...]
    failed: Mapping[str, str]
    architecture: Mapping[str, Any] | None = None
    """The shape of the model as the worker had it."""


@dataclass(kw_only=True)
class _Done:
    """What is written down."""

    batches: dict[int, str] = field(default_factory=dict)
    """Digests of what was asked, by number."""
    scored: dict[str, Scored] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    finished: int = 0
    """Examples of the batches that need not be done again."""
    architecture: Architecture | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """A batch in which the model could not be called counts as not done: it is asked again.

        Raises:
            ValueError: it is no batch.
        """
        batch: _Batch = records.read(_Batch, record)
        scored = {s.transcript.example_id: s for s in map(Scored.from_dict, batch.scored)}
        self.scored |= scored
        self.failed |= batch.failed
        if batch.architecture is not None:
            self.architecture = Architecture.from_dict(batch.architecture)
        if all(s.transcript.stop_reason != StopReason.POLICY_ERROR for s in scored.values()):
            self.batches[batch.batch] = batch.of
            self.finished += len(batch.scored) + len(batch.failed)


def evaluate(
    examples: Examples,
    model: Model,
    policy: PolicySpec,
    out: Path,
    *,
    suite: str,
    model_name: str,
    judge: Judge,
    batch_size: int = BATCH,
    settings: Mapping[str, Any] | None = None,
    metric: Metric | None = None,
    results: Results | None = None,
    twin_of: controls.TwinOf | None = None,
    fit: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run every example, write the folder, return the summary. Examples of a table are read when their turn comes.

    A row or an image that cannot be used, and a second example with the same id, are written to `failed.jsonl` with their reason
    and counted. A judge that is down leaves answers unscored; running the same again asks it again. `settings` are whatever else
    the answers depend on: a folder that was begun with others is refused. Where the policy has a compression method, the model is
    the compressed one.

    `results` gives the batches to workers that have the examples, the model and the judge themselves; `model` is then never asked
    anything, and needs no weights. By default they are run one after the other, here. `twin_of` gives examples with other
    evidence, for the control that exchanges it. `fit` is what was measured when the policy's method was trained
    (`run_folder.Fit`).

    Raises:
        DataError: there is nothing to evaluate, or every example failed.
        OptionError: the folder holds another run.
        StorageError: another process works in the folder, or the disk is full.
    """
    if not examples:
        raise DataError(f"suite {suite}: no examples")
    route = routing(policy, model)
    check_judge(policy, judge)
    chosen = _chosen(examples, policy, suite, model_name, judge, batch_size, settings)
    _check_settings(out, chosen)
    judge = steady(judge)
    run = results or functools.partial(map, BatchRunner(examples, model, policy, judge, twin_of))
    with lines_of_one(out / "progress.jsonl", what="evaluation") as progress_file:
        same_settings(out, chosen)
        done, order, refused = _done(out), dict[str, Key](), dict[str, str]()
        _judge_again(done, judge)
        usage: dict[str, Mapping[str, float]] = {}
        with stage(f"{model_name} {policy}", len(examples), done=done.finished) as advance:

            def left() -> Iterator[Batch]:
                for batch in batches(examples, route, batch_size, order, refused):
                    if done.batches.get(batch.number, batch.of) != batch.of:
                        raise _changed(out, suite)
                    if batch.number not in done.batches:
                        yield batch

            for finished in run(left()):
                append_lines(progress_file, finished.record)
                done.add(finished.record)
                usage[finished.worker] = finished.usage
                advance(len(finished.record["scored"]) + len(finished.record["failed"]))
            advance(len(refused))
        failed = refused | done.failed
        if not done.scored:
            raise DataError(f"suite {suite}: every example failed; the first: {next(iter(failed.values()))}")
        made = _made(out)
        if usage or made is None:
            made = {"date": datetime.now(UTC).date().isoformat(), "version": __version__}
            _keep_views(examples, order, done, model, policy, out, twin_of)
        in_order = [done.scored[i] for i in order if i in done.scored]
        architecture = done.architecture or architecture_of(model)
        summary = summarise(in_order, suite=suite, model=model_name, policy=str(policy), architecture=architecture)
        if metric:
            summary["metrics"] = dict(metric(in_order))
        summary["benchmark"] = chosen.get("benchmark")
        used = total([judge.usage(), *usage.values()]) if results else judge.usage()
        summary |= {"judge": judge.identity, "judge_usage": used, "failed": len(failed)}
        summary["failed_reasons"] = list(dict.fromkeys(failed.values()))[:3]
        summary |= {**made, "settings": _settings(chosen, model), "fit": fit}
        write_run(out, summary, in_order, failed)
    return summary


def check_folder(
    examples: Examples,
    out: Path,
    model: Model | None,
    policy: PolicySpec,
    *,
    suite: str,
    model_name: str,
    judge: Judge,
    batch_size: int = BATCH,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """What `evaluate` would refuse of a folder, before anything is asked. Without a model, the examples are only counted.

    Raises:
        OptionError: the folder holds another run, or the examples are others than those that it was begun with.
        DataError: the folder is damaged.
    """
    _check_settings(out, _chosen(examples, policy, suite, model_name, judge, batch_size, settings))
    if model is None or not (out / "progress.jsonl").exists():
        return
    asked = _done(out).batches
    for batch in batches(examples, routing(policy, model), batch_size, {}, {}) if asked else ():
        if asked.pop(batch.number, batch.of) != batch.of:
            raise _changed(out, suite)
        if not asked:
            return


def _chosen(
    examples: Examples,
    policy: PolicySpec,
    suite: str,
    model_name: str,
    judge: Judge,
    batch_size: int,
    settings: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the answers depend on, as the folder holds it."""
    chosen = {"suite": suite, "model": model_name, "policy": str(policy), "judge": judge.identity, "examples": len(examples)}
    chosen |= {"batch": batch_size, **(settings or {})}
    if isinstance(policy.gate, Path):  # its name may come to mean another file
        chosen["gate"] = hashlib.sha256(policy.gate.read_bytes()).hexdigest()[:16]
    return chosen


def _check_settings(out: Path, chosen: Mapping[str, Any]) -> None:
    if (out / "summary.json").exists() and stored_settings(out) is None:
        raise OptionError(f"--out {out}: holds the summary of something else; name another folder")
    different = different_settings(out, chosen)
    if different == ["examples"]:
        raise _changed(out, chosen["suite"])
    if causes := [name for name in different if name != "examples"]:  # from which the number of examples follows
        raise another_setting(out, causes[0], chosen)


def _changed(out: Path, suite: str) -> OptionError:
    why = f"the examples of {suite}, or their number, changed since this folder was begun"
    return OptionError(f"--out {out}: {why}; name a new folder, or delete this one to begin again")


def _done(out: Path) -> _Done:
    done = _Done()
    for number, record in whole_lines(out / "progress.jsonl"):
        try:
            done.add(record)
        except ValueError as error:
            raise DataError(f"{out / 'progress.jsonl'}, line {number}: not a batch of this program: {error}") from None
    return done


def _made(out: Path) -> dict[str, Any] | None:
    """When, and by which version, the answers of a finished run were made; None where there is none that can be read."""
    try:
        summary = records.parse((out / "summary.json").read_bytes())
    except (OSError, ValueError):
        return None
    return {name: summary.get(name) for name in ("date", "version")}


def _settings(chosen: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """What was chosen and has no place of its own in the summary, and what the model could be shown."""
    elsewhere = ("suite", "model", "policy", "judge", "benchmark")
    settings = {name: value for name, value in chosen.items() if name not in elsewhere and value not in (None, "")}
    menu = model.menu
    shown = {"ladder": str(menu.ladder), "regions": menu.regions.kind, "edits": ",".join(edit.name for edit in menu.edits)}
    return settings | {name: value for name, value in shown.items() if value not in ("", "none")}


def _judge_again(done: _Done, judge: Judge) -> None:
    """What no judge could decide before."""
    unscored = [s for s in done.scored.values() if s.verdict.verdict == "unscored"]
    for scored, verdict in zip(unscored, judge_transcripts(judge, [s.transcript for s in unscored]), strict=True):
        done.scored[scored.transcript.example_id] = Scored(scored.transcript, verdict)


def _keep_views(
    examples: Examples,
    order: Mapping[str, Key],
    done: _Done,
    model: Model,
    policy: PolicySpec,
    out: Path,
    twin_of: controls.TwinOf | None,
) -> None:
    """Save the full views and all that were shown, for the gallery of the report."""
    route = routing(policy, model)
    for name in [name for name in order if name in done.scored and done.scored[name].transcript.offers][:GALLERY]:
        example = example_of(examples, order[name])
        episode = controls.episode(model, example, route(example).menu, policy.control, twin_of)
        space, pictures = episode.space, episode.pictures
        for i, box in enumerate(space.image_boxes):
            [full] = space.render([Look((box,), 1.0, i)], pictures)
            _save(full, view_file(out, name, i))
        looks = (*space.opening, *(look for turn in done.scored[name].transcript.turns for look in turn.looks))
        for shown, view in zip(space.shown(looks), space.render(looks, pictures), strict=True):
            _save(view, view_file(out, name, shown.image, shown))


def _save(view: ImageView, file: Path) -> None:
    """Write a picture, which appears when it is whole."""
    file.parent.mkdir(exist_ok=True)
    partial = file.with_name(".partial")
    view.image.save(partial, "PNG")
    partial.replace(file)
