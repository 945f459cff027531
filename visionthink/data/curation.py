"""Data curation (Sec. 3.5 of arXiv 2507.13348): rollouts of every example at two resolutions, judged, counted, labelled.

A row is the unit of work of a pool. When it is finished it is written down at once, by the process that asked for it:
`rollouts/` holds the transcripts, `counts/` one line for each row, written after them. What is interrupted is done again, with
the same seeds: sampling follows from the run's seed and the example alone.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

from visionthink.data.identity import content_id, images_digest
from visionthink.data.labels import Thresholds
from visionthink.durable import append_lines, lines_of_one, whole_lines
from visionthink.episode import Episode, Policy, run_batch
from visionthink.errors import DataError, InputError
from visionthink.model import Model
from visionthink.picture import open_pictures
from visionthink.pools.work import Finished
from visionthink.rewards.judge import Answer, Judge, judge_transcripts
from visionthink.transcript import Transcript
from visionthink.types import Example

if TYPE_CHECKING:
    from visionthink.policies.render import Renderer


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What is known of one row. `rejected` says why it has no counts."""

    row: int
    id: str = ""
    image: str = ""
    """Digest of its pixels."""
    correct_low: int = 0
    correct_full: int = 0
    unscored: int = 0
    need: str | None = None
    """Where it is known."""
    seconds: float = 0.0
    rejected: str = ""


@runtime_checkable
class Reseedable(Protocol):
    """A policy whose sampling can begin anew, and whose prompts can be counted."""

    @property
    def renderer(self) -> Renderer: ...

    def seeded(self, seed: int) -> Policy: ...


@dataclass(frozen=True, kw_only=True)
class Curator:
    """Makes the rollouts of an example and counts the right ones.

    `definite` is asked whether a question has one definite answer (App. B.5); those without are left out. `max_tokens` limits the
    prompt with both views together; 0 does not.
    """

    model: Model
    judge: Judge
    thresholds: Thresholds
    seed: int = 0
    max_tokens: int = 0
    definite: Judge | None = None

    def count(self, row: int, example: Example) -> tuple[Counted, list[Transcript]]:
        """Counts and transcripts, low ones first.

        Raises:
            InputError: the example cannot be used; the message says why.
        """
        started = time.perf_counter()
        pictures = open_pictures(example, max_pixels=self.model.max_image_pixels, row=f"row {row}")
        digest = images_digest([picture.image for picture in pictures])
        example = replace(example, id=content_id(example, digest))
        menus = self.model.menu.low(), self.model.menu.full()
        low, full = (self.model.episode(example, menu, pictures=pictures) for menu in menus)
        if low.space.tokens(low.space.opening) >= full.space.full_tokens:
            raise DataError("the image is too small: the low view costs as much as the full one")
        self._check_length(low, full)
        self._check_definite(example)
        n = self.thresholds.rollouts  # of a row that is left out no further episode is begun
        more = [self.model.episode(example, menu, pictures=pictures) for menu in menus for _ in range(n - 1)]
        episodes = [low, *more[: n - 1], full, *more[n - 1 :]]
        policy: Policy = self.model.policy
        if isinstance(policy, Reseedable):  # sampling must not depend on what was sampled before
            policy = policy.seeded(int(hashlib.sha256(f"{self.seed} {example.id}".encode()).hexdigest()[:8], 16))
        transcripts = run_batch(episodes, policy)
        verdicts = [v.verdict for v in judge_transcripts(self.judge, transcripts)]
        counted = Counted(
            row=row,
            id=example.id,
            image=digest,
            correct_low=verdicts[:n].count("correct"),
            correct_full=verdicts[n:].count("correct"),
            unscored=verdicts.count("unscored"),
            need=example.need,
            seconds=round(time.perf_counter() - started, 3),
        )
        return counted, transcripts

    def _check_length(self, low: Episode, full: Episode) -> None:
        if not self.max_tokens or not isinstance(self.model.policy, Reseedable):
            return
        prompt = self.model.policy.renderer.prompt_ids(full.opening())
        tokens = len(prompt) + low.space.tokens(low.space.opening)
        if tokens > self.max_tokens:
            raise DataError(f"takes {tokens} tokens with both views; {self.max_tokens} are allowed")

    def _check_definite(self, example: Example) -> None:
        if self.definite is None:
            return
        reference = example.answer or ""
        [verdict] = self.definite.compare([Answer(example.question, reference, (reference, *example.aliases))])
        if verdict.verdict != "correct":
            why = "has no definite answer" if verdict.verdict == "wrong" else f"could not be classified: {verdict.reason}"
            raise DataError(f"the question {why}")


@dataclass(frozen=True, kw_only=True)
class RowCounter:
    """The function of one row, which every pool of workers maps over the rows of a table.

    Raises:
        InputError: with `strict`, a row cannot be used; otherwise its record says why.
    """

    curator: Curator
    examples: Mapping[str, Example]
    keys: Sequence[str]
    """The key of each example, by its row."""
    strict: bool = False
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, row: int) -> Finished:
        transcripts: list[Transcript] = []
        try:
            counts, transcripts = self.curator.count(row, self.examples[self.keys[row]])
        except InputError as error:
            if self.strict:
                raise
            counts = Counted(row=row, rejected=str(error))
        record = {"counts": asdict(counts), "transcripts": [t.to_dict() for t in transcripts]}
        return Finished(record=record, worker=self.name, usage=self.curator.judge.usage())


def written_down(out: Path, results: Iterable[Finished]) -> Iterator[Finished]:
    """The same results, each once it is written.

    Raises:
        StorageError: another process works in this folder, or the disk is full.
    """
    with _own(out / "rollouts" / "rows.jsonl") as rollouts, _own(out / "counts" / "rows.jsonl") as counts:
        for finished in results:
            record = finished.record
            if record["transcripts"]:
                append_lines(rollouts, {"row": record["counts"]["row"], "transcripts": record["transcripts"]})
            append_lines(counts, record["counts"])
            yield finished


def judge_again(out: Path, judge: Judge) -> tuple[int, int]:
    """Ask once more about rows with answers that could not be judged, as after an outage of the judge; transcripts are kept.
    Returns how many there were and how many are left."""
    unscored = {record.row: record for record in counted(out) if record.unscored}
    if not unscored:
        return 0, 0
    left = 0
    with _own(out / "counts" / "judged-again.jsonl") as counts:
        for row, kept in transcripts_of(out, set(unscored)).items():
            verdicts = [v.verdict for v in judge_transcripts(judge, [Transcript.from_dict(t) for t in kept])]
            half = len(verdicts) // 2
            correct = verdicts[:half].count("correct"), verdicts[half:].count("correct")
            record = replace(unscored[row], correct_low=correct[0], correct_full=correct[1], unscored=verdicts.count("unscored"))
            if record.unscored < unscored[row].unscored:
                append_lines(counts, asdict(record))
            left += record.unscored > 0
    return len(unscored), left


def counted(out: Path) -> Iterator[Counted]:
    """All that is written down, in any file; each row once, as judged with the fewest answers unscored.

    Raises:
        DataError: a file holds something else.
    """
    found: dict[int, Counted] = {}
    for path in sorted((out / "counts").glob("*.jsonl")):
        for number, line in whole_lines(path):
            try:
                record = Counted(**line)
            except TypeError:
                raise DataError(f"{path}, line {number}: not a line of counts") from None
            if record.row not in found or record.unscored < found[record.row].unscored:
                found[record.row] = record
    yield from found.values()


def transcripts_of(out: Path, rows: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Transcripts of some rows, as they were written last."""
    found = {}
    for path in sorted((out / "rollouts").glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                # the row stands first: other lines, which are long, need not be read
                if line.endswith(b"\n") and int(line[8 : line.index(b",")]) in rows:
                    record = json.loads(line)
                    found[record["row"]] = record["transcripts"]
    return found


def _own(path: Path) -> AbstractContextManager[IO[bytes]]:
    return lines_of_one(path, what="curation")
