"""The fitting of a compression method: training and test data, and the run itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from visionthink.compress.fit import Questions, fit
from visionthink.compress.learned import PARTIAL, PARTS, RECORD
from visionthink.data import slots, synth
from visionthink.data.examples import ExampleTable, read_examples
from visionthink.episode import Episode, run_batch
from visionthink.errors import DataError, OptionError
from visionthink.menu import Menu
from visionthink.picture import measured, open_pictures
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.render import Renderer, views
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.recipes.fits import FitRecipe, Scenes
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.types import Example

Split = Literal["train", "test"]
FULL = Menu().full()


class Answers(Sequence[Demonstration]):
    """Demonstrations of one view, by default the full one, followed by the correct answer; each is made on access.

    Raises:
        DataError: an example has no answer.
        ImageError: the header of an image cannot be read.
    """

    def __init__(self, examples: Sequence[Example], checkpoint: Checkpoint, menu: Menu = FULL):
        for example in examples:
            if not example.answer:
                raise DataError(f"example {example.id}: has no answer to learn from")
            measured(example, row=f"example {example.id}")
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
    """Training and test data of a fit.

    Args:
        train: demonstrations to train on; a list keeps their images in memory, `Answers` makes them anew.
        test: other demonstrations to test on.
    """
    splits: Mapping[Split, Sequence[Demonstration]] = {"train": train, "test": test}
    renderer = Renderer(checkpoint.tokenizer, checkpoint.protocol.boundary)

    def batch(split: Split, numbers: Sequence[int]) -> dict[str, Tensor]:
        return collate([splits[split][i] for i in numbers], renderer, checkpoint.image_processor, padding="left")

    return Questions(name=name, train=len(train), test=len(test), batch=batch)


SAMPLES, TESTED = 1920, 480
"""Numbers of generated questions to train and to test on."""


def examples(data: str, scenes: Scenes = "families", limit: int | None = None) -> tuple[Sequence[Example], Sequence[Example]]:
    """Examples to train on and examples to test on: generated questions, or the rows of a table, of which the last tenth, but no
    more than 480 rows, is for testing.

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
    tested = min(len(rows) // 10, TESTED) if limit is None else len(rows) // 5
    if len(rows) < 10:
        raise DataError(f"--data {data}: {len(rows)} rows; ten are the least, one of them to measure on")
    return _Rows(table, rows[:-tested]), _Rows(table, rows[-tested:])


def run_fit(recipe: FitRecipe, out: Path, *, data: str = "", limit: int | None = None, dry_run: bool = False) -> dict[str, Any]:
    """Fit a method and its control, see `compress.fit.fit`. A dry run takes one step with two examples, uses the stand-in of a
    real model, and leaves no files.

    Raises:
        OptionError: the folder contains something other than a fitted method, or several GPUs are visible.
    """
    if (gpus := torch.cuda.device_count()) > 1:  # the Trainer would copy the model to each, and the hooks are on one
        raise OptionError(f"fit: trains on one GPU, and there are {gpus}; choose one with CUDA_VISIBLE_DEVICES=0")
    ours = (*PARTS, PARTIAL)
    if out.is_dir() and not (out / RECORD).is_file() and any(path.name not in ours for path in out.iterdir()):
        raise OptionError(f"--out {out}: holds something else than a fitted method; name another folder")
    stand_in = recipe.stand_in if dry_run else None
    placed = {"device": recipe.device, "dtype": recipe.dtype}
    checkpoint = _stand_in(stand_in) if stand_in else open_checkpoint(recipe.model, **placed)
    config = recipe.config
    if stand_in:
        parts: list[Sequence[Example]] = [synth.suite(2, split=split) for split in ("train", "test")]
    else:
        parts = list(examples(data, recipe.scenes, limit))
    if dry_run:
        parts, config = [part[:2] for part in parts], replace(config, steps=1, batch_size=2)
    # generated images are few and small, and stay in memory
    train, test = (Answers(part, checkpoint) if data else list(Answers(part, checkpoint)) for part in parts)
    data_set = questions(data or "generated questions", train, test, checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "fit" if dry_run else out
        return fit(checkpoint.model, recipe.family, recipe.keep, data_set, target, config, recipe.options)


def _stand_in(name: str) -> Checkpoint:
    from visionthink.recipes import stand_in

    return {"qwen2_5_vl": stand_in.qwen2_5_vl, "qwen3_vl": stand_in.qwen3_vl}[name]()


class _Rows(Sequence[Example]):
    """Some rows of a table, read on access."""

    def __init__(self, table: ExampleTable, names: Sequence[str]):
        self.table, self.names = table, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return _Rows(self.table, self.names[index]) if isinstance(index, slice) else self.table[self.names[index]]
