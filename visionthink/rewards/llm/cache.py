"""Verdicts on disk, so that no question is paid for twice. SQLite in WAL mode: several processes may share a file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from visionthink.durable import cache_folder
from visionthink.errors import StorageError

_AT_ONCE = 500
"""Keys per query; SQLite takes 999 parameters at least."""


def default_cache() -> Path:
    """Where judgements are kept unless a judge says otherwise."""
    return cache_folder() / "judgements.sqlite"


@dataclass(frozen=True)
class Judgement:
    """A verdict that was given, and the reply it was read from."""

    correct: bool
    reply: str


class VerdictCache:
    """Judgements by key. Written at once: what was answered before a crash is not asked again.

    Raises:
        StorageError: the file is no such cache, or cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # one statement at a time, from whichever thread judges
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS judgements"
                " (key TEXT PRIMARY KEY, correct INTEGER NOT NULL, reply TEXT NOT NULL, judge TEXT NOT NULL, at REAL NOT NULL)"
            )
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{path}: cannot be used as a cache of judgements ({error})") from None

    def get(self, keys: Iterable[str]) -> dict[str, Judgement]:
        """Those that are known."""
        wanted, found = list(keys), dict[str, Judgement]()
        try:
            for begin in range(0, len(wanted), _AT_ONCE):
                part = wanted[begin : begin + _AT_ONCE]
                places = ",".join("?" * len(part))
                rows = self._db.execute(f"SELECT key, correct, reply FROM judgements WHERE key IN ({places})", part)
                found |= {key: Judgement(bool(correct), reply) for key, correct, reply in rows}
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: cannot be read ({error}); delete it to begin anew") from None
        return found

    def put(self, key: str, judgement: Judgement, judge: str) -> None:
        row = (key, int(judgement.correct), judgement.reply, judge, time.time())
        try:
            self._db.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: a judgement cannot be written ({error}); earlier ones are kept") from None
