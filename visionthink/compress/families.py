"""The trained methods by name, as in `visionthink fit fcot`: new ones, and fitted ones from their folders."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionthink import records
from visionthink.compress.choosing import Importance, Selector
from visionthink.compress.fit_config import Objective
from visionthink.compress.learned import ADAPTER, RECORD, WEIGHTS, Base, Learned, Saved, describe
from visionthink.compress.mixing import Convolution
from visionthink.compress.parts import weights_in
from visionthink.compress.quecc import QueCC
from visionthink.compress.selection import check_share
from visionthink.compress.setok import SeTok
from visionthink.compress.within import MixtureOfDepths, Remember
from visionthink.errors import CompressionError, ModelError, OptionError, one_line

FAMILIES: Mapping[str, type[Learned]] = {
    kind.family: kind for kind in (Convolution, QueCC, SeTok, Remember, Selector, Importance, MixtureOfDepths)
}


def check_objective(family: str, objective: Objective) -> None:
    """
    Raises:
        OptionError: the objective is a reconstruction, and the method has none.
    """
    if objective == "reconstruct" and not FAMILIES[family].reconstructs:
        raise OptionError(f"--objective reconstruct: {family} reconstructs nothing; choose answers or distill")


def make(family: str, base: Base, keep: float, options: Mapping[str, Any]) -> Learned:
    """A new, untrained module in evaluation mode.

    Raises:
        OptionError: there is no such family, or it refuses these settings.
    """
    if family not in FAMILIES:
        raise OptionError(f"unknown trained method {family!r}; choose from {', '.join(FAMILIES)}")
    return FAMILIES[family](base, keep, **options).eval()


def opened(folder: Path, model: Any, keep: float | None = None) -> Learned:
    """A fitted module, for the model that it was fitted to.

    Args:
        model: None gives the module without its weights, to be looked at.
        keep: another share than the one it was fitted with.

    Raises:
        ModelError: the folder is missing or damaged.
        CompressionError: the module was fitted to another model.
        OptionError: the module cannot leave this share.
    """
    saved = describe(folder)
    here = saved.base if model is None else Base.of(model)
    if saved.base != here:
        raise CompressionError(f"{folder}: was fitted to another model ({_difference(saved.base, here)}); fit it to this one")
    try:
        module = make(saved.family, here, saved.keep, _options(saved))
    except Exception as error:  # torch raises its own where a size is none
        raise ModelError(f"{folder / RECORD}: damaged ({one_line(error)})") from None
    if keep is not None and keep != saved.keep:
        if not module.any_share:
            raise OptionError(f"learned:{folder}: {saved.family} leaves the share that it was fitted with, {saved.keep:g}")
        check_share(saved.family, "keep", keep)
        module.keep = keep
    if model is None:
        return module
    try:
        module.load_state_dict(weights_in(folder / WEIGHTS))
    except RuntimeError as error:
        raise ModelError(f"{folder / WEIGHTS}: damaged ({one_line(error)})") from None
    if (adapter := module.adapt(model).adapter) is not None:
        adapter.load(folder / ADAPTER)
    return module.to(model.device).requires_grad_(False)


def _options(saved: Saved) -> Mapping[str, Any]:
    """The options of a fitted module, each of the type that its family declares.

    Raises:
        ValueError: one is of another type, or the family has no such option.
    """
    if saved.family not in FAMILIES:  # which `make` refuses
        return saved.options
    kind, common = FAMILIES[saved.family], inspect.signature(Learned).parameters
    own = [name for name in inspect.signature(kind).parameters if name not in common]
    return records.read_arguments(kind.__init__, own, saved.options, "options")


def _difference(there: Base, here: Base) -> str:
    names = [name for name in Base.__dataclass_fields__ if getattr(there, name) != getattr(here, name)]
    if names == ["merger"]:
        return "of the same architecture, with other weights"
    return ", ".join(f"{name} {getattr(there, name)}, here {getattr(here, name)}" for name in names if name != "merger")
