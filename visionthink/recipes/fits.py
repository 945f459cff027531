"""Recipes for the training of compression methods, by name: for the embedded model, and for real models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from visionthink.compress.fit_config import FitConfig
from visionthink.errors import OptionError, choose_from
from visionthink.policies.placement import AUTO, check_placement

StandIn = Literal["qwen2_5_vl", "qwen3_vl"]
Scenes = Literal["families", "slots"]
"""Generated questions: of all families (`data.synth`), or about scenes of four shapes (`data.slots`)."""


@dataclass(frozen=True, kw_only=True)
class FitRecipe:
    """A method, the model that it is trained for, and the settings of the training.

    The recipes for real models have never been run on their models, see docs/how-to/learned-compression.md.
    """

    family: str
    keep: float
    model: str = "tiny"
    device: str = AUTO
    dtype: str = AUTO
    config: FitConfig = field(default_factory=FitConfig)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the method."""
    scenes: Scenes = "families"
    """Generated questions to use if no table of examples is given."""
    stand_in: StandIn | None = None
    """A small random model of the same architecture, which a dry run uses instead of `model`."""

    def __post_init__(self) -> None:
        check_placement(self.device, self.dtype)


_REAL: Mapping[str, tuple[str, StandIn]] = {
    "3b": ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl"),
    "7b": ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
    "qwen3_8b": ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
}
_TINY: Mapping[str, FitRecipe] = {
    "fcot": FitRecipe(family="fcot", keep=0.25),
    "quecc": FitRecipe(family="quecc", keep=1 / 16, scenes="slots", config=FitConfig(steps=1000, learning_rate=5e-4)),
    "setok": FitRecipe(family="setok", keep=0.45, config=FitConfig(steps=300)),
    "remember": FitRecipe(family="remember", keep=0.25, config=FitConfig(steps=350)),
    "mod": FitRecipe(family="mod", keep=0.25, config=FitConfig(steps=400)),
    "select": FitRecipe(family="select", keep=0.5, config=FitConfig(objective="reconstruct")),
    "lis": FitRecipe(family="lis", keep=0.5, config=FitConfig(steps=300)),
}
_CONFIGS: Mapping[str, FitConfig] = {
    "fcot": FitConfig(objective="distill", steps=1600, batch_size=64, learning_rate=1e-4),
    "quecc": FitConfig(steps=3200, batch_size=64, learning_rate=1e-4),
    "setok": FitConfig(steps=1600, batch_size=64, learning_rate=1e-4),
    "remember": FitConfig(steps=1600, batch_size=64, learning_rate=1e-4),
    "mod": FitConfig(steps=4700, batch_size=64, learning_rate=1e-4),
    "select": FitConfig(objective="reconstruct", steps=800, batch_size=128, learning_rate=1e-3),
    "lis": FitConfig(steps=560, batch_size=256, learning_rate=5e-5),
}
"""Settings for real models, by family."""
FITS: Mapping[str, FitRecipe] = {
    **_TINY,
    **{
        f"{family}_{size}": replace(_TINY[family], model=model, config=config, stand_in=stand_in)
        for family, config in _CONFIGS.items()
        for size, (model, stand_in) in _REAL.items()
    },
}


def fit_recipe(name: str) -> FitRecipe:
    """The recipe of a name.

    Raises:
        OptionError: there is no such recipe.
    """
    if name not in FITS:
        raise OptionError(f"unknown method {name!r}; {choose_from(name, FITS)}")
    return FITS[name]
