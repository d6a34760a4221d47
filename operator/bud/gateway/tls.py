"""The certificate that callers see, read again when its files change: whoever issues certificates renews them."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

log = logging.getLogger("bud.gateway")

_LOOK_SECONDS = 1.0


class Certificate:
    """A chain and its key. `context` is for the server; each new connection gets what was read last.

    Raises `OSError`, which faults of TLS are too, for files that cannot be read or do not belong together.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._files = (chain, key)
        self._seen = self._state()
        self._newest = self.context = self._read()
        self.context.sni_callback = self._choose

    async def follow(self) -> None:
        """Reads the files again whenever they change; what cannot be read is told, tried again, and changes nothing."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                if (now := self._state()) == self._seen:
                    continue
                self._newest, self._seen = await asyncio.to_thread(self._read), now
                log.info("the certificate is read anew")
            except OSError as error:
                log.error("the certificate is not read anew, the former stays: %s", error)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(*self._files, password=self._refuse_passphrase)
        except ssl.SSLError as error:
            chain, key = self._files
            why = f"{chain} and {key} are no certificate with its private key, in PEM ({error.reason or error})"
            raise OSError(f"--tls-cert, --tls-key: {why}") from None
        return context

    def _refuse_passphrase(self) -> str:
        """Else OpenSSL would ask whoever sits at the terminal, and wait."""
        raise OSError(f"--tls-key: {self._files[1]} has a passphrase: take it off, as by openssl pkey -in KEY -out NEW")

    def _state(self) -> list[tuple[int, int, int]]:
        return [(found.st_mtime_ns, found.st_ino, found.st_size) for found in (file.stat() for file in self._files)]

    def _choose(self, connection: ssl.SSLSocket | ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self._newest
