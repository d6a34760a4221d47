"""What is seen of a Model, and what is said of its copy: its name, its source in words, its place."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bud.api.model import ModelSpec
from bud.engines.node_cache import NodeStorage
from bud.kube.kinds import slug
from bud.kube.seen import Seen


@dataclass(frozen=True)
class Owner:
    """A Model that wants a copy, and what it says of the claim that keeps it."""

    name: str
    uid: str
    size: str | int | None = None
    retain: bool = False


@dataclass(frozen=True)
class Need:
    """What a Deployment asks of nodes: by its spec, and by the labels and taints of those with the GPUs it wants."""

    spec: Mapping[str, Any]
    gpu_labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    gpu_taints: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """All that decides what a Model wants.

    `claim` and `job` are those of the copy, unless they are being deleted: `older_claim` says that such a claim is
    still in the way, `waits_for_node` that the Job has no pod yet, or none that fits a node. `given_claim` is the claim
    of the user's that the spec names. `owners` are all Models of the namespace that want the same copy, this one
    included; `users` are the Deployments that refer to this Model, `needs` what those of all owners ask of nodes while
    the copy is not whole. `stale` are claims and Jobs of copies that it wanted before. `classes` are the
    StorageClasses; None where they are not read.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    spec: ModelSpec
    owners: tuple[Owner, ...]
    users: tuple[str, ...]
    needs: tuple[Need, ...]
    claim: Seen | None
    job: Seen | None
    waits_for_node: bool
    older_claim: bool
    given_claim: Seen | None
    result: Mapping[str, Any] | None
    stale: tuple[Seen, ...]
    classes: tuple[Seen, ...] | None
    operator_image: str
    default_size: str
    host_path_prefixes: tuple[str, ...]
    node_storage: NodeStorage | None = None

    @property
    def id(self) -> str:
        return copy_id(self.namespace, self.spec)

    @property
    def downloads(self) -> bool:
        """Whether the weights are copied into a volume."""
        return self.spec.source.local is None

    @property
    def makes_claim(self) -> bool:
        """Whether that volume is a claim of ours."""
        return makes_claim(self.spec)

    @property
    def claim_name(self) -> str:
        """The claim that holds the weights; "" for a path of the node."""
        return given_claim(self.spec) or (self.id if self.makes_claim else "")

    @property
    def node_folder(self) -> str:
        """Folder of the copy in the cache of each node; "" for weights in one volume."""
        return f"{self.namespace}/{self.id}" if self.spec.storage.mode == "PerNode" else ""

    @property
    def volume(self) -> Seen | None:
        """The claim that holds the weights, when it is there."""
        return self.claim if self.makes_claim else self.given_claim

    @property
    def directory(self) -> str:
        """Folder or file of the weights within their volume; "" for all of it."""
        local = self.spec.source.local
        if local is None:
            return self.id if self.spec.storage.claim_name is not None else ""
        path = posixpath.normpath(local.path)
        return "" if path == "." or local.host_path else path

    @property
    def retain(self) -> bool:
        """Whether the claim outlives the Models: as long as one of them says so."""
        return any(owner.retain for owner in self.owners)


def makes_claim(spec: ModelSpec) -> bool:
    """Whether the weights are kept in a claim that the operator makes."""
    return spec.source.local is None and spec.storage.claim_name is None and spec.storage.mode == "Shared"


def given_claim(spec: ModelSpec) -> str | None:
    """The claim of the user's that the spec names, if it does."""
    local = spec.source.local
    return local.pvc if local is not None else spec.storage.claim_name


def copy_id(namespace: str, spec: ModelSpec) -> str:
    """Name of a copy: Models of a namespace share one when source, credentials, hashes and kind of volume are the same.

    The size and what becomes of the volume in the end belong to the claim: it is the same copy in a larger one.
    """
    fields = spec.model_dump(
        mode="json",
        by_alias=True,
        include={"source", "credentials_secret_ref", "service_account_name", "sha256", "storage"},
        exclude={"storage": {"size", "reclaim"}},
        exclude_defaults=True,
    )
    if not fields.get("storage"):
        fields.pop("storage", None)
    text = namespace.encode() + b"/" + orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    return f"{slug(_title(spec))}-{hashlib.sha256(text).hexdigest()[:8]}"


def describe(spec: ModelSpec) -> str:
    """The source in one line, without credentials."""
    source = spec.source
    if source.hugging_face is not None:
        return f"hf://{source.hugging_face.repo}@{source.hugging_face.revision}"
    if source.url is not None:
        return _without_credentials(source.url.url or source.url.urls[0])
    if source.cloud is not None:
        return source.cloud.uri
    local = source.local
    if local is None:
        return ""
    return f"pvc://{local.pvc}/{local.path}" if local.pvc else f"file://{local.host_path}"


def _title(spec: ModelSpec) -> str:
    return describe(spec).split("://", 1)[-1].partition("@")[0].rstrip("/").rsplit("/", 1)[-1].partition("?")[0]


def _without_credentials(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
