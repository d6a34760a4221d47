"""Flux's kustomize-controller beside a test cluster, and the Git repository that it believes in.

The source-controller is played: a GitRepository whose status names an archive that is served here.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.cluster import tools
from tests.cluster.failure import Failed
from tests.cluster.handle import Cluster
from tests.cluster.programs import DIES_WITH_PARENT
from tests.waiting import eventually

CONTROLLER = "kustomize-controller"
_SOURCES = {"GitRepository": "gitrepositories", "OCIRepository": "ocirepositories", "Bucket": "buckets"}


def _source_kind(kind: str, plural: str) -> dict[str, Any]:
    """A definition of one of the source-controller's kinds that takes anything."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.source.toolkit.fluxcd.io"},
        "spec": {
            "group": "source.toolkit.fluxcd.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [version],
        },
    }


def install(cluster: Cluster) -> None:
    """The kinds that kustomize-controller reads."""
    cluster.kubectl("apply", "--server-side", "-f", *map(str, tools.directory(CONTROLLER).glob("*.yaml")))
    cluster.apply(*(_source_kind(kind, plural) for kind, plural in _SOURCES.items()))
    names = ["kustomizations.kustomize.toolkit.fluxcd.io"]
    names += [f"{plural}.source.toolkit.fluxcd.io" for plural in _SOURCES.values()]
    cluster.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in names))
    eventually(lambda: _served(cluster, set(names)))  # the controller ends when it finds one missing


def _served(cluster: Cluster, names: set[str]) -> None:
    known = cluster.kubectl("api-resources", "--output=name", "--cached=false").split()
    assert names <= set(known)


@contextmanager
def controller(cluster: Cluster, log: Path) -> Iterator[None]:
    """kustomize-controller, for the length of a `with` block."""
    options = ["--metrics-addr=0", "--health-addr=0", "--http-retry=1", "--log-level=debug", "--min-retry-delay=100ms"]
    environment = cluster.environment() | {"RUNTIME_NAMESPACE": "default", "TMPDIR": str(log.parent)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*DIES_WITH_PARENT, tools.path(CONTROLLER), *options], env=environment, stdout=output, stderr=output
        )
        try:
            eventually(lambda: _works(process, log))
            yield
        finally:
            process.terminate()
            process.wait(30)


def _works(process: subprocess.Popen[bytes], log: Path) -> None:
    said = log.read_text()
    if process.poll() is not None:
        raise Failed(f"{CONTROLLER} ended:\n{said[-2000:]}")
    assert "Starting workers" in said


@dataclass
class Repository:
    """A GitRepository and a Kustomization of all of it, both called `name`, in one namespace."""

    cluster: Cluster
    namespace: str
    name: str
    url: str
    archives: dict[str, bytes] = field(default_factory=dict)

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments)

    def commit(self, *objects: Mapping[str, Any]) -> str:
        """A new revision that holds these objects and nothing else; gives its name."""
        return self.commit_files({"objects.yaml": "\n---\n".join(json.dumps(item) for item in objects)})

    def commit_files(self, files: Mapping[str, str]) -> str:
        """A new revision of these files, by path; gives its name."""
        archive = _archive(files)
        digest = hashlib.sha256(archive).hexdigest()
        self.archives[f"/{digest}.tar.gz"] = archive
        meta = {"name": self.name, "namespace": self.namespace}
        git = {"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": meta}
        self.cluster.apply(git | {"spec": {"url": "https://git.example.com/serving.git", "interval": "1h"}})
        artifact = {
            "digest": f"sha256:{digest}",
            "path": f"{digest}.tar.gz",
            "url": f"{self.url}/{digest}.tar.gz",
            "revision": f"main@sha1:{digest[:40]}",
            "lastUpdateTime": "2026-01-01T00:00:00Z",
            "size": len(archive),
        }
        status = json.dumps({"status": {"artifact": artifact}})
        self.kubectl("patch", "gitrepository", self.name, "--subresource=status", "--type=merge", "-p", status)
        return str(artifact["revision"])

    def follow(self, **spec: Any) -> None:
        """The Kustomization that applies whatever is committed."""
        found = {
            "interval": "1h",
            "retryInterval": "1s",
            "timeout": "2m",
            "prune": True,
            "wait": True,
            "path": "./",
            "targetNamespace": self.namespace,
            "sourceRef": {"kind": "GitRepository", "name": self.name},
        }
        self.cluster.apply(
            {
                "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
                "kind": "Kustomization",
                "metadata": {"name": self.name, "namespace": self.namespace},
                "spec": found | spec,
            }
        )

    def condition(self, kind: str = "Ready") -> dict[str, Any]:
        """A condition of the Kustomization, once it has one."""
        found = self.cluster.get("kustomization", self.name, "-n", self.namespace)
        conditions = {item["type"]: item for item in found.get("status", {}).get("conditions", [])}
        assert kind in conditions, f"no condition {kind} yet"
        wanted: dict[str, Any] = conditions[kind]
        return wanted

    def await_ready(self, status: str, said: str) -> dict[str, Any]:
        """Waits until Ready is `status` and its message holds `said`; gives the condition."""

        def check() -> dict[str, Any]:
            ready = self.condition()
            assert ready["status"] == status and said in ready["message"], ready
            return ready

        return eventually(check)

    def reconcile(self, token: str) -> None:
        """Asks for a reconciliation, as `flux reconcile kustomization` does, and waits until it is over."""
        self.kubectl("annotate", "--overwrite", "kustomization", self.name, f"reconcile.fluxcd.io/requestedAt={token}")

        def check() -> None:
            status = self.cluster.get("kustomization", self.name, "-n", self.namespace)["status"]
            assert status.get("lastHandledReconcileAt") == token, status
            assert self.condition()["status"] == "True"

        eventually(check)


def _archive(files: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@contextmanager
def repository(cluster: Cluster, namespace: str, name: str = "serving") -> Iterator[Repository]:
    """A repository whose archives are served for the length of a `with` block."""
    archives: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in archives else 404)
            self.end_headers()
            self.wfile.write(archives.get(self.path, b""))

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Repository(cluster, namespace, name, f"http://127.0.0.1:{server.server_port}", archives)
        finally:
            server.shutdown()
            thread.join()
