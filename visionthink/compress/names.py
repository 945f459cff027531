"""Methods by name, as in `--policy visionzip:0.25`: a family and the share of visual tokens to keep; `sparsevlm:0.5:renumber`
closes the gaps in their positions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from visionthink.errors import OptionError

if TYPE_CHECKING:
    from visionthink.compress.selection import Method

_FAMILIES: dict[str, tuple[str, str, dict[str, str]]] = {
    "fastv": ("fastv", "FastV", {}),
    "visionzip": ("visionzip", "VisionZip", {}),
    "sparsevlm": ("sparsevlm", "SparseVLM", {}),
    "sparsevlm+": ("sparsevlm", "SparseVLM", {"version": "plus"}),
    "todre": ("todre", "ToDRE", {}),
    "visiondrop": ("visiondrop", "VisionDrop", {}),
    "drop-random": ("baselines", "Random", {}),
    "drop-uniform": ("baselines", "Uniform", {}),
}
NAMES = tuple(_FAMILIES)


def parse(name: str) -> Method:
    """The method that "family:keep" stands for; torch is imported only when there is one."""
    family, _, keep = name.partition(":")
    keep, colon, positions = keep.partition(":")
    if family not in _FAMILIES:
        raise OptionError(f"unknown compression method {family!r}; choose from {', '.join(NAMES)}")
    try:
        share = float(keep)
    except ValueError:
        raise OptionError(f"compression method {name!r}: say the share of visual tokens to keep, as in {family}:0.5") from None
    module, method, options = _FAMILIES[family]
    options = options | ({"positions": positions} if colon else {})
    made = getattr(import_module(f"visionthink.compress.{module}"), method)(keep=share, **options)
    return cast("Method", made)
