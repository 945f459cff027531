"""Files that survive a kill: one writer at a time, whole lines, replaced at once."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from visionthink import records
from visionthink.errors import DataError, OptionError, StorageError, one_line


def cache_folder() -> Path:
    """Where a user's programs keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visionthink"


@contextlib.contextmanager
def lines_of_one(path: Path, *, what: str) -> Iterator[IO[bytes]]:
    """A file of lines to append to that no other process appends to; a torn last line is cut off first.

    Raises:
        StorageError: another process holds it, and `what` says what it is busy with; or the file system knows no locks, without
            which two processes could not be kept apart.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"{path}: another process works on this {what}") from None
        except OSError as error:
            why = f"its file system cannot lock files ({error.strerror})"
            raise StorageError(f"{path}: {why}; name a folder on another one, or mount it with locks") from None
        file.truncate(_whole_lines(file))
        yield file


def _whole_lines(file: IO[bytes]) -> int:
    """Bytes up to the end of the last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(0, end - 65536)
        file.seek(begin)
        if newline := file.read(end - begin).rfind(b"\n") + 1:
            return begin + newline
        end = begin
    return 0


def append_lines(file: IO[bytes], *lines: Mapping[str, Any]) -> None:
    """Records, one a line, written down when this returns.

    Raises:
        StorageError: the disk is full, or the like.
    """
    left = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    try:
        while left:  # past the file's buffer, which would be tried again when the file is closed
            left = left[os.write(file.fileno(), left) :]
        os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{file.name}: cannot be written ({error.strerror}); what is finished is kept") from None


def whole_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and record of each line; one that is being written, or was cut off, is left out.

    Raises:
        DataError: a line is no JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = records.parse(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
            yield number, record


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside `path` and move it there: readers see the old one or the new one.

    Raises:
        StorageError: the disk is full, or the like.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None


def replace_text(path: Path, text: str) -> None:
    """Replace a file by text, as `replace` does; halves of UTF-16 pairs, which cannot be written, are escaped."""
    replace(path, lambda partial: partial.write_text(text, "utf-8", "backslashreplace"))


def replace_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file by an object as JSON, indented so that people can read it too."""
    replace_text(path, json.dumps(dict(record), indent=1) + "\n")


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` when the block ends; an exception leaves that as it was.

    Raises:
        StorageError: it cannot be written; what was there is kept.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # safetensors writes for its owner alone
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except Exception as error:  # torch and safetensors report a full disk each in their own way
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(f"{folder}: cannot be written ({one_line(error)})") from error


def check_writable(out: Path) -> None:
    """What is to be written into a folder in the end is refused before anything is computed; nothing is left there.

    Raises:
        OptionError: the folder cannot be written to.
    """
    nearest = next(p for p in (out, *out.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):  # permissions do not tell: nobody can write to /proc
            pass
    except OSError:
        raise OptionError(f"--out {out}: {nearest} is not a folder that can be written to") from None


def stored_settings(out: Path) -> dict[str, Any] | None:
    """The settings of a run as its folder holds them; None where it holds none.

    Raises:
        OptionError: its file is damaged.
    """
    try:
        return records.parse((out / "config.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise OptionError(f"--out {out}: config.json is damaged") from None


def different_settings(out: Path, settings: Mapping[str, Any]) -> list[str]:
    """The names of the settings that differ from those of the run that the folder holds; none where it holds no run."""
    before = stored_settings(out)
    if before is None:
        return []
    return [name for name in dict.fromkeys([*settings, *before]) if before.get(name) != settings.get(name)]


def another_setting(out: Path, name: str, settings: Mapping[str, Any]) -> OptionError:
    """What says that a setting differs from that of the run that the folder holds."""
    before = (stored_settings(out) or {}).get(name)
    return OptionError(f"--out {out}: {name} was {before!r} there and is {settings.get(name)!r} now; use another folder")


def same_settings(out: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run down, or compare them with those that are.

    Raises:
        OptionError: one differs.
    """
    for name in different_settings(out, settings):
        raise another_setting(out, name, settings)
    if stored_settings(out) is None:
        out.mkdir(parents=True, exist_ok=True)
        replace_json(out / "config.json", settings)
