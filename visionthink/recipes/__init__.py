"""Runs with a name: each recipe says its hardware, time, expected result and command, and returns what to train on what;
suites likewise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from visionthink.data import places, synth
from visionthink.errors import OptionError, choose_from
from visionthink.recipes import looking, qwen
from visionthink.recipes.recipe import Recipe
from visionthink.recipes.tiny import tiny
from visionthink.recipes.tiny_look import tiny_look
from visionthink.types import Example

RECIPES: dict[str, Callable[[], Recipe]] = {
    build.__name__: build
    for build in (
        tiny,
        tiny_look,
        qwen.smart_7b,
        qwen.general_7b,
        qwen.smart_7b_lora,
        qwen.smart_3b_lora,
        qwen.smart_qwen3_8b,
        qwen.smart_qwen3_4b_lora,
        looking.look_7b,
        looking.look_7b_lora,
        looking.look_qwen3_8b,
        looking.box_7b,
        looking.box_7b_lora,
        looking.box_qwen3_8b,
        looking.budget_7b,
        looking.budget_7b_lora,
        looking.budget_qwen3_8b,
    )
}


def recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        OptionError: no such recipe.
    """
    if name not in RECIPES:
        raise OptionError(f"unknown recipe {name!r}; {choose_from(name, RECIPES)}")
    return RECIPES[name]()


MINI_SIZE = 600
SUITES: tuple[str, ...] = ("mini", *places.named_suites())
"""Names of the generated suites."""


def is_generated(name: str) -> bool:
    """Whether a name is that of a suite and not of a table: a known one (a folder of that name is `./mini`), or any other bare
    word that is no file or folder here, and so is misspelled."""
    return name in SUITES or ("/" not in name and not Path(name).exists() and not Path(name).suffix)


def suite(name: str, limit: int | None = None) -> list[Example]:
    """The generated suite of a name: 600 questions unseen in training. `mini` has 100 of each family of `data.synth`; for the
    others see `data.places.named_suites`.

    Raises:
        OptionError: no such suite, or a limit below 1.
    """
    if name not in SUITES:
        raise OptionError(f"unknown suite {name!r}; {choose_from(name, SUITES)}, or a file of examples")
    if limit is not None and limit < 1:
        raise OptionError(f"--limit {limit}: must be at least 1")
    n = min(limit or MINI_SIZE, MINI_SIZE)
    if name == "mini":
        return synth.suite(n)
    cells, side = places.named_suites()[name]
    return places.suite(n, cells=cells, side=side)
