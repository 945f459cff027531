"""What runs in miniature start from: a base model, or what it became by supervised fine-tuning."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from visionthink.menu import Menu
from visionthink.policies.checkpoint import open_checkpoint, resolve
from visionthink.policies.render import Renderer
from visionthink.recipes.claim import Start
from visionthink.recipes.cold_start import cold_start_tiny, sampled
from visionthink.recipes.tiny_look import CELLS
from visionthink.recipes.tiny_look_trials import cold_start
from visionthink.train.demonstrations import Demonstrations, choose, demonstrate
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.sft import fine_tune

DEMONSTRATING, PER_UPDATE = 9.0, 0.2
"""Seconds of making demonstrations and of an update of fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A checkpoint to start from that is made of the base model, in the folder of its name."""

    start: Start
    base: str
    seed: int

    def __str__(self) -> str:
        return f"{self.start}, seed {self.seed}"

    def folder(self, out: Path) -> Path:
        return out / "starts" / f"{self.start}-{self.seed}-{digest(self.base)}"

    def path(self, out: Path) -> Path:
        """Where the checkpoint is, once it has been made."""
        return self.folder(out) / _MAKERS[self.start].result

    @property
    def seconds(self) -> float:
        """Estimate."""
        return _MAKERS[self.start].seconds

    @property
    def parent(self) -> Made | None:
        parent = _MAKERS[self.start].parent
        return Made(start=parent, base=self.base, seed=self.seed) if parent else None

    @classmethod
    def of(cls, start: Start, base: str, seed: int) -> Made | None:
        """What has to be made for a start: None for the base itself; what does not depend on the seed is made once."""
        if start == "base":
            return None
        return cls(start=start, base=base, seed=seed if _MAKERS[start].seeded else 0)


@dataclass(frozen=True, kw_only=True)
class _Maker:
    make: Callable[[Made, Path], object]
    seconds: float
    parent: Start | None = None
    result: str = "final"
    seeded: bool = True


def checkpoint_of(start: Start, base: str, seed: int, out: Path) -> str:
    """The checkpoint a run begins with."""
    made = Made.of(start, base, seed)
    return str(made.path(out)) if made else base


def in_turn(starts: Iterable[Made]) -> list[list[Made]]:
    """Starts with those that they are made of; what stands in a list needs nothing but the lists before."""
    found = set(starts)
    found |= {parent for made in found if (parent := made.parent)}
    first = [made for made in found if made.parent is None]
    return [sorted(part, key=str) for part in (first, found.difference(first))]


def make(made: Made, out: Path) -> None:
    """Where that was not done yet."""
    if not made.path(out).is_dir():
        _MAKERS[made.start].make(made, out)


@cache
def digest(base: str) -> str:
    """Which base model, as a digest of its weights."""
    return hashlib.sha256((Path(resolve(base)) / "model.safetensors").read_bytes()).hexdigest()[:16]


def _tuned(steps: int, *, parent: Start | None = None, direct_only: bool = False) -> _Maker:
    """Fine-tuned on the base model's own good transcripts: as many requests as direct answers, or direct ones only."""

    def tune(made: Made, out: Path) -> Path:
        model = str(made.parent.path(out)) if made.parent else made.base
        config = cold_start_tiny().config.replace(model=model, out=made.folder(out), steps=steps, seed=made.seed)
        return fine_tune(config, _demonstrations(made.base, made.seed, direct_only=direct_only))

    return _Maker(make=tune, seconds=DEMONSTRATING + PER_UPDATE * steps, parent=parent)


def _demonstrations(base: str, seed: int, *, direct_only: bool) -> Demonstrations:
    material, checkpoint = sampled(base, seed), open_checkpoint(base)
    source = EpisodeSource(examples=material.examples, menu=Menu(), protocol=checkpoint.protocol, budget=checkpoint.budget)
    transcripts, verdicts = material.judged()
    chosen = choose(transcripts, verdicts, checkpoint.protocol, seed=seed)
    if direct_only:
        chosen = [t for t in chosen if not t.requested]
    return demonstrate(chosen, source, Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary))


def _tried(made: Made, out: Path) -> Path:
    return cold_start(Path(resolve(made.base)), made.folder(out), CELLS)


_MAKERS: Mapping[Start, _Maker] = {
    "reluctant": _tuned(60, direct_only=True),
    "revived": _tuned(60, parent="reluctant"),
    "sft": _tuned(60),
    "sft-long": _tuned(240),
    "trials": _Maker(make=_tried, seconds=430, result="started", seeded=False),
}
"""Taught to answer directly; and to ask again, with the base's demonstrations; fine-tuned for a short or a longer time; what its
own trials showed to be cheapest (`recipes.tiny_look_trials`)."""
