"""Records of JSON with one place changed."""

from __future__ import annotations

import copy
from typing import Any

Place = tuple[str | int, ...]


def places(record: Any, path: Place = ()) -> list[Place]:
    """Paths to everything inside of a record."""
    inside = record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ()
    return [place for key, part in inside for place in ((*path, key), *places(part, (*path, key)))]


def copied_at(record: Any, place: Place) -> tuple[Any, Any, str | int]:
    """A copy of a record, the object or list in the copy that holds the place, and its key there."""
    copied = parent = copy.deepcopy(record)
    *way, last = place
    for key in way:
        parent = parent[key]
    return copied, parent, last
