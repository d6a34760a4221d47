"""What the program was asked to do, from its environment.

`BUD_WEIGHTS_CONFIG` holds the source, the hashes that the user demands and the folder to fill. Every key of the
user's Secret arrives as `BUD_CREDENTIAL_<key>`. `BUD_WEIGHTS_*` tune the transfer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from bud.weights.errors import Permanent

CREDENTIAL_PREFIX = "BUD_CREDENTIAL_"
NAMES = frozenset({"username", "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_ACCOUNT_NAME"})

Sha256 = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{64}$")]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


def _web_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("must be an http:// or https:// address")
    return value


WebAddress = Annotated[str, AfterValidator(_web_address)]


class HubSource(_Model):
    """A repository of the Hugging Face Hub, or of a mirror that speaks its API (`endpoint`)."""

    repo: Annotated[str, StringConstraints(min_length=1)]
    revision: str | None = None
    allow_patterns: tuple[str, ...] | None = None
    ignore_patterns: tuple[str, ...] | None = None
    endpoint: WebAddress | None = None


class UrlSource(_Model):
    """Files by their http(s) addresses; each is called as the last segment of its address."""

    url: WebAddress | None = None
    urls: tuple[WebAddress, ...] | None = None

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if bool(self.url) == bool(self.urls):
            raise ValueError("give url, or urls for several files")
        return self

    @property
    def addresses(self) -> tuple[str, ...]:
        return (self.url,) if self.url else self.urls or ()


class CloudSource(_Model):
    """An object, or all objects below a prefix, in S3, Google Cloud Storage or Azure Blob Storage."""

    uri: Annotated[str, StringConstraints(pattern=r"^(s3|gs|az)://[^/]+")]
    endpoint: WebAddress | None = None
    region: str | None = None

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


class LocalSource(_Model):
    """A file or folder that is in the target already; `path` is relative to the target."""

    path: str | None = None


class Source(_Model):
    """Exactly one of the four."""

    hugging_face: HubSource | None = None
    url: UrlSource | None = None
    cloud: CloudSource | None = None
    local: LocalSource | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        kinds = [name for name in ("hugging_face", "url", "cloud", "local") if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError("give exactly one of huggingFace, url, cloud, local")
        return self


class Settings(_Model):
    """How the transfer behaves.

    `stall_seconds`: silence after which a connection counts as broken. `tries`: failed tries in a row, without a
    byte gained, after which the program gives up. `backoff_seconds`: the first pause between tries; it doubles.
    `parallel`: files at once.
    """

    stall_seconds: Annotated[float, Field(gt=0)] = 60
    tries: Annotated[int, Field(ge=1)] = 6
    backoff_seconds: Annotated[float, Field(ge=0)] = 1
    parallel: Annotated[int, Field(ge=1, le=32)] = 4


class Cache(_Model):
    """The cache of a node that the target is a copy in: `target` is `<root>/<namespace>/<copy>`.

    `size_bytes`: what all its copies may take. `digest` and `bytes`: those of the Model; without, the source decides.
    `hold`: keep the copy from being evicted until SIGTERM, once it is whole.
    """

    root: Path
    size_bytes: Annotated[int, Field(gt=0)]
    digest: str | None = None
    bytes: int | None = None
    hold: bool = False


class Config(_Model):
    """One download. `sha256` maps relative file names to the hashes that the user demands."""

    source: Source
    sha256: dict[str, Sha256] = Field(default_factory=dict)
    target: Path
    cache: Cache | None = None
    settings: Settings = Settings()
    credentials: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _target_is_a_copy(self) -> Self:
        if self.cache and self.target.parent.parent != self.cache.root:
            raise ValueError("target must be cache.root/<namespace>/<copy>")
        return self


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
        for field in Settings.model_fields
        if prefix + field.upper() in environment
    }
    text = environment.get("BUD_WEIGHTS_CONFIG")
    if not text:
        raise Permanent("InvalidSource", "BUD_WEIGHTS_CONFIG is not set: it says what to download")
    try:
        config = Config.model_validate_json(text)
        tuned = Settings.model_validate(settings, by_name=True)
    except ValidationError as error:
        raise Permanent("InvalidSource", _explain(error)) from None
    return config.model_copy(update={"settings": tuned, "credentials": credentials(environment)})


def _explain(error: ValidationError) -> str:
    """The first few faults, by field; never the value, which may hold a password."""
    faults = []
    for fault in error.errors(include_input=False, include_url=False)[:5]:
        where = ".".join(str(part) for part in fault["loc"]) or "configuration"
        faults.append(f"{where}: {fault['msg'].removeprefix('Value error, ')}")
    return "; ".join(faults)
