"""Which examples can be trained on, known before a run begins.

Every row is read and its images are measured by their headers, which takes about half a millisecond a row on a local disk and
more on another one. For tables that say what they are, what was found is kept in the user's cache folder, and the next run on
the same table looks only at whether the image files are the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from visionthink import __version__
from visionthink.durable import cache_folder, replace
from visionthink.errors import DataError, InputError, StorageError
from visionthink.picture import open_pictures
from visionthink.progress import Advance, stage
from visionthink.train.processes import this_process
from visionthink.train.rollouts import EpisodeSource
from visionthink.types import reason

T = TypeVar("T")
R = TypeVar("R")
log = logging.getLogger(__name__)

_NAMED = 5
"""Examples left out that are named on the terminal; rejects.jsonl has all."""
_THREADS, _CHUNK = 8, 64
"""Threads, which wait for files together, and rows that each takes at a time."""

Stamp = tuple[str, int, int]
"""A file's path, bytes and time of its last change in ns; -1 where there is no such file."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is known of one example. Without `tokens` and `unreadable` its images are too small for the ladder."""

    tokens: int | None = None
    """Visual tokens of the full view, where there is something to decide."""
    unreadable: str = ""
    """Why it cannot be read."""
    files: tuple[Stamp, ...] = ()
    """The image files as they were."""


def usable(source: EpisodeSource, *, decoded: bool = False) -> tuple[dict[str, int], dict[str, str]]:
    """Visual tokens of the full view of every example that has something to decide, and why others cannot be read. One whose
    ladder collapses is left out, counted.

    Args:
        decoded: whether the images are decoded too, which takes longer, and finds files that end too early.

    Of the processes on a machine the first one measures and the others read what it has kept, where it can be kept.

    Raises:
        DataError: none can be trained on.
    """
    file = _cache_file(source, decoded)
    with this_process().local_main_process_first() if file else contextlib.nullcontext():
        measured = dict(zip(source.examples, _measured(source, file, decoded), strict=True))
    usable = {key: row.tokens for key, row in measured.items() if row.tokens is not None}
    unreadable = {key: row.unreadable for key, row in measured.items() if row.unreadable}
    collapsed = len(measured) - len(usable) - len(unreadable)
    for why in list(unreadable.values())[:_NAMED]:
        log.warning("%s; left out", why)
    if not usable:
        first = f"; the first: {next(iter(unreadable.values()))}" if unreadable else ""
        raise DataError(
            f"no example to train on: of {len(measured)}, {len(unreadable)} cannot be read and the images of {collapsed} "
            f"are too small for the ladder {source.menu.ladder}{first}"
        )
    if len(unreadable) > _NAMED:
        log.warning("%d examples left out in all; rejects.jsonl names them", len(unreadable))
    if collapsed:
        log.warning("%d examples left out: their images are too small for the ladder %s", collapsed, source.menu.ladder)
    return usable, unreadable


def reject_lines(unreadable: Mapping[str, str]) -> list[str]:
    """The lines of rejects.jsonl for examples that are left out, by id, with the reasons."""
    return [json.dumps({"example_id": key, "reason": why}) + "\n" for key, why in unreadable.items()]


def digest(example_ids: Sequence[str]) -> str:
    """How many examples are trained on, and which."""
    return f"{len(example_ids)} examples, {hashlib.sha256(repr(example_ids).encode()).hexdigest()[:8]}"


def _measured(source: EpisodeSource, file: Path | None, decoded: bool) -> list[Measured]:
    """What is known of every example, in order; kept in `file`."""
    keys = list(source.examples)
    kept = _read(file) if file else {}
    same = dict(zip(kept, _in_threads(_is_current, list(kept.values())), strict=True))
    left = [key for key in keys if not same.get(key)]
    with _telling(decoded, len(keys), len(keys) - len(left)) as advance:
        found = dict(zip(left, _in_threads(lambda key: _measure(source, key, decoded), left, advance), strict=True))
    if file and left:
        _write(file, kept | found)
    return [found[key] if key in found else kept[key] for key in keys]


def _measure(source: EpisodeSource, key: str, decoded: bool) -> Measured:
    files: tuple[Stamp, ...] = ()
    try:
        example = source.example(key)
        files = tuple(_stamp(image) for image in example.images if isinstance(image, (str, os.PathLike)))
        if example.answer is None:
            raise DataError(f"example {example.id}: has no answer to be rewarded for")
        space = source.space(example)
        if decoded:
            open_pictures(example, row=f"example {example.id}")
    except InputError as error:
        return Measured(unreadable=reason(source.examples, key, error), files=files)
    decides = all(levels == source.menu.ladder.levels for levels in space.levels) and (space.offers() or not source.menu.asks)
    return Measured(tokens=space.full_tokens if decides else None, files=files)


def _stamp(path: str | os.PathLike[str]) -> Stamp:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.fspath(path), -1, -1
    return os.fspath(path), found.st_size, found.st_mtime_ns


def _is_current(row: Measured) -> bool:
    return all(_stamp(stamp[0]) == stamp for stamp in row.files)


def _in_threads(work: Callable[[T], R], items: Sequence[T], advance: Callable[[int], None] = lambda more: None) -> list[R]:
    """What `work` makes of every item, in order; `advance` is told how many more are done."""
    parts, results = [items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK)], list[R]()
    pool = ThreadPoolExecutor(_THREADS)
    try:
        for part in pool.map(lambda part: [work(item) for item in part], parts):
            results += part
            advance(len(part))
    finally:
        pool.shutdown(cancel_futures=True)  # when interrupted, what is left is not done
    return results


def _telling(decoded: bool, total: int, done: int) -> contextlib.AbstractContextManager[Advance]:
    if this_process().is_main_process:
        return stage(f"{'decoding' if decoded else 'measuring'} the images of the examples", total, done=done)
    return contextlib.nullcontext(lambda more, status="": None)


# ------------------------------------------------------------------------------------------------ the cache


def _cache_file(source: EpisodeSource, decoded: bool) -> Path | None:
    """Where the rows of this table under this menu and budget are kept; None where a table does not say what it is."""
    fingerprint = getattr(source.examples, "fingerprint", "")
    if not fingerprint:
        return None
    menu = dataclasses.replace(source.menu, edits=())
    parts = (__version__, fingerprint, repr(menu), *(edit.name for edit in source.menu.edits), repr(source.budget), repr(decoded))
    return cache_folder() / "measured" / (hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32] + ".json")


def _read(file: Path) -> dict[str, Measured]:
    """What is kept; nothing where the file is missing or damaged."""
    try:
        rows = json.loads(file.read_bytes())
        return {
            key: Measured(tokens=tokens, unreadable=unreadable, files=tuple((str(p), int(s), int(t)) for p, s, t in files))
            for key, (tokens, unreadable, files) in rows.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write(file: Path, rows: Mapping[str, Measured]) -> None:
    text = json.dumps({key: (row.tokens, row.unreadable, row.files) for key, row in rows.items()})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace(file, lambda partial: partial.write_text(text, "utf-8"))
    except (OSError, StorageError) as error:
        log.warning("%s; the images are measured again at the next start", error)
