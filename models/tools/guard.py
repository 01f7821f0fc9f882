"""Where `web_fetch` may connect: the open internet, and nothing that only we can reach.

A page's address comes from a model, and so from whatever text the model was shown. The check of
an address stands where the socket is made, behind every redirect and every answer of DNS: the
address that was checked is the one that is connected to, so a name cannot lead elsewhere in
between.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

#: What is not the open internet, by IANA's registries of special addresses, and two clouds'
#: services for their own machines that have ordinary addresses.
_CLOSED_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' own, and Alibaba's metadata
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's host
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF, and Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
#: All of IPv6 that is given out. Outside it lie loopback, link-local, private, multicast,
#: IPv4-mapped and NAT64 addresses.
_OPEN_V6 = ipaddress.IPv6Network("2000::/3")
_CLOSED_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # IETF: Teredo (an IPv4 address in disguise) and others
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)

#: (address, port) that a test permits although it is closed. Nothing in a catalog sets it.
Permitted = frozenset[tuple[str, int]]


class Refused(OSError):
    """A connection that must not be made. An OSError, so that a connector takes it for a failed
    one and tries the name's next address."""


def is_open(address: str) -> bool:
    """Whether this IP address is one of the open internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False  # a zone (`fe80::1%eth0`) or no address at all
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _CLOSED_V4)
    if ip.scope_id is not None:
        return False
    return ip in _OPEN_V6 and not any(ip in network for network in _CLOSED_V6)


def check_url(url: str) -> None:
    """Raises ValueError for an address that is not a plain web page's."""
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in url) or "\\" in url:
        raise ValueError("the address contains spaces, control characters or backslashes")
    parts = urlsplit(url)  # raises ValueError itself for brackets without an end
    if parts.scheme not in ("http", "https"):
        raise ValueError("only http:// and https:// addresses can be fetched")
    if "@" in parts.netloc:
        raise ValueError("an address with a name or password is not fetched")
    if not parts.hostname:
        raise ValueError("the address names no host")
    if parts.port == 0:  # `port` raises ValueError itself beyond 65535
        raise ValueError("port 0 is not a port")


def socket_factory(permitted: Permitted = frozenset()) -> Callable[[Any], socket.socket]:
    """Makes sockets for an aiohttp connector, to open addresses only."""

    def make(info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        family, kind, protocol, _, (host, port, *_rest) = info
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise Refused("only IP addresses are connected to")
        if not is_open(host) and (host, port) not in permitted:
            raise Refused("that address is not one of the open internet")
        return socket.socket(family, kind, protocol)

    return make
