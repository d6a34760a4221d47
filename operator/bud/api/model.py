"""Model: where weights come from, how they are checked and kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from bud.api.base import (
    AGE,
    MESSAGE,
    REASON,
    Column,
    Conditions,
    Kind,
    Label,
    NameRef,
    ObjectName,
    Quantity,
    Resource,
    ShortText,
    Status,
    at_least_1mi,
    atomic,
    list_map,
    rule,
    rules,
)

Format = Literal["gguf", "safetensors", "pytorch", "onnx", "other"]
"""How the weights are stored on disk."""

Task = Literal[
    "text-generation",
    "feature-extraction",
    "text-classification",
    "text-ranking",
    "automatic-speech-recognition",
    "text-to-speech",
    "text-to-image",
]
"""What a model does, by the pipeline tags of the Hugging Face Hub (https://huggingface.co/docs/hub/models-tasks)."""

ModelPhase = Literal["Downloading", "Available", "Error", "Deleting"]

Pattern = Annotated[str, Field(min_length=1, max_length=256)]
Url = Annotated[str, Field(min_length=8, max_length=2048, pattern=r"^https?://[^\s]+$")]
FileName = Annotated[str, Field(min_length=1, max_length=512)]


class HuggingFaceSource(Resource):
    """A repository on the Hugging Face Hub, or on a mirror that speaks the same API."""

    repo: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$")] = Field(
        description="Repository, as in `meta-llama/Llama-3.2-1B-Instruct`."
    )
    revision: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        "main", description="Branch, tag or commit. The commit that it resolved to is in status.revision."
    )
    allow_patterns: tuple[Pattern, ...] = Field(
        (),
        max_length=64,
        description="Only files that match one of these glob patterns.",
        json_schema_extra=atomic(),
    )
    ignore_patterns: tuple[Pattern, ...] = Field(
        (),
        max_length=64,
        description="No files that match one of these glob patterns.",
        json_schema_extra=atomic(),
    )
    endpoint: Url | None = Field(None, description="Address of a mirror. Default: https://huggingface.co.")


class UrlSource(Resource):
    """Plain files behind http or https."""

    url: Url | None = Field(None, description="Address of one file.")
    urls: tuple[Url, ...] = Field(
        (), max_length=256, description="Addresses of several files.", json_schema_extra=atomic()
    )


class LocalSource(Resource):
    """Weights that are already in the cluster; they are hashed where they are, not copied."""

    pvc: ObjectName | None = Field(None, description="A PersistentVolumeClaim of the same namespace.")
    path: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        ".", description="Folder or file within the claim. Default: all of it."
    )
    host_path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/")] | None = Field(
        None, description="Absolute path of a folder on every node. Refused unless the operator allows a prefix of it."
    )


class CloudSource(Resource):
    """A prefix or an object in an object store."""

    uri: Annotated[str, Field(min_length=6, max_length=2048, pattern=r"^(s3|gs|az)://[^/\s]+(/[^\s]*)?$")] = Field(
        description="`s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`."
    )
    endpoint: Url | None = Field(None, description="Address of an S3-compatible or emulated store.")
    region: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(None, description="Region of the bucket.")


class ModelSource(Resource):
    """Exactly one of the four places that weights can come from."""

    hugging_face: HuggingFaceSource | None = Field(
        None, description="A repository on the Hugging Face Hub or a mirror of it."
    )
    url: UrlSource | None = Field(
        None,
        description="Files behind http or https.",
        json_schema_extra=rules(
            rule(
                "has(self.url) != (has(self.urls) && self.urls.size() > 0)",
                "set exactly one of url (one file) or urls (several files)",
            )
        ),
    )
    local: LocalSource | None = Field(
        None,
        description="Weights that are already in the cluster.",
        json_schema_extra=rules(
            rule("has(self.pvc) != has(self.hostPath)", "set exactly one of pvc or hostPath"),
            rule(
                "!has(self.path) || (!self.path.startsWith('/') && !self.path.split('/').exists(p, p == '..'))",
                "path must be relative to the claim and must not contain ..",
            ),
            rule(
                "!has(self.hostPath) || !self.hostPath.split('/').exists(p, p == '..')",
                "hostPath must not contain ..",
            ),
        ),
    )
    cloud: CloudSource | None = Field(None, description="An object store.")


_ACCESS_MODES = atomic() | rules(
    rule(
        "self.size() == 0 || self.exists(m, m != 'ReadOnlyMany')",
        "the download must be able to write: add ReadWriteOnce or ReadWriteMany to accessModes",
    ),
    rule(
        "!self.exists(m, m == 'ReadWriteOncePod') || self.size() == 1",
        "ReadWriteOncePod goes with no other access mode: remove the others, or it",
    ),
    rule("self.all(m, self.exists_one(other, other == m))", "an access mode is named twice: remove one of the two"),
)
AccessMode = Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"]


class ModelStorage(Resource):
    """The volume that keeps the weights."""

    mode: Literal["Shared", "PerNode"] = Field(
        "Shared",
        description="Shared: one volume, which all pods mount. PerNode: every node that serves the model keeps a copy "
        "on its own disk, within the quota that the operator was started with.",
    )
    size: Quantity | None = Field(
        None,
        description="Size of the volume. Default: the operator's (20Gi unless it was set otherwise). A larger size "
        "grows the volume where its StorageClass allows that; a volume never shrinks.",
        json_schema_extra=rules(at_least_1mi("size")),
    )
    storage_class_name: ObjectName | None = Field(
        None, description="StorageClass of the volume. Default: the cluster's default class."
    )
    access_modes: Annotated[tuple[AccessMode, ...], Field(max_length=3, json_schema_extra=_ACCESS_MODES)] = Field(
        (),
        description="Access modes of the volume. Default: ReadWriteMany where the StorageClass is known to share its "
        "volumes between nodes, else ReadWriteOnce.",
    )
    claim_name: ObjectName | None = Field(
        None,
        description="A PersistentVolumeClaim of yours, of the same namespace, in which the weights are kept in a "
        "folder of their own. Default: the operator makes a claim.",
    )
    reclaim: Literal["Delete", "Retain"] | None = Field(
        None,
        description="What becomes of the volume when no Model wants it any more. Default: Delete for a claim that the "
        "operator made. A claim of yours is always kept.",
    )


_PER_NODE = "!has(self.mode) || self.mode != 'PerNode'"
_STORAGE_RULES = rules(
    rule(
        f"{_PER_NODE} || !(has(self.size) || has(self.storageClassName) || has(self.accessModes) || "
        "has(self.claimName) || has(self.reclaim))",
        "mode PerNode keeps copies on the nodes' own disks: remove size, storageClassName, accessModes, claimName and "
        "reclaim, or set mode to Shared",
    ),
    rule(
        "!has(self.claimName) || !(has(self.size) || has(self.storageClassName) || has(self.accessModes))",
        "claimName names a claim that exists: remove size, storageClassName and accessModes, or remove claimName",
    ),
    rule(
        "!has(self.claimName) || !has(self.reclaim) || self.reclaim == 'Retain'",
        "a claim of yours is always kept: remove reclaim, or set it to Retain",
    ),
)


class ModelSpec(Resource):
    """Where weights come from, how they are checked and kept."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.source.local) || !has(self.storage) || !has(self.storage.claimName)",
                "weights of source.local stay where they are: remove storage.claimName",
            ),
            rule(
                "!has(self.storage) || !has(self.storage.mode) || self.storage.mode != 'PerNode' || "
                "!(has(self.source.local) || has(self.serviceAccountName))",
                "with storage.mode PerNode the engine's pods fetch the weights: remove serviceAccountName (use "
                "credentialsSecretRef), and for source.local set storage.mode to Shared",
            ),
        )
    )

    source: ModelSource = Field(
        description="Where the weights come from: exactly one of huggingFace, url, local or cloud.",
        json_schema_extra=rules(
            rule(
                "[has(self.huggingFace), has(self.url), has(self.local), has(self.cloud)].filter(x, x).size() == 1",
                "set exactly one of huggingFace, url, local or cloud; remove the others",
            )
        ),
    )
    credentials_secret_ref: NameRef | None = Field(
        None,
        description="Secret of the same namespace with `token`, or `username` and `password`, or "
        "`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or `GOOGLE_SERVICE_ACCOUNT_KEY`, or "
        "`AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_STORAGE_ACCOUNT_KEY`.",
    )
    sha256: dict[FileName, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]] = Field(
        {}, max_length=256, description="Expected SHA-256 (64 lower-case hex digits) by file name."
    )
    format: Format | None = Field(None, description="How the weights are stored. Default: found from the files.")
    task: Task | None = Field(
        None, description="What the model does. Default: found from the files, else text-generation."
    )
    service_account_name: ObjectName | None = Field(
        None,
        description="ServiceAccount of the download's pod, of the same namespace, for the identity that a cloud gives "
        "to it. No token for the API server is mounted.",
    )
    storage: ModelStorage = Field(
        ModelStorage(), description="The volume that keeps the weights.", json_schema_extra=_STORAGE_RULES
    )
    metadata: dict[str, Any] = Field(
        {},
        max_length=64,
        description="Anything you want to keep with the model; the operator does not read it.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class Progress(Status):
    """How far the download is; absent once it is over."""

    percent: Annotated[str, Field(max_length=8)] = Field(
        "", description="Done, as in `45%`; empty while the total is unknown."
    )
    bytes_done: int = Field(0, ge=0, description="Bytes on the volume.")
    bytes_total: int | None = Field(None, ge=0, description="Bytes in all, when the source tells.")
    bytes_per_second: int = Field(0, ge=0, description="Speed of late, in bytes a second.")
    seconds_left: int | None = Field(None, ge=0, description="Estimate, in seconds.")


class Copy(Status):
    """One copy of the weights."""

    cluster: Label = Field(description="Cluster that holds the copy.")
    claim_name: ShortText = Field("", description="PersistentVolumeClaim that holds it; empty for hostPath.")
    path: Annotated[str, Field(max_length=1024)] = Field(
        "", description="Folder or file within the volume; with storage.mode PerNode, folder in the nodes' cache."
    )


class AdapterFound(Status):
    """What the files of an adapter say of it."""

    type: Annotated[str, Field(max_length=256)] = Field("", description="Its type, as in `lora`.")
    base: Annotated[str, Field(max_length=256)] = Field(
        "", description="The model that it was made for, as its files name it; empty when they do not."
    )


class ModelStatus(Status):
    """What is known of the weights."""

    observed_generation: int = Field(0, ge=-1, description="The generation of the spec that this status answers.")
    phase: ModelPhase | None = Field(None, description="Downloading, Available, Error or Deleting.")
    progress: Progress | None = Field(None, description="How far the download is.")
    size: Annotated[str, Field(max_length=32)] = Field(
        "", description="Size of the weights, for people, as in `2.3Gi`."
    )
    bytes: int | None = Field(None, ge=0, description="Size of the weights in bytes.")
    files: int | None = Field(None, ge=0, description="Number of files.")
    digest: Annotated[str, Field(max_length=80)] = Field(
        "", description="`sha256:` of the list of files with their hashes."
    )
    revision: Annotated[str, Field(max_length=200)] = Field("", description="The commit that the revision resolved to.")
    verification: Literal["", "verified", "recorded"] = Field(
        "",
        description="`verified`: every file's hash was compared with a published or given one; `recorded`: hashes were "
        "taken, and there was nothing to compare them with.",
    )
    format: Annotated[str, Field(max_length=32)] = Field("", description="Format of the weights, given or found.")
    task: Annotated[str, Field(max_length=64)] = Field("", description="Task of the model, given or found.")
    file: Annotated[str, Field(max_length=2048)] = Field("", description="Main file, for engines that load one file.")
    architecture: Annotated[str, Field(max_length=256)] = Field(
        "", description="Architecture, as in `llama`; empty when the files do not tell it."
    )
    adapter: AdapterFound | None = Field(
        None, description="Set when the weights are an adapter, to be named in a Deployment's spec.adapters."
    )
    copies: Annotated[tuple[Copy, ...], Field(max_length=64, json_schema_extra=list_map("cluster"))] = Field(
        (), description="Where the weights are."
    )
    conditions: Conditions = ()


MODEL = Kind(
    kind="Model",
    plural="models",
    short="bmodel",
    namespaced=True,
    spec=ModelSpec,
    status=ModelStatus,
    description="Weights of a model: where they come from, how they are checked and kept.",
    columns=(
        Column("Phase", ".status.phase", description="Downloading, Available, Error or Deleting."),
        Column("Size", ".status.size", description="Size of the weights."),
        Column("Progress", ".status.progress.percent", description="How far the download is."),
        REASON,
        AGE,
        Column("Format", ".status.format", priority=1),
        Column("Task", ".status.task", priority=1),
        MESSAGE,
    ),
)
