"""What tests do to a namespace: apply, look, wait, and play the kubelet of a download where there is none."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bud.kube.kinds import WANTED_BY
from tests.cluster.failure import Failed
from tests.cluster.handle import Cluster, Write
from tests.waiting import eventually

RUNTIME: dict[str, Any] = {
    "apiVersion": "bud.studio/v1alpha1",
    "kind": "Runtime",
    "metadata": {"name": "tiny"},
    "spec": {
        "image": "engine:1",
        "args": ["--model", "$(BUD_MODEL_FILE)"],
        "formats": ["gguf"],
        "tasks": ["text-generation"],
    },
}

RESULT: dict[str, Any] = {
    "digest": "sha256:" + "a" * 64,
    "bytes": 500_000,
    "files": 1,
    "revision": "abc",
    "verification": "verified",
    "format": "gguf",
    "task": "text-generation",
    "file": "tiny.gguf",
}


def model(name: str, spec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    source = {"source": {"url": {"url": f"http://files/{name}.gguf"}}}
    return {
        "apiVersion": "bud.studio/v1alpha1",
        "kind": "Model",
        "metadata": {"name": name},
        "spec": dict(spec or source),
    }


def deployment(name: str, model_name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "bud.studio/v1alpha1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"modelRef": {"name": model_name}, **spec},
    }


def claim_of_ones_own(name: str, *modes: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": list(modes or ("ReadWriteOnce",)), "resources": {"requests": {"storage": "20Gi"}}},
    }


def storage_class(name: str, *, default: bool = False, **fields: Any) -> dict[str, Any]:
    """A StorageClass for which nobody makes volumes: `World.bind` does."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": name,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true" if default else "false"},
        },
        "provisioner": "disk.example.com",
        **fields,
    }


def _only(node: str) -> dict[str, Any]:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}


def refused(cluster: Cluster, item: Mapping[str, Any], *options: str) -> str:
    """The message with which the API server refuses an object; fails when it takes it."""
    try:
        cluster.kubectl("apply", *options, "--dry-run=server", "-f", "-", stdin=json.dumps(item))
    except Failed as failed:
        return str(failed)
    raise AssertionError(f"accepted: {item}")


@dataclass
class World:
    """One namespace of a test cluster."""

    cluster: Cluster
    namespace: str
    volumes: list[str] = field(default_factory=list)

    @classmethod
    def create(cls, cluster: Cluster) -> World:
        namespace = f"t-{secrets.token_hex(4)}"
        cluster.kubectl("create", "namespace", namespace)
        return cls(cluster, namespace)

    def clear(self) -> None:
        """Deletes everything; a namespace that does not go is a failure of the operator's."""
        self.kubectl("delete", "mdep,bmodel", "--all", "--wait=false")
        eventually(lambda: self.gone("mdep,bmodel"))
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false")
        for volume in self.volumes:
            self.cluster.kubectl("delete", "pv", volume, "--wait=false")

    def gone(self, kinds: str) -> None:
        """Fails until there is nothing of these kinds."""
        left = self.kubectl("get", kinds, "--output=name")
        assert not left, f"still there: {left}"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(item) for item in objects))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def find(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-o", "json"))["items"]
        return found

    def condition(self, kind: str, name: str, condition: str = "Ready") -> dict[str, Any]:
        found = self.get(kind, name)
        conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", [])}
        assert condition in conditions, f"{kind} {name} has no condition {condition} yet"
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
        ready: dict[str, Any] = conditions[condition]
        return ready

    def await_reason(self, kind: str, name: str, reason: str, *, within: float = 60) -> dict[str, Any]:
        """Waits for the reason of Ready; gives that condition."""

        def check() -> dict[str, Any]:
            ready = self.condition(kind, name)
            assert ready["reason"] == reason, f"{ready['reason']}: {ready['message']}"
            return ready

        return eventually(check, within=within)

    def await_phase(self, kind: str, name: str, phase: str, *, within: float = 60) -> dict[str, Any]:
        """Waits for a phase; gives the status."""

        def check() -> dict[str, Any]:
            found: dict[str, Any] = self.get(kind, name).get("status", {})
            assert found.get("phase") == phase, f"{found.get('phase')}: {found.get('conditions')}"
            return found

        return eventually(check, within=within)

    def one(self, kind: str) -> dict[str, Any]:
        """Waits until there is exactly one object of a kind."""

        def check() -> dict[str, Any]:
            found = self.find(kind)
            assert len(found) == 1, f"{len(found)} of {kind}"
            return found[0]

        return eventually(check)

    def end_download(self, job: str, *, code: int = 0, message: Mapping[str, Any] = RESULT) -> None:
        """Plays the kubelet: the download's pod ended with this exit code and termination message."""

        def pod() -> str:
            pods = self.find_by(f"job-name={job}")
            assert pods, f"no pod of Job {job} yet"
            name: str = pods[-1]["metadata"]["name"]
            return name

        ended = {"exitCode": code, "message": json.dumps(message), "reason": "Error" if code else "Completed"}
        container = {
            "name": "weights", "image": "x", "imageID": "x", "ready": False, "restartCount": 0, "state": {"terminated": ended},
        }  # fmt: skip
        status = {"status": {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}}
        self.kubectl("patch", "pod", eventually(pod), "--subresource=status", "--type=merge", "-p", json.dumps(status))

    def find_by(self, selector: str, kind: str = "pods") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return found

    def bind(self, claim: str, *, node: str = "") -> None:
        """Gives a claim a volume, of one node if it is named, so that pods that mount it can be scheduled."""
        wanted = self.get("pvc", claim)["spec"]
        name = f"{self.namespace}-{claim}"[:63].rstrip("-")
        self.volumes.append(name)
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "accessModes": wanted["accessModes"],
                    "storageClassName": wanted.get("storageClassName", ""),
                    "capacity": {"storage": "20Gi"},
                    "claimRef": {"namespace": self.namespace, "name": claim},
                    "hostPath": {"path": "/nowhere"},
                    "persistentVolumeReclaimPolicy": "Retain",
                    **({"nodeAffinity": {"required": _only(node)}} if node else {}),
                },
            }
        )
        self.kubectl("wait", f"pvc/{claim}", "--for=jsonpath={.status.phase}=Bound", "--timeout=50s")

    def make_available(
        self, name: str, spec: Mapping[str, Any] | None = None, *, result: Mapping[str, Any] = RESULT, node: str = ""
    ) -> str:
        """A Model whose weights are there; gives the name of its claim."""
        self.apply(model(name, spec))
        return self.finish_download(name, result=result, node=node)

    def finish_download(self, name: str, *, result: Mapping[str, Any] = RESULT, node: str = "") -> str:
        """Plays the download of a Model that is there already; gives the name of its claim."""
        job: str = eventually(lambda: self._job_of(name))
        self.end_download(job, message=result)
        self.await_phase("bmodel", name, "Available")
        self.bind(job, node=node)
        return job

    def _job_of(self, model_name: str) -> str:
        owned = [job for job in self.find("jobs") if model_name in job["metadata"]["annotations"][WANTED_BY].split(",")]
        assert owned, f"Model {model_name} has no Job yet"
        name: str = owned[0]["metadata"]["name"]
        return name

    def serve(self, name: str, **spec: Any) -> dict[str, Any]:
        """A Deployment that is Active; gives its apps/v1 child."""
        self.make_available(f"{name}-weights")
        self.apply(deployment(name, f"{name}-weights", **spec))
        self.await_phase("mdep", name, "Active")
        return self.one("deployments.apps")

    def writes(self) -> list[Write]:
        """Every write of the operator since the cluster came up."""
        return self.cluster.writes("bud-operator/")

    def events(self, name: str) -> list[tuple[str, str]]:
        """Type and reason of every Event about an object, in order."""
        found = [e for e in self.find("events") if e["involvedObject"]["name"] == name]
        return [(e["type"], e["reason"]) for e in sorted(found, key=lambda e: str(e["eventTime"]))]
