"""Trained methods by name, as in `visionthink fit fcot`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from visionthink.compress.learned import Base, Learned
from visionthink.errors import OptionError

_FAMILIES: Mapping[str, tuple[str, str]] = {
    "fcot": ("mixing", "Convolution"),
    "select": ("choosing", "Selector"),
    "lis": ("choosing", "Importance"),
}
FAMILIES = tuple(_FAMILIES)


def make(family: str, base: Base, keep: float, options: Mapping[str, Any]) -> Learned:
    """A new module, as it is used: `train` sets it to training and back.

    Raises:
        OptionError: there is no such family, or it cannot be made with these settings.
    """
    if family not in _FAMILIES:
        raise OptionError(f"unknown trained method {family!r}; choose from {', '.join(FAMILIES)}")
    module, name = _FAMILIES[family]
    return cast("Learned", getattr(import_module(f"visionthink.compress.{module}"), name)(base, keep, **options).eval())


def control(family: str) -> Mapping[str, Any]:
    """Options that make the control of a family."""
    module, name = _FAMILIES[family]
    found: Mapping[str, Any] = getattr(import_module(f"visionthink.compress.{module}"), name).control
    return found
