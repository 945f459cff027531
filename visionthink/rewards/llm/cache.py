"""Verdicts on disk, so that no question is paid for twice.

Several processes of a machine may share a file, which is SQLite's in WAL mode. That mode keeps an index in memory that the
processes share, which those of two machines cannot: on a file system of the network each machine has a file of its own.
"""

from __future__ import annotations

import platform
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from visionthink.durable import cache_folder
from visionthink.errors import StorageError

_AT_ONCE = 500
"""Keys per query; SQLite takes 999 parameters at least."""


_MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset(
    "9p afs beegfs ceph cifs fuse.ceph fuse.gcsfuse fuse.glusterfs fuse.juicefs fuse.s3fs fuse.sshfs glusterfs gpfs lustre ncpfs "
    "nfs nfs4 ocfs2 panfs pvfs2 smb3 smbfs wekafs".split()
)
"""Types of file systems that several machines see, as Linux names them."""


def default_cache() -> Path:
    """Where judgements are kept unless a judge says otherwise."""
    return cache_folder() / "judgements.sqlite"


def shared_by_machines(path: Path) -> bool:
    """Whether a path lies on a file system of the network, as far as the system says."""
    try:
        mounts = [line.split(" ") for line in _MOUNTS.read_text("utf-8", "replace").splitlines()]
    except OSError:
        return False
    # a later mount hides an earlier one; blanks in paths are written as \040
    kinds = {Path(mount[1].replace("\\040", " ")): mount[2] for mount in mounts if len(mount) > 2}
    whole = path.resolve()
    return next((kinds[place] for place in (whole, *whole.parents) if place in kinds), "") in _NETWORK


@dataclass(frozen=True)
class Judgement:
    """A verdict that was given, and the reply it was read from."""

    correct: bool
    reply: str


class VerdictCache:
    """Judgements by key. Written at once: what was answered before a crash is not asked again.

    On a file system of the network, the name of this machine becomes a part of the file's.

    Raises:
        StorageError: the file is no such cache, or cannot be written.
    """

    def __init__(self, path: Path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shared = shared_by_machines(path)
            self.path = path = path.with_name(f"{path.stem}.{platform.node()}{path.suffix}") if shared else path
            # one statement at a time, from whichever thread judges
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute(f"PRAGMA journal_mode={'TRUNCATE' if shared else 'WAL'}")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS judgements"
                " (key TEXT PRIMARY KEY, correct INTEGER NOT NULL, reply TEXT NOT NULL, judge TEXT NOT NULL, at REAL NOT NULL)"
            )
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"{path}: cannot be used as a cache of judgements ({error}); name another one as cache in the judge's .toml file"
            ) from None

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
