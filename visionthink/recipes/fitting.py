"""The fitting of a compression method: training and test data, and the run itself."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from visionthink.compress.families import check_objective, make
from visionthink.compress.fit import Questions, fit
from visionthink.compress.learned import CHECKPOINTS, Base
from visionthink.data import slots, synth
from visionthink.data.examples import read_examples
from visionthink.durable import lines_of_one
from visionthink.episode import Episode, run_batch
from visionthink.errors import DataError, OptionError
from visionthink.menu import Menu
from visionthink.picture import open_pictures
from visionthink.policies.checkpoint import Checkpoint, open_checkpoint
from visionthink.policies.render import Renderer, views
from visionthink.policies.scripted import ScriptedPolicy
from visionthink.recipes.fit_folder import begin, check_folder, check_same_fit
from visionthink.recipes.fits import FitRecipe, Scenes
from visionthink.train.demonstrations import Demonstration, collate
from visionthink.train.rollouts import EpisodeSource
from visionthink.train.usable import digest, usable
from visionthink.types import Example

Split = Literal["train", "test"]
FULL = Menu().full()


class Answers(Sequence[Demonstration]):
    """Demonstrations of one view, by default the full one, followed by the correct answer; each is made on access.

    Raises, when one is:
        ImageError: an image cannot be opened.
    """

    def __init__(self, examples: Sequence[Example], checkpoint: Checkpoint, menu: Menu = FULL):
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
LEAST = 10
"""The fewest rows of a table."""


def generated(scenes: Scenes = "families", limit: int | None = None) -> tuple[Sequence[Example], Sequence[Example]]:
    """Generated questions to train on, and others to test on."""
    sizes = (SAMPLES, TESTED) if limit is None else (limit - limit // 5, limit // 5)
    draw = slots.suite if scenes == "slots" else partial(synth.suite, cells=synth.BALANCED)
    train, test = (draw(n, split=split) for n, split in zip(sizes, ("train", "test"), strict=True))
    return train, test


def opened(data: str, limit: int | None = None) -> Mapping[str, Example]:
    """The first rows of a table, or all.

    Raises:
        DataError: the table cannot be opened, or has fewer than ten rows.
    """
    table = read_examples(data)
    if len(table) < LEAST:
        raise DataError(f"--data {data}: {len(table)} rows; ten are the least, one of them to measure on")
    return table if limit is None else table.first(limit)


def divided(
    data: str, rows: Mapping[str, Example], checkpoint: Checkpoint, limit: int | None = None
) -> tuple[tuple[Sequence[Example], Sequence[Example]], Mapping[str, str]]:
    """Rows of a table to train on and rows to test on: the last tenth, but no more than 480, or with a limit the last fifth. Rows
    that cannot be used are left out; beside the others stands why.

    Raises:
        DataError: fewer than ten rows can be used.
    """
    source = EpisodeSource(examples=rows, menu=FULL, protocol=checkpoint.protocol, budget=checkpoint.budget)
    found, unreadable = usable(source, decoded=True)
    if len(found) < LEAST:
        raise DataError(
            f"--data {data}: {len(found)} of {len(rows)} rows can be used; ten are the least, one of them to measure on"
        )
    keys = list(found)
    tested = min(len(keys) // 10, TESTED) if limit is None else len(keys) // 5
    return (_Rows(rows, keys[:-tested]), _Rows(rows, keys[-tested:])), unreadable


def run_fit(
    recipe: FitRecipe, out: Path, *, data: str = "", limit: int | None = None, dry_run: bool = False, resume: bool = False
) -> dict[str, Any]:
    """Fit a method and its control, see `compress.fit.fit`. A dry run takes one step with two examples, uses the stand-in of a
    real model, and leaves no files.

    Raises:
        OptionError: the folder contains something other than a fitted method, or a fit that was interrupted and is not to be
            resumed; there is none to resume, or one with other settings; or several GPUs are visible.
        DataError: the table cannot be opened, or fewer than ten of its rows can be used.
    """
    settings = _settings(recipe, data, limit)
    if (gpus := torch.cuda.device_count()) > 1:  # the Trainer would copy the model to each, and the hooks are on one
        raise OptionError(f"fit: trains on one GPU, and there are {gpus}; choose one with CUDA_VISIBLE_DEVICES=0")
    check_folder(out, resume=resume)
    if resume and not dry_run:
        check_same_fit(out, settings)
    check_objective(recipe.family, recipe.config.objective)
    rows = opened(data, limit) if data else {}
    stand_in = recipe.stand_in if dry_run else None
    placed = {"device": recipe.device, "dtype": recipe.dtype}
    checkpoint = _stand_in(stand_in) if stand_in else open_checkpoint(recipe.model, **placed)
    base = Base.of(checkpoint.model)
    make(recipe.family, base, recipe.keep, recipe.options)  # what cannot be made is refused before questions are drawn
    unreadable: Mapping[str, str] = {}
    if stand_in:
        parts: Sequence[Sequence[Example]] = [synth.suite(2, split=split) for split in ("train", "test")]
    elif data:
        parts, unreadable = divided(data, rows, checkpoint, limit)
    else:
        parts = generated(recipe.scenes, limit)
    if dry_run:
        parts, recipe = [part[:2] for part in parts], replace(recipe, config=replace(recipe.config, steps=1, batch_size=2))
    # generated images are few and small, and stay in memory
    train, test = (Answers(part, checkpoint) if data else list(Answers(part, checkpoint)) for part in parts)
    data_set = questions(data or "generated questions", train, test, checkpoint)

    def fitted(folder: Path) -> dict[str, Any]:
        return fit(checkpoint.model, recipe.family, recipe.keep, data_set, folder, recipe.config, recipe.options)

    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            return fitted(Path(folder) / "fit")
    ids = [example.id for part in parts for example in part]
    settings |= {"examples": digest(ids), "table": getattr(rows, "fingerprint", ""), "merger": base.merger}
    if resume:
        check_same_fit(out, settings)
    with lines_of_one(out / CHECKPOINTS / ".lock", what="fit"):
        check_folder(out, resume=resume)  # another fit may have been there while this one was loading
        begin(out, settings, unreadable)
        return fitted(out)


def _settings(recipe: FitRecipe, data: str, limit: int | None) -> dict[str, Any]:
    """What a fit that goes on has to have begun with."""
    settings = asdict(recipe)
    del settings["stand_in"]
    return settings | settings.pop("config") | {"data": data, "limit": limit}


def _stand_in(name: str) -> Checkpoint:
    from visionthink.recipes import stand_in

    return {"qwen2_5_vl": stand_in.qwen2_5_vl, "qwen3_vl": stand_in.qwen3_vl}[name]()


class _Rows(Sequence[Example]):
    """Some rows of a table, read on access."""

    def __init__(self, table: Mapping[str, Example], names: Sequence[str]):
        self.table, self.names = table, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return _Rows(self.table, self.names[index]) if isinstance(index, slice) else self.table[self.names[index]]
