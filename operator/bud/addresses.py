"""Addresses: how they are read, and which of them belong to a program's own machine, link or cloud.

An IPv4 address that travels within an IPv6 address is judged as what it is: mapped and compatible ones (RFC 4291,
section 2.5.5), those of NAT64 (RFC 6052, section 2.1) and of 6to4 (RFC 3056, section 2).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks, or single addresses, by their text; empty ones are left out. Raises `ValueError`."""
    return tuple(ipaddress.ip_network(text.strip()) for text in texts if text.strip())


LOOPBACK = networks(("127.0.0.0/8", "::1/128"))
UNSPECIFIED = networks(("0.0.0.0/8", "::/128"))
"""A connection to one of these leads to the machine itself."""
LINK = networks(("169.254.0.0/16", "fe80::/10"))
METADATA = networks(("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16"))
"""Services of a cloud for its machines that are not on the link: of AWS, Google, Alibaba and Azure."""
PRIVATE = networks(("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def read(text: str) -> Address | None:
    """The address that a text is, with or without a scope; None for a name."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return _within(found) if isinstance(found, ipaddress.IPv6Address) else found


def literal(host: str) -> Address | None:
    """The address that the host of a URL is without being looked up, in the older ways to write one, too."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return read(host) or ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def of_host(host: str) -> tuple[Network, ...]:
    """The addresses of a host, each as a network of its own, by DNS; none where there are none."""
    try:
        found = socket.getaddrinfo(host, None) if host else ()
    except OSError:
        return ()
    return networks(sorted({str(entry[4][0]).partition("%")[0] for entry in found}))


def is_in(address: Address, among: Iterable[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address in network for network in among)


def _within(found: ipaddress.IPv6Address) -> Address:
    """The IPv4 address that it carries, else itself."""
    if found.ipv4_mapped is not None:
        return found.ipv4_mapped
    if found.sixtofour is not None:
        return found.sixtofour
    if found in _NAT64 or (found in _COMPATIBLE and int(found) > 0xFFFF):
        return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found
