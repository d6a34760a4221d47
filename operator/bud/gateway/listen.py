"""The sockets that the gateway listens on: who may not have them is told which option to change."""

from __future__ import annotations

import errno
import socket

_REMEDIES = {
    errno.EADDRINUSE: "another program listens there: end it, or name another port",
    errno.EACCES: "this user may not listen there: name a port from 1024 on",
}
_NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""The machine lacks a family of addresses, or has no such address."""


def listen(option: str, host: str, port: int) -> list[socket.socket]:
    """A port at all addresses of a host; an empty host is all of this machine's, and port 0 one that is free.

    Addresses that this machine does not have are passed over while others are left. Raises `OSError`, with what to
    change: the host, or the `option` that gave the port.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(
            f"--host {host}: it cannot be looked up ({_said(error)}): name an address of this machine"
        ) from None
    made, missing = list[socket.socket](), None
    for family, _, _, _, at in dict.fromkeys(found):
        try:
            made.append(socket.create_server((at[0], port, *at[2:]), family=family))
        except OSError as error:
            if error.errno in _NOT_HERE:
                missing = error
                continue
            for one in made:
                one.close()
            raise OSError(f"{option} {port}: {at[0]}: {_REMEDIES.get(error.errno or 0, _said(error))}") from None
        port = port or made[0].getsockname()[1]
    if not made:
        raise OSError(f"--host {host}: {_said(missing)}: name an address of this machine")
    return made


def _said(error: Exception | None) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
