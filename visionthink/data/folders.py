"""Where images lie that a table names by their paths: in a folder here, or at an address that fsspec knows."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Protocol

from visionthink.errors import DataError, one_line


class Folder(Protocol):
    """What paths are relative to."""

    fingerprint: str
    """Names the folder where the files in it can be looked at again; empty where they cannot."""

    def image(self, path: str) -> Path | bytes:
        """The file of that name, or its bytes.

        Raises:
            DataError: the path leads out of the folder, or is none.
        """
        ...


def folder_at(place: Path | str) -> Folder:
    """A folder by its path or its address."""
    return AtAddress(place) if isinstance(place, str) and "://" in place else Here(Path(place))


class Here:
    """A folder of this machine. Links are followed before it is looked at where a path leads."""

    def __init__(self, root: Path):
        self._root, self._resolved = root.absolute(), root.resolve()
        self.fingerprint = str(self._root)

    def image(self, path: str) -> Path:
        _check(path)
        full = self._root / path
        try:
            inside = full.resolve().is_relative_to(self._resolved)
            full.exists()
        except (OSError, RuntimeError, ValueError):  # a name that is too long, a loop of links
            raise DataError(f"the image's path cannot be used, and it is no image in base64: {path[:60]!r}") from None
        if not inside:
            raise DataError(f"the image {path[:200]} lies outside of {self._root}")
        return full


class AtAddress:
    """A folder of an object store, or of whatever else fsspec reads. Images are read when their row is.

    Raises:
        DataError: fsspec does not know such addresses, or lacks a library for them.
    """

    fingerprint = ""

    def __init__(self, address: str):
        from fsspec.core import url_to_fs

        self._address = address
        try:
            self._files, self._root = url_to_fs(address)
        except Exception as error:  # each kind of place has errors of its own, and says which library it needs
            raise DataError(f"{address}: cannot be read ({one_line(error)})") from None

    def image(self, path: str) -> bytes:
        _check(path)
        clean = posixpath.normpath(path)
        if clean.startswith(("/", "../")) or clean in ("..", "."):
            raise DataError(f"the image {path[:200]} lies outside of {self._address}")
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{clean}")
        except FileNotFoundError:
            raise DataError(f"{self._address}/{clean}: no such file") from None
        except Exception as error:  # of the library that reads this kind of place
            raise DataError(f"{self._address}/{clean}: cannot be read ({one_line(error)})") from None
        return content


def _check(path: str) -> None:
    if "://" in path:
        raise DataError(f"the image is an address; files are read, addresses are not: {path[:60]!r}")
    if "\0" in path:
        raise DataError("the image's path holds a zero byte")
