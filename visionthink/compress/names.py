"""Methods by name, as in `--policy visionzip:0.25`: a family and the share of visual tokens to keep; `sparsevlm:0.5:renumber`
closes the gaps in their positions, and `learned:FOLDER` is a method that was trained."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from visionthink.errors import OptionError, choose_from

if TYPE_CHECKING:
    from visionthink.compress.selection import Method

LEARNED = "learned"

_FAMILIES: dict[str, tuple[str, str, dict[str, str]]] = {
    "fastv": ("fastv", "FastV", {}),
    "visionzip": ("visionzip", "VisionZip", {}),
    "sparsevlm": ("sparsevlm", "SparseVLM", {}),
    "sparsevlm+": ("sparsevlm", "SparseVLM", {"version": "plus"}),
    "todre": ("todre", "ToDRE", {}),
    "visiondrop": ("visiondrop", "VisionDrop", {}),
    "drop-random": ("baselines", "Random", {}),
    "drop-uniform": ("baselines", "Uniform", {}),
    "pool": ("baselines", "Pool", {}),
}
NAMES = tuple(name for name in _FAMILIES if name != "pool")
"""Families that leave any share, and need no training."""


def parse(name: str, model: Any = None) -> Method:
    """The method that "family:keep", "learned:FOLDER" or "learned:FOLDER:keep" stands for; torch is imported only when there is
    one.

    Args:
        model: that a trained method is for, of transformers; without it such a method is looked at, and cannot be used.

    Raises:
        OptionError: there is no such method, or it cannot keep this share.
        ModelError: the folder of a trained method is missing or damaged.
        CompressionError: it was fitted to another model.
    """
    family, _, keep = name.partition(":")
    if family == LEARNED:
        return _learned(name, keep, model)
    keep, colon, positions = keep.partition(":")
    if family not in _FAMILIES:
        raise OptionError(f"unknown compression method {family!r}; {choose_from(family, _FAMILIES)}, learned")
    try:
        share = float(keep)
    except ValueError:
        raise OptionError(f"compression method {name!r}: say the share of visual tokens to keep, as in {family}:0.5") from None
    module, method, options = _FAMILIES[family]
    options = options | ({"positions": positions} if colon else {})
    made = getattr(import_module(f"visionthink.compress.{module}"), method)(keep=share, **options)
    return cast("Method", made)


def _learned(name: str, place: str, model: Any) -> Method:
    from visionthink.compress.families import make, opened
    from visionthink.compress.learned import describe

    folder, colon, last = place.rpartition(":")
    share = _number(last) if colon else None
    path = Path(place if share is None else folder).expanduser()
    if not str(path) or place in ("", ":"):
        raise OptionError(f"compression method {name!r}: say the folder that visionthink fit wrote, as in learned:runs/fcot")
    if model is not None:
        return cast("Method", opened(path, model, share))
    saved = describe(path)
    return cast("Method", make(saved.family, saved.base, saved.keep if share is None else share, saved.options))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
