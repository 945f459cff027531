"""Images at addresses, fetched from a list of hosts only.

Whoever asks for an address makes this server connect to it, from inside a network that others cannot enter. So a host has to be
on the list, every address that its name has must be public, and the connection goes to what was checked: the name is asked for
once. Redirects, proxies, cookies and passwords are not followed, used or sent. Addresses are in no message and no log.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from visionthink.errors import ImageError, OptionError

try:
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult
    from yarl import URL
except ModuleNotFoundError as missing:
    raise OptionError(f"fetching images needs {missing.name}: pip install 'visionthink[serve]'") from None

_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[^\x00-\x20\x7f/?#@:\\\[\]%]{1,253})(?::(?P<port>\d{1,5}))?"
    r"(?P<rest>(?:[/?][^\x00-\x20\x7f#\\]*)?)(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
"""Without a user, a password, or anything that parsers of addresses read differently. A host is a name: addresses in figures are
not on any list."""
_ENTRY = re.compile(r"(?P<host>[^\s/?#@:\\\[\]%]+)(?::(?P<port>\d{1,5}))?", re.ASCII)
_NAME = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Its last part begins with a letter, which that of no address in figures does."""
_PORTS = {"https": 443, "http": 80}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_REFUSED = tuple(map(ipaddress.ip_network, "192.0.0.0/24 192.88.99.0/24 2001::/23 3fff::/20 168.63.129.16/32".split()))
"""Protocol assignments, relays and documentation, which older versions of Python take for public; and an address that inside
Azure is the machine's own host."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, as does the IPv4 address that it may hold."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id:
            return False
        if ip.ipv4_mapped or ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip not in _GLOBAL_UNICAST or (ip.sixtofour and not is_public(str(ip.sixtofour))):
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _REFUSED)


class Host(NamedTuple):
    """A host of the list. Without a port: the usual ones."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Host:
        """
        Raises:
            OptionError: not NAME or NAME:PORT.
        """
        entry = _ENTRY.fullmatch(text)
        name = _canonical(entry["host"]) if entry else None
        if entry is None or name is None or not 0 < int(entry["port"] or 1) < 65536:
            raise OptionError(f"host of images {text!r}: must be the name of a host, such as images.example.org, or NAME:PORT")
        return cls(name, int(entry["port"]) if entry["port"] else None)


def _canonical(host: str) -> str | None:
    """A name in lower-case ASCII without a dot at its end; None for what is no name."""
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    name = name.removesuffix(".")
    return name if _NAME.fullmatch(name) else None


class Fetcher:
    """Fetches images from a list of hosts; to be made and used within one event loop.

    Args:
        hosts: NAME, or NAME:PORT for other ports than the usual one.
        http: whether addresses without TLS are allowed; the gateway never allows them, a host on loopback has no certificate.
        seconds: for an image, from asking for the host's address to the last byte.
        resolver: how names are asked for.
        public: which addresses may be connected to.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        http: bool = False,
        seconds: float = 5,
        resolver: AbstractResolver | None = None,
        public: Callable[[str], bool] = is_public,
    ):
        if not hosts:
            raise OptionError("images can be fetched only from hosts that are named")
        self.hosts, self.http, self.seconds = frozenset(map(Host.parse, hosts)), http, seconds
        checked = _CheckedResolver(resolver or aiohttp.ThreadedResolver(), public)
        connector = aiohttp.TCPConnector(resolver=checked, use_dns_cache=False, force_close=True, limit=16)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "visionthink"},
            skip_auto_headers=("Content-Type",),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def fetch(self, url: str, *, name: str, most: int) -> bytes:
        """The file at an address, of at most so many bytes. `name` is what errors call it.

        Raises:
            ImageError: the address is not allowed, or nothing comes from it.
        """
        address = self._allowed(url, name)
        try:
            async with (
                asyncio.timeout(self.seconds),
                self._session.get(address, allow_redirects=False, timeout=aiohttp.ClientTimeout(None)) as response,
            ):
                return await _read(response, name, most)
        except TimeoutError:
            raise ImageError(f"{name}: its host does not send it within {self.seconds:g} s") from None
        except _Private:
            raise ImageError(f"{name}: its host has an address that is not public") from None
        except aiohttp.ClientConnectorDNSError:
            raise ImageError(f"{name}: its host is not known") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # what they say holds the address
            raise ImageError(f"{name}: it cannot be fetched from its host ({type(error).__name__})") from None

    def _allowed(self, url: str, name: str) -> URL:
        """The address, built anew from the parts that were checked."""
        parts = _ADDRESS.fullmatch(url)
        host = _canonical(parts["host"]) if parts else None
        if parts is None or host is None:
            raise ImageError(f"{name}: its address is not one of the form https://HOST/PATH with the name of a host")
        scheme = parts["scheme"].lower()
        if scheme == "http" and not self.http:
            raise ImageError(f"{name}: images are fetched by https alone")
        port = int(parts["port"] or _PORTS[scheme])
        if Host(host, port) not in self.hosts and not (port == _PORTS[scheme] and Host(host, None) in self.hosts):
            raise ImageError(f"{name}: its host is not one that this server fetches images from")
        path, mark, query = parts["rest"].partition("?")
        target = (path or "/") + mark + query
        try:
            return URL(f"{scheme}://{host}:{port}{target}", encoded=target.isascii())
        except ValueError:
            raise ImageError(f"{name}: its address cannot be read") from None


async def _read(response: aiohttp.ClientResponse, name: str, most: int) -> bytes:
    if 300 <= response.status < 400:
        raise ImageError(f"{name}: its host redirects elsewhere, which is not followed")
    if response.status != 200:
        raise ImageError(f"{name}: its host answers with status {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ImageError(f"{name}: its host sends it compressed once more")
    content = bytearray()
    too_large = ImageError(f"{name}: more than the {most / 1e6:g} MB that may be fetched")
    if (response.content_length or 0) > most:
        raise too_large
    async for piece in response.content.iter_any():
        content += piece
        if len(content) > most:
            raise too_large
    return bytes(content)


class _Private(Exception):
    """A name has an address that is not public."""


class _CheckedResolver(AbstractResolver):
    """Asks for names, and gives only addresses that are all public."""

    def __init__(self, resolver: AbstractResolver, public: Callable[[str], bool]):
        self._resolver, self._public = resolver, public

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(self._public(result["host"]) for result in found):
            raise _Private
        return found

    async def close(self) -> None:
        await self._resolver.close()
