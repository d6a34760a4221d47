"""Objects in S3, Google Cloud Storage and Azure Blob Storage, by obstore.

Without credentials the store is read anonymously; the rights of the machine itself are never borrowed. Rights that
belong to the pod's service account (a web identity token that the platform mounts) are used.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from bud.weights.config import CloudSource, Settings
from bud.weights.errors import Failure, Permanent, Transient, refused
from bud.weights.plan import RemoteFile
from bud.weights.sources import Listing, Opened

CHUNK = 1 << 18
AMBIENT = {
    "s3": ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "az": ("AZURE_FEDERATED_TOKEN_FILE",),
}
KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT_KEY",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN)",
}
_STATUS = re.compile(r"status code: (\d{3})|(incorrectly configured region)")
_STATUS_OF: tuple[tuple[type[Exception], int], ...] = (
    (exceptions.UnauthenticatedError, 401),
    (exceptions.PermissionDeniedError, 403),
    (FileNotFoundError, 404),
)

Store = S3Store | GCSStore | AzureStore


class CloudFiles:
    """One object, or all objects below a prefix, named relative to it."""

    def __init__(self, wanted: CloudSource, *, credentials: Mapping[str, str], settings: Settings) -> None:
        self._wanted = wanted
        self._keys: dict[str, str] = {}
        try:
            self._store = _store(wanted, credentials, settings)
        except (exceptions.BaseError, ValueError) as error:
            # Not the error's text: it may quote a key that it cannot read.
            raise Permanent(
                "InvalidSource",
                f"{wanted.uri}: {type(error).__name__}: check spec.source.cloud, and in the Secret of "
                f"spec.credentialsSecretRef {KEYS[wanted.scheme]}",
            ) from None

    def list_files(self) -> Listing:
        prefix = self._wanted.key.strip("/")
        with self._faults():
            found = [meta for page in obstore.list(self._store, prefix or None) for meta in page]
            names = {meta["path"]: meta["path"][len(prefix) :].lstrip("/") for meta in found}
            folders = {name[:at] for name in names.values() for at in range(len(name)) if name[at] == "/"}
            # Consoles mark folders with empty objects; those are no files.
            marks = {meta["path"] for meta in found if meta["size"] == 0 and names[meta["path"]] in folders}
            kept = [meta for meta in found if names[meta["path"]] and meta["path"] not in marks]
            if not kept and prefix:
                only = self._single(prefix)
                kept, names = [only], {only["path"]: only["path"].rpartition("/")[2]}
        if not kept:
            raise Permanent("NoFiles", f"{self._wanted.uri} holds no object: correct spec.source.cloud.uri")
        self._keys = {names[meta["path"]]: meta["path"] for meta in kept}
        return Listing(files=tuple(_described(names[meta["path"]], meta) for meta in kept))

    def _single(self, key: str) -> obstore.ObjectMeta:
        try:
            return obstore.head(self._store, key)
        except FileNotFoundError:
            raise Permanent(
                "NotFound", f"{self._wanted.uri}: no such object, and none below it: correct spec.source.cloud.uri"
            ) from None

    @contextlib.contextmanager
    def open(self, file: RemoteFile, offset: int) -> Iterator[Opened]:
        key = self._keys[file.path]
        options: dict[str, Any] = {"range": {"offset": offset}} if offset else {}
        if file.version:
            options["if_match"] = file.version
        with self._faults():
            try:
                answer = obstore.get(self._store, key, options=options)  # type: ignore[arg-type]
            except exceptions.PreconditionError:
                answer, offset = obstore.get(self._store, key), 0
            now = _described(file.path, answer.meta, sha256=file.sha256)
            if answer.range[0] != offset:
                raise Transient("Changed", f"{self._wanted.uri}: the store sent another part of {file.path}")
        yield Opened(file=now, start=offset, chunks=self._chunks(answer))

    def _chunks(self, answer: obstore.GetResult) -> Iterator[bytes]:
        with self._faults():
            yield from answer.stream(min_chunk_size=CHUNK)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.BaseError, FileNotFoundError) as error:
            raise self._explain(error) from None

    def _explain(self, error: Exception) -> Failure:
        uri, keys, text = self._wanted.uri, KEYS[self._wanted.scheme], str(error).strip()
        # Listing and reading tell the same refusal as different exceptions; the status is in the words of both.
        typed = next((status for kind, status in _STATUS_OF if isinstance(error, kind)), 0)
        found = _STATUS.search(text)
        status = typed or (int(found[1] or 301) if found else 0)
        if not status:
            stalled = "timed out" in text.lower() or "TimedOut" in text
            brief = text.partition("\n")[0][:300]
            remedy = "see whether the store, or a proxy before it, answers"
            return Transient("Stalled" if stalled else "ConnectionFailed", f"{uri}: {brief}; {remedy}")
        general = refused(status, {}, uri)
        remedy = {
            301: "the bucket is in another region: set spec.source.cloud.region",
            401: f"set spec.credentialsSecretRef to a Secret with {keys}",
            403: f"spec.credentialsSecretRef must name a Secret with {keys} that may list and read",
            404: "no such bucket or object: correct spec.source.cloud.uri",
        }.get(status, "see spec.source.cloud")
        if isinstance(general, Transient):
            return general
        return Permanent(general.reason, f"{general.message}: {remedy}")


def _described(name: str, meta: obstore.ObjectMeta, *, sha256: str | None = None) -> RemoteFile:
    # An ETag is no published hash: depending on the upload and its encryption it is an MD5 or nothing of the kind.
    return RemoteFile(path=name, size=meta["size"], version=meta["e_tag"], sha256=sha256)


def _store(wanted: CloudSource, credentials: Mapping[str, str], settings: Settings) -> Store:
    stall = timedelta(seconds=settings.stall_seconds)
    common: dict[str, Any] = {
        "client_options": {
            "allow_http": bool(wanted.endpoint and wanted.endpoint.startswith("http://")),
            "connect_timeout": stall,
            "read_timeout": stall,
            "timeout": timedelta(days=7),  # of a whole file, however large
        },
        "retry_config": {"max_retries": 0},
    }
    configs = {"s3": _s3, "gs": _gs, "az": _azure}
    stores: dict[str, Callable[..., Store]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    config = configs[wanted.scheme](wanted, credentials)
    signed = {"access_key_id", "service_account_key", "account_key", "sas_key"} & config.keys()
    if not signed and not any(os.environ.get(name) for name in AMBIENT[wanted.scheme]):
        config["skip_signature"] = True
    return stores[wanted.scheme](wanted.bucket, config=config, **common)


def _gs(wanted: CloudSource, credentials: Mapping[str, str]) -> dict[str, Any]:
    return _given(service_account_key=credentials.get("GOOGLE_SERVICE_ACCOUNT_KEY"), base_url=wanted.endpoint)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _s3(wanted: CloudSource, credentials: Mapping[str, str]) -> dict[str, Any]:
    return {"region": wanted.region or "us-east-1"} | _given(
        endpoint=wanted.endpoint,
        access_key_id=credentials.get("AWS_ACCESS_KEY_ID"),
        secret_access_key=credentials.get("AWS_SECRET_ACCESS_KEY"),
        session_token=credentials.get("AWS_SESSION_TOKEN"),
    )


def _azure(wanted: CloudSource, credentials: Mapping[str, str]) -> dict[str, Any]:
    account = credentials.get("AZURE_STORAGE_ACCOUNT_NAME") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise Permanent(
            "InvalidSource",
            f"{wanted.uri}: the storage account is not known: set spec.credentialsSecretRef to a Secret with key "
            "AZURE_STORAGE_ACCOUNT_NAME",
        )
    return _given(
        account_name=account,
        account_key=credentials.get("AZURE_STORAGE_ACCOUNT_KEY"),
        sas_key=credentials.get("AZURE_STORAGE_SAS_TOKEN"),
        endpoint=wanted.endpoint,
    )
