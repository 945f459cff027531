"""Examples x routing -> transcripts.jsonl, views to look at, summary.json. What is interrupted goes on where it was.

While a run is under way, every batch is one line of progress.jsonl, written when the batch is done; a batch that was cut off is
done again as a whole, so that the result does not depend on where the cut was. One process at a time works in a folder, and
nothing outside it is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from visionthink import records
from visionthink.durable import append_lines, lines_of_one, same_settings, stored_settings, whole_lines
from visionthink.episode import Episode, run_batch
from visionthink.errors import DataError, ImageError, InputError, OptionError
from visionthink.evals.flops import Architecture
from visionthink.evals.metrics import Scored, summarise
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.routing import Lane, Routing, routing
from visionthink.evals.run_folder import view_file, write_run
from visionthink.model import Model
from visionthink.progress import stage
from visionthink.rewards.cascade import steady
from visionthink.rewards.judge import Judge, judge_transcripts
from visionthink.types import Example, Examples, Look, StopReason

BATCH = 64
"""Episodes that take their turns together; so many are lost at most when a run is interrupted. How many of them the model reads
at once is the policy's business."""
GALLERY = 200
"""Episodes per run whose views are kept as pictures: the first, in the order of running, that had anything on offer."""


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


@dataclass(kw_only=True)
class _Done:
    """What is written down."""

    batches: dict[int, str] = field(default_factory=dict)
    """Digests of what was asked, by number."""
    scored: dict[str, Scored] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    finished: int = 0
    """Examples of the batches that need not be done again."""

    def add(self, record: Mapping[str, Any]) -> None:
        """A batch in which the model could not be called counts as not done: it is asked again.

        Raises:
            ValueError: it is no batch.
        """
        batch: _Batch = records.read(_Batch, record)
        scored = {s.transcript.example_id: s for s in map(Scored.from_dict, batch.scored)}
        self.scored |= scored
        self.failed |= batch.failed
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
) -> dict[str, Any]:
    """Run every example, write the folder, return the summary. Examples of a table are read when their turn comes.

    A row or an image that cannot be used, and a second example with the same id, are written to `failed.jsonl` with their reason
    and counted. A judge that is down leaves answers unscored; running the same again asks it again. `settings` are whatever else
    the answers depend on: a folder that was begun with others is refused. Where the policy has a compression method, the model is
    the compressed one.

    Raises:
        DataError: there is nothing to evaluate, or every example failed.
        OptionError: the folder holds another run.
        StorageError: another process works in the folder, or the disk is full.
    """
    if not examples:
        raise DataError(f"suite {suite}: no examples")
    route = routing(policy, model)
    if (out / "summary.json").exists() and stored_settings(out) is None:
        raise OptionError(f"--out {out}: holds the summary of something else; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    chosen = {"suite": suite, "model": model_name, "policy": str(policy), "judge": judge.identity, "examples": len(examples)}
    chosen |= {"batch": batch_size, **(settings or {})}
    judge = steady(judge)
    with lines_of_one(out / "progress.jsonl", what="evaluation") as progress_file:
        same_settings(out, chosen)
        done, order, refused = _Done(), list[str](), dict[str, str]()
        for number, record in whole_lines(out / "progress.jsonl"):
            try:
                done.add(record)
            except ValueError as error:
                raise DataError(f"{out / 'progress.jsonl'}, line {number}: not a batch of this program: {error}") from None
        _judge_again(done, judge)
        room = GALLERY
        with stage(f"{model_name} {policy}", len(examples), done=done.finished) as advance:
            readable = _readable(examples, order, refused)
            for number, (lane, batch) in enumerate(_batches(readable, route, batch_size, refused)):
                digest = _digest(batch)
                if done.batches.get(number, digest) != digest:
                    raise OptionError(f"--out {out}: was begun with other examples than those of {suite} now; use another folder")
                if number not in done.batches:
                    done.add(_run(number, digest, lane, batch, model, judge, out, progress_file, room))
                    advance(len(batch))
                room -= sum(bool(done.scored[e.id].transcript.offers) for e in batch if e.id in done.scored)
            advance(len(refused))
        failed = refused | done.failed
        if not done.scored:
            raise DataError(f"suite {suite}: every example failed; the first: {next(iter(failed.values()))}")
        in_order = [done.scored[i] for i in order if i in done.scored]
        summary = summarise(in_order, suite=suite, model=model_name, policy=str(policy), architecture=architecture_of(model))
        if metric:
            summary["metrics"] = dict(metric(in_order))
        summary["benchmark"] = chosen.get("benchmark")
        summary |= {"judge": judge.identity, "judge_usage": judge.usage(), "failed": len(failed)}
        write_run(out, summary, in_order, failed)
    return summary


def architecture_of(model: Model) -> Architecture | None:
    """The shape of a model; None where it is not known, as behind an endpoint that nothing was said of."""
    config = getattr(model.policy, "config", None)
    return Architecture.of(config, getattr(model.policy, "value_bytes", 2)) if config is not None else None


def _run(
    number: int,
    digest: str,
    lane: Lane,
    batch: Sequence[Example],
    model: Model,
    judge: Judge,
    out: Path,
    file: IO[bytes],
    room: int,
) -> dict[str, Any]:
    """Episodes, verdicts, one line. `room` is how many more episodes fit into the gallery."""
    episodes, failed = list[Episode](), dict[str, str]()
    for example in batch:
        try:
            episodes.append(model.episode(example, lane.menu))
        except InputError as error:
            failed[example.id] = str(error)
    deciding = [e for e in episodes if lane.policy_for(e) is lane.policy]
    others = [e for e in episodes if lane.policy_for(e) is not lane.policy]
    transcripts = run_batch(deciding, lane.policy) + run_batch(others, lane.policy_without_tool)
    verdicts = judge_transcripts(judge, transcripts)
    scored = [Scored(t, v) for t, v in zip(transcripts, verdicts, strict=True)]
    for episode in [e for e in episodes if e.transcript().offers][: max(0, room)]:
        _keep_views(episode, out)
    record = {"batch": number, "of": digest, "scored": [s.to_dict() for s in scored], "failed": failed}
    append_lines(file, record)
    return record


def _digest(batch: Sequence[Example]) -> str:
    """Of what is asked: a table that was edited in between is not the one that was begun with."""
    digest = hashlib.sha256()
    for example in batch:
        images = [image if isinstance(image, (bytes, str)) else getattr(image, "name", "") for image in example.images]
        for part in (example.id, example.question, example.answer, example.aliases, *example.earlier, *images):
            digest.update(repr(part).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _judge_again(done: _Done, judge: Judge) -> None:
    """What no judge could decide before."""
    unscored = [s for s in done.scored.values() if s.verdict.verdict == "unscored"]
    for scored, verdict in zip(unscored, judge_transcripts(judge, [s.transcript for s in unscored]), strict=True):
        done.scored[scored.transcript.example_id] = Scored(scored.transcript, verdict)


def _readable(examples: Examples, order: list[str], refused: dict[str, str]) -> Iterator[Example]:
    """Examples one by one; `order` gets their ids, `refused` the rows that cannot be read."""
    known = set[str]()
    for key in examples if isinstance(examples, Mapping) else range(len(examples)):
        try:
            example = examples[key]  # type: ignore[index]
        except InputError as error:
            refused[str(key)] = str(error)
            continue
        if example.id in known:
            refused[f"{example.id} (again)"] = f"row {key}: its id {example.id} is that of an earlier row"
            continue
        known.add(example.id)
        order.append(example.id)
        yield example


def _batches(
    examples: Iterable[Example], route: Routing, size: int, refused: dict[str, str]
) -> Iterator[tuple[Lane, list[Example]]]:
    """Examples by lane, in order, at most `size` together; `refused` gets those whose images cannot be used."""
    waiting: dict[int, tuple[Lane, list[Example]]] = {}
    for example in examples:
        try:
            lane = route(example)
        except ImageError as error:
            refused[example.id] = str(error)
            continue
        _, members = waiting.setdefault(id(lane), (lane, []))
        members.append(example)
        if len(members) == size:
            yield waiting.pop(id(lane))
    yield from waiting.values()


def _keep_views(episode: Episode, out: Path) -> None:
    """Save the full views and all that were shown, for the gallery of the report."""
    (out / "views").mkdir(exist_ok=True)
    space, pictures = episode.space, episode.pictures
    for i, box in enumerate(space.image_boxes):
        [full] = space.render([Look((box,), 1.0, i)], pictures)
        full.image.save(view_file(out, episode.example.id, i))
    looks = (*space.opening, *(look for turn in episode.transcript().turns for look in turn.looks))
    for shown, view in zip(space.shown(looks), space.render(looks, pictures), strict=True):
        view.image.save(view_file(out, episode.example.id, shown.image, shown))
