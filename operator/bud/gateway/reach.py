"""Which addresses a Provider may lead to: whoever may create one must not borrow the gateway's place in the network.

What is checked is what is connected to: the check is made where the socket for an address is made, so after DNS, and a
name that is looked up twice gains nothing. Deployments are the operator's own, and are not checked.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from aiohttp import AddrInfoType
from yarl import URL

from bud.addresses import LINK, LOOPBACK, METADATA, PRIVATE, Address, Network, is_in, literal, networks, of_host, read

FLAG = "--allow-upstream"
_WORDS: Mapping[str, tuple[Network, ...]] = {"loopback": LOOPBACK, "private": PRIVATE}
_SPECIAL = networks(("192.0.0.0/24", "64:ff9b:1::/48", "2001::/23", "3fff::/20", "5f00::/16", "fec0::/10"))
"""Networks that are not the internet's, of which some versions of Python do not know that."""
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")


class Refused(PermissionError):
    """An address that Providers may not have."""

    def __init__(self, why: str) -> None:
        # With a number, as every fault of a connection: of several alike, one of that number is raised.
        super().__init__(errno.EACCES, why)


@dataclass(frozen=True)
class Reach:
    """What the administrator allows beyond addresses of the internet.

    `allowed` are networks, `hosts` names that may lead anywhere (`*.` before one: any below it). `guarded` are networks
    that are opened only by an entry that names nothing beside them.
    """

    allowed: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    guarded: tuple[Network, ...] = (*LINK, *METADATA)
    _learned: set[Network] = field(default_factory=set, compare=False)

    @classmethod
    def of(cls, entries: Iterable[str], environment: Mapping[str, str] = os.environ) -> Reach:
        """From the entries of the flag, and the API server's address as pods are told of it. Raises `ValueError`."""
        allowed, hosts = list[Network](), set[str]()
        for entry in (one.strip().lower().rstrip(".") for one in entries):
            if entry in _WORDS:
                allowed += _WORDS[entry]
                continue
            try:
                allowed.append(ip_network(entry))
            except ValueError as error:
                if not _HOST.fullmatch(entry) or (literal(entry) is not None and not entry.endswith("localhost")):
                    raise ValueError(
                        f"{FLAG} {entry}: neither loopback, private, a network such as 10.0.0.0/8, nor a host ({error})"
                    ) from None
                hosts.add(entry)
        return cls(
            tuple(allowed),
            frozenset(hosts),
            (*LINK, *METADATA, *of_host(environment.get("KUBERNETES_SERVICE_HOST", ""))),
        )

    def guard(self, addresses: Iterable[str]) -> None:
        """These are guarded, too, in place of those that were told before."""
        found = {ip_network(str(address)) for address in map(read, addresses) if address is not None}
        self._learned.clear()
        self._learned.update(found)

    def refusal(self, address: Address) -> str | None:
        """Why an address may not be reached, for the administrator; None for one that may."""
        wide = [network for network in (*self.guarded, *self._learned) if address in network]
        if not wide and not _is_special(address):
            return None
        for network in self.allowed:
            if address in network and all(_lies_in(network, one) for one in wide):
                return None
        word = "loopback" if is_in(address, LOOPBACK) else str(address)
        return f"{address} is no address of the internet; to allow it, set {FLAG} {word}"

    def judge(self, url: str) -> tuple[bool, str | None]:
        """Whether the host of a URL is allowed by its name, wherever that leads; and why it may not be reached.

        A name that is not allowed itself is judged when it is connected to. Raises `ValueError` for what is no URL.
        """
        host = (URL(url).host or "").lower().rstrip(".")
        above = (f"*.{host[at + 1 :]}" for at, letter in enumerate(host) if letter == ".")
        if host in self.hosts or any(name in self.hosts for name in above):
            return True, None
        address = literal(host)
        return False, None if address is None else self.refusal(address)

    def socket(self, info: AddrInfoType) -> socket.socket:
        """A socket for an address that was found for a name. Raises `Refused`."""
        family, kind, protocol, _, where = info
        address = read(str(where[0]))
        why = f"{where[0]} is no address" if address is None else self.refusal(address)
        if why is not None:
            raise Refused(why)
        return socket.socket(family, kind, protocol)


def _is_special(address: Address) -> bool:
    return not address.is_global or address.is_multicast or is_in(address, _SPECIAL)


def _lies_in(network: Network, other: Network) -> bool:
    if network.version == 4:
        return other.version == 4 and network.subnet_of(other)
    return other.version == 6 and network.subnet_of(other)
