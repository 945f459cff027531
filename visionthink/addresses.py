"""What counts as the address of an endpoint, and as this machine; known without the libraries that talk to one."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from visionthink.errors import OptionError

_WITHOUT_SCHEME = re.compile(
    r"(?:[\w+.-]*:)?//"  # ws://host, //host
    r"|[\w.-]+:\d+(?:[/#?]|$)"  # host:8000
    r"|(?:localhost|\d+(?:\.\d+){3})(?:[/#?]|$)"  # localhost/v1
    r"|[\w-]+(?:\.[\w-]+)+/(?:[^#]*/)?v\d+\w*(?:[/#?]|$)",  # api.openai.com/v1
    re.IGNORECASE,
)


def is_endpoint(name: str) -> bool:
    """Whether a name is the address of an endpoint.

    Raises:
        OptionError: it is one, without http:// or with another scheme.
    """
    if re.match("https?://", name, re.IGNORECASE):
        return True
    if (found := _WITHOUT_SCHEME.match(name)) and not Path(name.partition("#")[0]).exists():
        rest = name[found.end() :] if "//" in found[0] else name
        raise OptionError(f"{name}: the address of an endpoint begins with http:// or https://; write http://{rest}")
    return False


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an IP address, is this machine for itself alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
