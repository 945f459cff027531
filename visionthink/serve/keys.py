"""Keys of the gateway: who may ask, and under which name.

A file has a key a line, `NAME sha256:HEX`. It holds digests alone: keys are long and random, so nobody finds them from these.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from visionthink.addresses import is_loopback
from visionthink.errors import OptionError
from visionthink.serve.errors import ApiError
from visionthink.serve.refusals import header, refuse

log = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})\s+sha256:(?P<digest>[0-9a-fA-F]{64})")
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9.-]+))(?::\d{1,5})?", re.IGNORECASE | re.ASCII)
_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,512})", re.IGNORECASE)


@dataclass(frozen=True)
class Keys:
    """Names of keys and the SHA-256 digests of the keys."""

    digests: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Keys:
        """The keys of a file. Empty lines and lines that begin with # are skipped.

        Raises:
            OptionError: the file cannot be read, holds no key, or has a line that is no key; the message names it.
        """
        file = Path(path)
        try:
            lines = file.read_text("utf-8").splitlines()
            mode = file.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise OptionError(f"{path}: the file of keys cannot be read ({said})") from None
        if mode & 0o006:
            log.warning("%s: the file of keys can be read or changed by every user of this machine; chmod 600 it", path)
        digests: dict[str, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            found = _LINE.fullmatch(line.strip())
            if found is None:  # the line is not shown: it may be a key
                raise OptionError(
                    f"{path}, line {number}: not NAME sha256:HEX, with 64 digits (visionthink serve --new-key NAME)"
                )
            digest = bytes.fromhex(found["digest"])
            if found["name"] in digests or digest in digests.values():
                raise OptionError(f"{path}, line {number}: the name or the key is in the file twice")
            digests[found["name"]] = digest
        if not digests:
            raise OptionError(f"{path}: holds no key (visionthink serve --new-key NAME makes one)")
        return cls(digests)

    def holder(self, authorization: str | None) -> str | None:
        """The name of the key in an `Authorization` header; None where it is no key of ours.

        The digest is compared with all, whichever is the right one, so that the time tells nothing of them.
        """
        sent = _BEARER.fullmatch(authorization.strip()) if authorization else None
        if sent is None:
            return None
        digest = hashlib.sha256(sent[1].encode("ascii")).digest()
        holder = None
        for name, known in self.digests.items():
            if hmac.compare_digest(digest, known):
                holder = name
        return holder


def new_key(name: str) -> tuple[str, str]:
    """A new key, and the line for the file of keys.

    Raises:
        OptionError: the name cannot stand in the file.
    """
    key = f"vt-{secrets.token_urlsafe(32)}"
    line = f"{name} sha256:{hashlib.sha256(key.encode('ascii')).hexdigest()}"
    if not _LINE.fullmatch(line):
        raise OptionError(f"name of a key {name!r}: must be up to 64 letters, digits, dots, dashes or underscores")
    return key, line


class RequireKey:
    """Lets nothing pass without a key but what reads the paths that are open. `scope["state"]["key"]` is the key's name, or None.

    A server without keys is for this machine alone: it answers only where it is called by a name of this machine, since a page of
    any site may let its own name point here.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys | None, open_paths: Collection[str] = ("/health", "/ready")):
        self.app, self.keys, self.open_paths = app, keys, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        holder = None
        if self.keys is None:
            host = _HOST.fullmatch(header(scope, b"host") or "")
            if host is None or not is_loopback(host["ipv6"] or host["name"]):
                local = "this server has no keys and answers only as localhost or 127.0.0.1; start it with --api-key-file"
                await refuse(ApiError(403, local, code="host_not_allowed"), receive, send)
                return
        elif scope["path"] not in self.open_paths or scope["method"] not in ("GET", "HEAD"):
            holder = self.keys.holder(header(scope, b"authorization"))
            if holder is None:
                error = ApiError(
                    401,
                    "no valid API key; send it as Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refuse(error, receive, send)
                return
        scope.setdefault("state", {})["key"] = holder
        await self.app(scope, receive, send)
