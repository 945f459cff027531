"""Examples x routing -> transcripts.jsonl, views to look at, summary.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from visionthink.episode import Episode, run_batch
from visionthink.errors import DataError, InputError
from visionthink.evals.metrics import Scored, summarise
from visionthink.evals.routing import Lane, Routing, routing
from visionthink.model import Model
from visionthink.rewards.judge import Judge, judge_transcripts
from visionthink.types import Example, Examples

GALLERY = 48
"""Episodes per run whose views are kept as pictures."""


def evaluate(
    examples: Examples,
    model: Model,
    policy: str,
    out: Path,
    *,
    suite: str,
    model_name: str,
    judge: Judge,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Run every example, write the folder, return the summary. Examples of a table are read when their turn comes.

    A row or an image that cannot be used is written to `failed.jsonl` with its reason and counted in the summary.

    Raises:
        DataError: there is nothing to evaluate.
    """
    if not examples:
        raise DataError(f"suite {suite}: no examples")
    (out / "views").mkdir(parents=True, exist_ok=True)
    scored: dict[str, Scored] = {}
    order: list[str] = []
    failed: list[dict[str, str]] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(escape(f"{model_name} {policy}"), total=len(examples))
        for lane, batch in _batches(_readable(examples, order, failed), routing(policy, model), batch_size):
            episodes = []
            for example in batch:
                try:
                    episodes.append(model.episode(example, lane.ladder))
                except InputError as error:
                    failed.append({"example_id": example.id, "reason": str(error)})
            # a forced decision needs something to decide: images too small for the ladder are left to the model
            deciding = [e for e in episodes if e.can_request or lane.policy is model.policy]
            others = [e for e in episodes if e not in deciding]
            transcripts = run_batch(deciding, lane.policy) + run_batch(others, model.policy)
            verdicts = judge_transcripts(judge, transcripts)
            for episode, transcript, verdict in zip(deciding + others, transcripts, verdicts, strict=True):
                scored[transcript.example_id] = Scored(transcript, verdict)
                if len(scored) <= GALLERY:
                    _keep_views(episode, out)
            progress.advance(task, len(batch))
    if not scored:
        raise DataError(f"suite {suite}: every example failed; the first: {failed[0]['reason']}")
    in_order = [scored[i] for i in order if i in scored]
    _write_lines(out / "transcripts.jsonl", [s.to_dict() for s in in_order])
    _write_lines(out / "failed.jsonl", failed)
    summary = summarise(in_order, suite=suite, model=model_name, policy=policy)
    summary |= {"judge": judge.identity, "judge_usage": judge.usage(), "failed": len(failed)}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", "utf-8")
    return summary


def _readable(examples: Examples, order: list[str], failed: list[dict[str, str]]) -> Iterator[Example]:
    """Examples one by one; `order` gets their ids, `failed` the rows that cannot be read."""
    for key in examples if isinstance(examples, Mapping) else range(len(examples)):
        try:
            example = examples[key]  # type: ignore[index]
        except InputError as error:
            failed.append({"example_id": str(key), "reason": str(error)})
            continue
        order.append(example.id)
        yield example


def _batches(examples: Iterable[Example], route: Routing, size: int) -> Iterator[tuple[Lane, list[Example]]]:
    """Examples by lane, in order, at most `size` together."""
    waiting: dict[int, tuple[Lane, list[Example]]] = {}
    for example in examples:
        lane = route(example)
        _, members = waiting.setdefault(id(lane), (lane, []))
        members.append(example)
        if len(members) == size:
            yield waiting.pop(id(lane))
    yield from waiting.values()


def view_file(folder: Path, example_id: str, level: float) -> Path:
    """Where the picture of a view is kept."""
    return folder / "views" / f"{quote(example_id, safe='')}@{level:g}.png"


def _keep_views(episode: Episode, out: Path) -> None:
    """Save the image at every level of the ladder, for the gallery of the report."""
    for level in episode.levels:
        episode.view(level).image.save(view_file(out, episode.example.id, level))


def _write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")


def read_run(folder: Path) -> tuple[dict[str, Any], list[Scored]]:
    """(summary, scored transcripts) of an evaluation folder.

    Raises:
        DataError: a file is missing or a line is damaged; the message names it.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: no summary.json; not an evaluation folder") from None
    except ValueError:
        raise DataError(f"{folder / 'summary.json'}: not valid JSON") from None
    if not isinstance(summary, dict) or not {"model", "policy", "accuracy", "retain_cumulative"} <= set(summary):
        raise DataError(f"{folder / 'summary.json'}: not the summary of an evaluation")
    transcripts = folder / "transcripts.jsonl"
    if not transcripts.is_file():
        raise DataError(f"{folder}: no transcripts.jsonl")
    scored = []
    for number, line in enumerate(transcripts.read_bytes().splitlines(), 1):
        try:
            scored.append(Scored.from_dict(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{transcripts}, line {number}: not a transcript") from None
    return summary, scored
