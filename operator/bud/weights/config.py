"""What the program was asked to do, from its environment.

`BUD_WEIGHTS_CONFIG` holds the source, the hashes that the user demands and the folder to fill. Every key of the
user's Secret arrives as `BUD_CREDENTIAL_<key>`. `BUD_WEIGHTS_*` tune the transfer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from bud.weights.errors import Permanent

CREDENTIAL_PREFIX = "BUD_CREDENTIAL_"
NAMES = frozenset({"username", "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_NAME"})

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_FIELD = re.compile(r"(sha256\..+|[A-Za-z0-9_.\[\]-]+): ")
_MISSING = re.compile(r"Object missing required field `(.+)`")


class _Model(Struct, frozen=True, kw_only=True, rename="camel"):
    pass


def _check_address(name: str, value: str | None) -> None:
    """Raises `ValueError`, which begins with the field's name, for what is no http(s) address."""
    if value is None:
        return
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{name}: must be an http:// or https:// address")


class HubSource(_Model, frozen=True, kw_only=True):
    """A repository of the Hugging Face Hub, or of a mirror that speaks its API (`endpoint`)."""

    repo: Annotated[str, Meta(min_length=1)]
    revision: str | None = None
    allow_patterns: tuple[str, ...] | None = None
    ignore_patterns: tuple[str, ...] | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        _check_address("endpoint", self.endpoint)


class UrlSource(_Model, frozen=True, kw_only=True):
    """Files by their http(s) addresses; each is called as the last segment of its address."""

    url: str | None = None
    urls: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if bool(self.url) == bool(self.urls):
            raise ValueError("give url, or urls for several files")
        _check_address("url", self.url)
        for number, url in enumerate(self.urls or ()):
            _check_address(f"urls[{number}]", url)

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.url,) if self.url else self.urls or ()


class CloudSource(_Model, frozen=True, kw_only=True):
    """An object, or all objects below a prefix, in S3, Google Cloud Storage or Azure Blob Storage."""

    uri: Annotated[str, Meta(pattern=r"^(s3|gs|az)://[^/]+")]
    endpoint: str | None = None
    region: str | None = None

    def __post_init__(self) -> None:
        _check_address("endpoint", self.endpoint)

    @property
    def scheme(self) -> Literal["s3", "gs", "az"]:
        head = self.uri.partition("://")[0]
        return "s3" if head == "s3" else "gs" if head == "gs" else "az"

    @property
    def bucket(self) -> str:
        return self.uri.partition("://")[2].partition("/")[0]

    @property
    def key(self) -> str:
        return self.uri.partition("://")[2].partition("/")[2]


class LocalSource(_Model, frozen=True, kw_only=True):
    """A file or folder that is in the target already; `path` is relative to the target."""

    path: str | None = None


class Source(_Model, frozen=True, kw_only=True):
    """Exactly one of the four."""

    hugging_face: HubSource | None = None
    url: UrlSource | None = None
    cloud: CloudSource | None = None
    local: LocalSource | None = None

    def __post_init__(self) -> None:
        if sum(kind is not None for kind in (self.hugging_face, self.url, self.cloud, self.local)) != 1:
            raise ValueError("give exactly one of huggingFace, url, cloud, local")


class Settings(Struct, frozen=True, kw_only=True):
    """How the transfer behaves.

    `stall_seconds`: silence after which a connection counts as broken. `tries`: failed tries in a row, without a
    byte gained, after which the program gives up. `backoff_seconds`: the first pause between tries; it doubles.
    `parallel`: files at once.
    """

    stall_seconds: Annotated[float, Meta(gt=0)] = 60
    tries: Annotated[int, Meta(ge=1)] = 6
    backoff_seconds: Annotated[float, Meta(ge=0)] = 1
    parallel: Annotated[int, Meta(ge=1, le=32)] = 4


class Cache(_Model, frozen=True, kw_only=True):
    """The cache of a node that the target is a copy in: `target` is `<root>/<namespace>/<copy>`.

    `size_bytes`: what all its copies may take. `digest` and `bytes`: those of the Model; without, the source decides.
    `hold`: keep the copy from being evicted until SIGTERM, once it is whole.
    """

    root: Path
    size_bytes: Annotated[int, Meta(gt=0)]
    digest: str | None = None
    bytes: int | None = None
    hold: bool = False


class Config(_Model, frozen=True, kw_only=True):
    """One download. `sha256` maps relative file names to the hashes that the user demands."""

    source: Source
    sha256: dict[str, str] = {}
    target: Path
    cache: Cache | None = None
    settings: Settings = Settings()
    credentials: dict[str, str] = {}

    def __post_init__(self) -> None:
        for name, digest in self.sha256.items():
            if not _SHA256.fullmatch(digest):
                raise ValueError(f"sha256.{name}: must be 64 hex digits")
        lower = {name: digest.lower() for name, digest in self.sha256.items()}
        msgspec.structs.force_setattr(self, "sha256", lower)
        if self.cache and self.target.parent.parent != self.cache.root:
            raise ValueError("target: must be cache.root/<namespace>/<copy>")


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The keys of the user's Secret; a Hub token is taken from `HF_TOKEN` too. Empty values count as absent."""
    found = {
        name.removeprefix(CREDENTIAL_PREFIX): value.strip()
        for name, value in environment.items()
        if name.startswith(CREDENTIAL_PREFIX) and value.strip()
    }
    if token := environment.get("HF_TOKEN", "").strip():
        found.setdefault("token", token)
    return found


def secrets(environment: Mapping[str, str]) -> list[str]:
    """The values that must never be told: all credentials but those that only name an account."""
    return [value for key, value in credentials(environment).items() if key not in NAMES]


def load(environment: Mapping[str, str]) -> Config:
    """Reads and checks the configuration.

    Raises `Permanent` (InvalidSource), naming the field.
    """
    prefix = "BUD_WEIGHTS_"
    settings = {
        field: environment[prefix + field.upper()]
        for field in Settings.__struct_fields__
        if prefix + field.upper() in environment
    }
    text = environment.get("BUD_WEIGHTS_CONFIG")
    if not text:
        raise Permanent("InvalidSource", "BUD_WEIGHTS_CONFIG is not set: it says what to download")
    try:
        config = msgspec.json.decode(text, type=Config, dec_hook=_decode)
        tuned = msgspec.convert(settings, Settings, strict=False)
    except msgspec.DecodeError as error:
        raise Permanent("InvalidSource", _explain(str(error))) from None
    return msgspec.structs.replace(config, settings=tuned, credentials=credentials(environment))


def _decode(kind: type[Any], value: object) -> Any:
    """The one type that JSON does not know."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"must be a {kind.__name__.lower()}")


def _explain(fault: str) -> str:
    """The fault by its field; never the value, which may hold a password."""
    text, _, where = fault.partition(" - at `$")
    where = where.rstrip("`").removeprefix(".")
    if (missing := _MISSING.fullmatch(text)) is not None:
        text = f"{missing[1]}: is required"
    if _FIELD.match(text):
        return f"{where}.{text}" if where else text
    return f"{where or 'configuration'}: {text}"
