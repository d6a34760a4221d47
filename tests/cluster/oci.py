"""Packs files as a container image of one layer, in the layout of the OCI image specification, as one archive."""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MEDIA = "application/vnd.oci.image."


def pack(files: Mapping[str, Path], *, name: str, entrypoint: Sequence[str], archive: Path) -> None:
    """Write `archive`: an image called `name` that holds `files` (path inside -> file here), all executable."""
    layer = _layer(files)
    blobs: dict[str, bytes] = {}

    def blob(kind: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": _MEDIA + kind, "digest": f"sha256:{digest}", "size": len(data)}

    def document(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        return blob(kind, json.dumps(content).encode())

    layers = [blob("layer.v1.tar", layer)]
    config = document(
        "config.v1+json",
        {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint)},
            "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]},
        },
    )
    manifest = {"schemaVersion": 2, "mediaType": _MEDIA + "manifest.v1+json", "config": config, "layers": layers}
    index = document("manifest.v1+json", manifest)
    # containerd reads the image's full name from the first, everyone else the tag from the second.
    index["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    with tarfile.open(archive, "w") as out:
        _add(out, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(out, "index.json", json.dumps({"schemaVersion": 2, "manifests": [index]}).encode())
        for place, data in blobs.items():
            _add(out, place, data)


def _layer(files: Mapping[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, "tmp", None, mode=0o1777)
        for place, file in sorted(files.items()):
            _add(tar, place.lstrip("/"), file.read_bytes(), mode=0o755)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes | None, *, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.mode = mode
    if data is None:
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    else:
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
