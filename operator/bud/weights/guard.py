"""Which addresses a download may reach: none of the pod itself, of its link (cloud metadata) or of the API server.

A source's address is a user's choice, and so is where its redirects and names lead. So the check is made where a
connection is made, by an audit hook (https://docs.python.org/3/library/audit_events.html, `socket.connect`). The object
stores' library connects outside Python; for it the endpoint's addresses are looked up and checked beforehand.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

from bud.addresses import LINK, LOOPBACK, METADATA, UNSPECIFIED, is_in, networks, of_host, read
from bud.weights.errors import Permanent

ALLOWED = "BUD_WEIGHTS_ALLOWED_NETWORKS"
"""Variable: networks that may be reached all the same, as in `127.0.0.0/8,169.254.0.0/16`."""


class Guard:
    """Decides by address; names are resolved by whoever connects."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._allowed = networks(environment.get(ALLOWED, "").split(","))
        api_server = of_host(environment.get("KUBERNETES_SERVICE_HOST", ""))
        self._refused = (*LOOPBACK, *UNSPECIFIED, *LINK, *METADATA, *api_server)

    def check(self, address: str) -> None:
        """Raises `Permanent` (AddressRefused) for an address that must not be reached."""
        found = read(address)
        if found is not None and is_in(found, self._refused) and not is_in(found, self._allowed):
            raise Permanent(
                "AddressRefused",
                f"the source, or a redirect of it, leads to {found}, an address of this pod, its link or "
                "the API server: correct spec.source",
            )

    def check_host(self, url: str) -> None:
        """Raises `Permanent` when the host of a URL has such an address; a host without any is left to fail later."""
        try:
            found = socket.getaddrinfo(urlsplit(url).hostname, None)
        except OSError:
            return
        for entry in found:
            self.check(str(entry[4][0]))

    def watch(self) -> None:
        """From now on, checks every connection that this process makes through Python; it cannot be undone."""
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if event != "socket.connect" or not isinstance(address := arguments[1], tuple):
            return
        try:
            self.check(str(address[0]))
        except Permanent:
            # Libraries close a socket after errors of the system only, and this is none.
            if isinstance(connecting := arguments[0], socket.socket):
                connecting.close()
            raise
