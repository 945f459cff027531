"""Examples to batches, and the function of one batch, which every pool of workers maps over them.

Which examples share a batch is decided once, from the table alone: results may depend on it, and not on who runs the batch.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from visionthink.episode import Episode
from visionthink.errors import DataError, ImageError, InputError
from visionthink.evals import controls
from visionthink.evals.flops import Architecture
from visionthink.evals.metrics import Scored
from visionthink.evals.policy_spec import PolicySpec
from visionthink.evals.routing import Routing, routing
from visionthink.model import Model
from visionthink.pools.work import Finished
from visionthink.rewards.judge import Judge, judge_transcripts
from visionthink.types import Example, Examples, reason

Key = str | int
"""The key of an example: its name in a mapping, or its place in a sequence."""


class Batch(NamedTuple):
    """Examples that are run together."""

    number: int
    of: str
    """A digest of what is asked."""
    keys: tuple[Key, ...]


class BatchRunner:
    """Episodes and verdicts of a batch, as one line of progress.jsonl."""

    def __init__(
        self, examples: Examples, model: Model, policy: PolicySpec, judge: Judge, twin_of: controls.TwinOf | None = None
    ):
        self._examples, self._model, self._judge = examples, model, judge
        self._control, self._twin_of = policy.control, twin_of
        self._route = routing(policy, model)
        architecture = architecture_of(model)
        self._architecture = architecture.to_dict() if architecture else None
        self._name = uuid.uuid4().hex

    def __call__(self, batch: Batch) -> Finished:
        """Run the examples of a batch, which share a lane.

        Raises:
            DataError: this worker reads other examples than the process that made the batch.
        """
        examples = [example_of(self._examples, key) for key in batch.keys]
        if digest(examples) != batch.of:
            raise DataError(f"a worker reads other examples than these: {', '.join(map(str, batch.keys))[:80]}")
        lane = self._route(examples[0])
        episodes, failed = list[Episode](), dict[str, str]()
        for key, example in zip(batch.keys, examples, strict=True):
            try:
                episodes.append(controls.episode(self._model, example, lane.menu, self._control, self._twin_of))
            except InputError as error:
                failed[example.id] = reason(self._examples, key, error)
        transcripts = lane.run(episodes)
        verdicts = judge_transcripts(self._judge, transcripts)
        scored = [Scored(t, v).to_dict() for t, v in zip(transcripts, verdicts, strict=True)]
        record: dict[str, Any] = {"batch": batch.number, "of": batch.of, "scored": scored, "failed": failed}
        return Finished(record=record | {"architecture": self._architecture}, worker=self._name, usage=self._judge.usage())


def architecture_of(model: Model) -> Architecture | None:
    """The shape of a model; None where it is not known, as behind an endpoint that nothing was said of, or has no tower, as one
    that reads codes."""
    config = getattr(model.policy, "config", None)
    known = config is not None and hasattr(config.vision_config, "depth")
    return Architecture.of(config, getattr(model.policy, "value_bytes", 2)) if known else None


def example_of(examples: Examples, key: Key) -> Example:
    return examples[key]  # type: ignore[index]


def digest(examples: Sequence[Example]) -> str:
    """A digest of what is asked: a table that was edited in between is not the one that was begun with."""
    found = hashlib.sha256()
    for example in examples:
        images = [image if isinstance(image, (bytes, str)) else getattr(image, "name", "") for image in example.images]
        for part in (example.id, example.question, example.answer, example.aliases, *example.earlier, *images):
            found.update(repr(part).encode("utf-8", "surrogatepass"))
    return found.hexdigest()[:16]


def batches(examples: Examples, route: Routing, size: int, order: dict[str, Key], refused: dict[str, str]) -> Iterator[Batch]:
    """Examples by lane, in order, at most `size` together.

    `order` gets the keys of all that can be read, by id; `refused` gets the reasons of those that cannot be used.
    """
    waiting: dict[int, list[tuple[Key, Example]]] = {}
    count = 0

    def batch(members: Sequence[tuple[Key, Example]]) -> Batch:
        nonlocal count
        count += 1
        return Batch(count - 1, digest([example for _, example in members]), tuple(key for key, _ in members))

    for key, example in _readable(examples, order, refused):
        try:
            lane = route(example)
        except ImageError as error:
            refused[example.id] = reason(examples, key, error)
            continue
        members = waiting.setdefault(id(lane), [])
        members.append((key, example))
        if len(members) == size:
            yield batch(waiting.pop(id(lane)))
    yield from map(batch, waiting.values())


def _readable(examples: Examples, order: dict[str, Key], refused: dict[str, str]) -> Iterator[tuple[Key, Example]]:
    for key in examples if isinstance(examples, Mapping) else range(len(examples)):
        try:
            example = example_of(examples, key)
        except InputError as error:
            refused[str(key)] = str(error)
            continue
        if example.id in order:
            refused[f"{example.id} (again)"] = f"row {key}: its id {example.id} is that of an earlier row"
            continue
        order[example.id] = key
        yield key, example
