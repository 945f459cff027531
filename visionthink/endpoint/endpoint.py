"""Where a model is served, and how much may be asked of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from visionthink.errors import OptionError


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served, and how much may be asked of it.

    `key_env` names the environment variable that holds the key; "" sends none. `key_header` is `api-key` on Azure, whose URLs
    also need `query = {"api-version": ...}`. Seconds throughout.
    """

    url: str
    _: KW_ONLY
    model: str = ""
    """Empty: the only one the endpoint serves."""
    key_env: str = ""
    key_header: str = "Authorization"
    query: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 16
    """Requests at once, of each process that asks."""
    requests_per_minute: float = 0
    """0: no limit."""
    timeout: float = 60
    deadline: float = 180

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"endpoint {self.url!r}: not an http address")
        if parts.username or parts.password:
            raise OptionError(
                "endpoint: its url holds a password; put the key into an environment variable and name it in key_env"
            )
        for name in ("concurrency", "timeout", "deadline"):
            if not 0 < getattr(self, name) < 1e6:
                raise OptionError(f"endpoint {self.url}: {name} {getattr(self, name)}: must be above 0")
        if self.requests_per_minute < 0:
            raise OptionError(f"endpoint {self.url}: requests_per_minute {self.requests_per_minute}: must be at least 0")
        if self.key_env and not os.environ.get(self.key_env):
            raise OptionError(f"endpoint {self.url}: the environment variable {self.key_env} is not set")

    def address(self, path: str) -> str:
        """The address of one of its services; a query in the address stays behind it."""
        parts = urlsplit(self.url)
        before = parts.path.rstrip("/").removesuffix("/chat/completions")
        return parts._replace(path=before + path, fragment="").geturl()

    @property
    def proxy(self) -> str | None:
        """The proxy that the environment names for this address, with `http_proxy` or `https_proxy` and not `no_proxy`."""
        parts = urlsplit(self.url)
        return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)

    @property
    def headers(self) -> dict[str, str]:
        if not self.key_env:
            return {}
        key = os.environ[self.key_env]
        return {self.key_header: f"Bearer {key}" if self.key_header == "Authorization" else key}
