"""The fitting of a compression method: questions with their answers to learn from, and the run itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from visionthink.compress.fit import Questions, fit
from visionthink.compress.learned import RECORD
from visionthink.data import slots, synth
from visionthink.data.examples import ExampleTable, read_examples
from visionthink.episode import Episode, run_batch
from visionthink.errors import DataError, OptionError
from visionthink.menu import Menu
from visionthink.picture import open_pictures
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.render import Renderer, views
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.recipes.fits import FitRecipe, Scenes
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.types import Example

Split = Literal["train", "test"]
FULL = Menu().full()


class Answers(Sequence[Demonstration]):
    """Episodes in which one view is shown, by default the full one, and the right answer follows; each made when it is asked for.

    Raises:
        DataError: an example has no answer.
    """

    def __init__(self, examples: Sequence[Example], checkpoint: Checkpoint, menu: Menu = FULL):
        for example in examples:
            if not example.answer:
                raise DataError(f"example {example.id}: has no answer to learn from")
        self.examples, self.checkpoint, self.menu = examples, checkpoint, menu
        self.renderer = Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Demonstration:  # type: ignore[override]
        example, checkpoint = self.examples[index], self.checkpoint
        episode = Episode(example, open_pictures(example), self.menu, checkpoint.protocol, budget=checkpoint.budget)
        script = ScriptedPolicy([checkpoint.protocol.format_answer(str(example.answer))], self.renderer)
        [transcript] = run_batch([episode], script)
        return Demonstration(transcript, tuple(view.image for view in views(episode.history)))


def questions(name: str, train: Sequence[Demonstration], test: Sequence[Demonstration], checkpoint: Checkpoint) -> Questions:
    """
    Args:
        train: to learn from; a list keeps their images in memory, `Answers` makes them again.
        test: to measure on, others than those.
    """
    splits: Mapping[Split, Sequence[Demonstration]] = {"train": train, "test": test}
    renderer = Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary)

    def batch(split: Split, numbers: Sequence[int]) -> dict[str, Tensor]:
        return collate([splits[split][i] for i in numbers], renderer, checkpoint.image_processor, padding="left")

    return Questions(name=name, train=len(train), test=len(test), batch=batch)


SAMPLES, TESTED = 1920, 480
"""Generated questions in miniature."""


def examples(data: str, scenes: Scenes = "families", limit: int | None = None) -> tuple[Sequence[Example], Sequence[Example]]:
    """What to learn from and what to measure on: generated questions, or the rows of a table, of which the last tenth, and no
    more than 480, is measured on.

    Raises:
        DataError: the table cannot be opened, or has fewer than ten rows.
    """
    if not data:
        sizes = (SAMPLES, TESTED) if limit is None else (limit - limit // 5, limit // 5)
        draw = slots.suite if scenes == "slots" else partial(synth.suite, cells=synth.BALANCED)
        train, test = (draw(n, split=split) for n, split in zip(sizes, ("train", "test"), strict=True))
        return train, test
    table = read_examples(data)
    rows = list(table)[:limit]
    tested = min(len(rows) // 10, TESTED) if limit is None else limit // 5
    if not tested:
        raise DataError(f"--data {data}: {len(rows)} rows; ten are the least, one of them to measure on")
    return _Rows(table, rows[:-tested]), _Rows(table, rows[-tested:])


def run_fit(recipe: FitRecipe, out: Path, *, data: str = "", limit: int | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Fit a method and its control, see `compress.fit.fit`. A dry run takes one step of two examples each, with the stand-in
    where the model is a large one, and leaves nothing behind.

    Raises:
        OptionError: the folder holds something else.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise OptionError(f"--out {out}: holds something else than a fitted method; name another folder")
    rehearsed = dry_run and recipe.stand_in is not None
    if rehearsed and recipe.stand_in:
        checkpoint = _stand_in(recipe.stand_in)
    else:
        checkpoint = open_checkpoint(recipe.model, device=recipe.device, dtype=recipe.dtype)
    config = recipe.config
    if rehearsed:
        parts: list[Sequence[Example]] = [synth.suite(2, split=split) for split in ("train", "test")]
    else:
        parts = list(examples(data, recipe.scenes, limit))
    if dry_run:
        parts, config = [part[:2] for part in parts], replace(config, steps=1, batch_size=2)
    train, test = (Answers(part, checkpoint) if data else list(Answers(part, checkpoint)) for part in parts)  # few and small
    asked = questions(data or "generated questions", train, test, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fit" if dry_run else out
        return fit(checkpoint.model, recipe.family, recipe.keep, asked, target, config, recipe.options)


def _stand_in(name: str) -> Checkpoint:
    from visionthink.recipes import stand_in

    return {"qwen2_5_vl": stand_in.qwen2_5_vl, "qwen3_vl": stand_in.qwen3_vl}[name]()


class _Rows(Sequence[Example]):
    """Some rows of a table, read when they are asked for."""

    def __init__(self, table: ExampleTable, names: Sequence[str]):
        self.table, self.names = table, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return _Rows(self.table, self.names[index]) if isinstance(index, slice) else self.table[self.names[index]]
