"""Compression methods by name, as in `--policy visionzip:0.25`: a family and the share of visual tokens to keep.
`sparsevlm:0.5:renumber` closes the gaps in the positions, and `learned:FOLDER` is a trained method."""

from __future__ import annotations

import os
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
"""Training-free families that can keep any share."""


def parse(name: str, model: Any = None) -> Method:
    """The method that "family:keep", "learned:FOLDER" or "learned:FOLDER:keep" stands for; torch is imported only when there is
    one.

    Args:
        model: the transformers model that a trained method is used with; without it the folder is only checked, and the method
            cannot be run.

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


def identity(name: str) -> str | None:
    """Tells a trained method from another one that has come to stand in its folder; None for methods whose name says it all.

    Raises:
        OptionError: no folder is named.
        ModelError: the folder is missing or damaged.
    """
    folder = learned_folder(name)
    if folder is None:
        return None
    from visionthink.compress import learned

    return learned.identity(folder)


def learned_folder(name: str) -> Path | None:
    """The folder of a trained method; None where it is another one."""
    family, _, place = name.partition(":")
    return _place(name, place)[0] if family == LEARNED else None


def _learned(name: str, place: str, model: Any) -> Method:
    from visionthink.compress.families import opened

    folder, share = _place(name, place)
    return cast("Method", opened(folder, model, share))


def _place(name: str, place: str) -> tuple[Path, float | None]:
    """The folder, and the share where one is named behind it."""
    folder, colon, last = place.rpartition(":")
    share = _number(last) if colon else None
    if share is None:
        folder = place
    if not folder.strip(": "):
        raise OptionError(f"compression method {name!r}: say the folder that visionthink fit wrote, as in learned:runs/fcot")
    return Path(os.path.expanduser(folder)), share


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
