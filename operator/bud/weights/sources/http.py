"""Files over http(s): one client for addresses and for the Hub's files, and the source for plain addresses.

urllib3 reads straight into large buffers, which costs about half the processor time of httpx for the same bytes. It
drops `Authorization` on a redirect to another host, port or scheme.
"""

from __future__ import annotations

import base64
import contextlib
import re
import ssl
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import IncompleteRead
from urllib.parse import unquote, urlsplit, urlunsplit

import urllib3
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    MaxRetryError,
    ReadTimeoutError,
    SSLError,
)

from bud.weights.config import Settings
from bud.weights.errors import Failure, Permanent, Transient, refused
from bud.weights.plan import RemoteFile, checked
from bud.weights.sources import Listing, Opened

CHUNK = 1 << 20
REDIRECTS = 10
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")

Explain = Callable[[int, Mapping[str, str]], Failure]


def shown(url: str) -> str:
    """An address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))


class Client:
    """A connection pool that honours the usual proxy variables and turns every fault into a `Failure`."""

    def __init__(self, settings: Settings) -> None:
        self._stall = settings.stall_seconds
        proxies = urllib.request.getproxies()
        timeout = urllib3.Timeout(connect=self._stall, read=self._stall)
        self._direct = urllib3.PoolManager(maxsize=settings.parallel, timeout=timeout)
        self._proxied: dict[str, urllib3.PoolManager] = {
            scheme: urllib3.ProxyManager(proxies[scheme], maxsize=settings.parallel, timeout=timeout)
            for scheme in ("http", "https")
            if scheme in proxies
        }

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str], *, explain: Explain) -> Iterator[urllib3.BaseHTTPResponse]:
        """One GET. The response is 200, 206 or 416; anything else is raised as `explain` says."""
        parts = urlsplit(url)
        by_proxy = not urllib.request.proxy_bypass(parts.hostname or "")
        pool = (self._proxied.get(parts.scheme) if by_proxy else None) or self._direct
        # False: raise at once. Retrying is the transfer's business, which knows what was received.
        retries = urllib3.Retry(
            total=None, connect=False, read=False, other=False, status=0, redirect=REDIRECTS, raise_on_redirect=True
        )
        with self._faults(url):
            response = pool.request(
                "GET", url, headers={"Accept-Encoding": "identity", **headers}, retries=retries, preload_content=False
            )
            try:
                if response.status not in (200, 206, 416):
                    raise explain(response.status, response.headers)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise Permanent("Refused", f"{shown(url)}: the server sends the file compressed only: use another")
                yield response
            finally:
                # Closing, not draining: what is left of a body may be gigabytes.
                response.close()

    @contextlib.contextmanager
    def _faults(self, url: str) -> Iterator[None]:
        try:
            yield
        except HTTPError as error:
            raise self._failure(shown(url), error) from None

    def _failure(self, where: str, error: HTTPError) -> Failure:
        if isinstance(error, MaxRetryError) and not isinstance(error.reason, SSLError):
            return Permanent("Refused", f"{where}: more than {REDIRECTS} redirects")
        cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        if isinstance(cause, SSLError) and isinstance(next(iter(cause.args), None), ssl.SSLCertVerificationError):
            return Permanent("CertificateRefused", f"{where}: its certificate is not trusted here: {cause}")
        if isinstance(cause, LocationValueError):
            return Permanent("Refused", f"{where}: leads to an address that is not http:// or https://")
        if isinstance(cause, ReadTimeoutError):
            return Transient(
                "Stalled",
                f"{where}: no byte for {self._stall:g} s; see whether the server, or a proxy before it, hangs",
            )
        if any(isinstance(one, IncompleteRead) for one in (cause, *cause.args)):
            return Transient(
                "Truncated",
                f"{where}: the connection ended before the file did: {cause}; see whether the server or a proxy "
                "before it cuts long answers",
            )
        return Transient("ConnectionFailed", f"{where}: {cause}")

    @contextlib.contextmanager
    def open_file(
        self, url: str, file: RemoteFile, offset: int, *, headers: Mapping[str, str], explain: Explain
    ) -> Iterator[Opened]:
        """Streams `file` from `offset`, or from 0 where the server cannot or its bytes changed."""
        asked = dict(headers)
        if offset:
            asked["Range"] = f"bytes={offset}-"
            if file.version and not file.has_hash:
                asked["If-Range"] = file.version
        with self.get(url, asked, explain=explain) as response:
            start, size = _extent(response)
            now = file if file.has_hash else replace(file, size=size, version=_version(response.headers))
            if response.status == 200 or (response.status == 206 and start == offset and now == file):
                yield Opened(file=now, start=start, chunks=_chunks(response))
                return
        if not offset:
            raise Transient("Changed", f"{shown(url)}: the server refuses to send the file as a whole")
        with self.open_file(url, file, 0, headers=headers, explain=explain) as opened:
            yield opened

    def describe(self, url: str, path: str, *, headers: Mapping[str, str], explain: Explain) -> RemoteFile:
        """Size and version by asking for one byte: unlike HEAD, presigned addresses allow that."""
        with self.get(url, {**headers, "Range": "bytes=0-0"}, explain=explain) as response:
            _, size = _extent(response)
            return RemoteFile(path=path, size=size, version=_version(response.headers))


def _extent(response: urllib3.BaseHTTPResponse) -> tuple[int, int | None]:
    """First byte and whole size that a response speaks of."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found:
        return -1, None
    first, total = found.groups()
    return int(first or -1), int(total) if total != "*" else None


def _version(headers: Mapping[str, str]) -> str | None:
    """What If-Range may name: a strong ETag, else the date of change (RFC 9110, 13.1.5)."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("Last-Modified")


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    while data := response.read1(CHUNK, decode_content=False):
        yield data


class UrlFiles:
    """The files at a list of addresses, each named as the last segment of its path."""

    def __init__(self, urls: Sequence[str], *, credentials: Mapping[str, str], settings: Settings) -> None:
        self._client = Client(settings)
        self._parallel = settings.parallel
        self._credentials = credentials
        names = [unquote(urlsplit(url).path.rpartition("/")[2]) for url in urls]
        for name, url in zip(names, urls, strict=True):
            if not name:
                raise Permanent("InvalidSource", f"{shown(url)} ends in no file name: spec.source.url must name a file")
        checked(RemoteFile(path=name, size=None, version=None) for name in names)
        self._urls = dict(zip(names, urls, strict=True))

    def list_files(self) -> Listing:
        with ThreadPoolExecutor(self._parallel) as pool:
            return Listing(files=tuple(pool.map(self._describe, self._urls)))

    def open(self, file: RemoteFile, offset: int) -> contextlib.AbstractContextManager[Opened]:
        url, headers = self._request(file.path)
        return self._client.open_file(url, file, offset, headers=headers, explain=self._explain(url))

    def _describe(self, name: str) -> RemoteFile:
        url, headers = self._request(name)
        return self._client.describe(url, name, headers=headers, explain=self._explain(url))

    def _request(self, name: str) -> tuple[str, dict[str, str]]:
        """The bare address and the credentials: the Secret's, else those inside the address."""
        parts = urlsplit(self._urls[name])
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        given = self._credentials
        if token := given.get("token"):
            return bare, {"Authorization": f"Bearer {token}"}
        user, password = given.get("username"), given.get("password")
        if user is None and parts.username:
            user, password = unquote(parts.username), unquote(parts.password or "")
        if user is None:
            return bare, {}
        pair = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
        return bare, {"Authorization": f"Basic {pair}"}

    def _explain(self, url: str) -> Explain:
        def explain(status: int, headers: Mapping[str, str]) -> Failure:
            failure = refused(status, headers, shown(url))
            remedy = {
                "Unauthorized": "set spec.credentialsSecretRef to a Secret with key token, or username and password",
                "Forbidden": "the credentials of spec.credentialsSecretRef, or the signature in the address, do not "
                "allow it: use ones that do",
                "NotFound": "correct spec.source.url",
                "Refused": "check spec.source.url",
            }.get(failure.reason)
            return type(failure)(failure.reason, f"{failure.message}: {remedy}") if remedy else failure

        return explain
