"""A cluster as tests use it, and how to get one."""

import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import control, isolation, layout, node, sources
from tests.cluster.failure import Failed

LOAD_IMAGE = "BUD_TEST_LOAD_IMAGE"
_GPU = "nvidia.com/gpu"
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Write:
    """One request that meant to change something, from the audit log."""

    verb: str
    resource: str  # with its subresource, as in `pods/status`
    namespace: str
    name: str
    user: str
    agent: str
    code: int


@dataclass(frozen=True)
class Cluster:
    """A running test cluster. `state` is its folder, with `logs/` of every program of it."""

    record: layout.Record
    state: Path
    kubectl_path: Path

    @property
    def name(self) -> str:
        """What it is called here."""
        return self.record.name

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig."""
        return self.state / "admin.kubeconfig"

    @property
    def host_address(self) -> str:
        """Where pods reach servers that listen on this machine; Failed where they cannot."""
        if self.record.host_address is None:
            raise Failed(f"pods of this cluster reach no server here; {sources.HOST_ADDRESS} may say otherwise")
        return self.record.host_address

    def environment(self) -> dict[str, str]:
        """This process's environment, with kubectl and all else pointed at the cluster."""
        direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), str(isolation.RANGE))))
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "NO_PROXY": direct, "no_proxy": direct}

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """What `kubectl` printed; Failed with what it complained of. `timeout` in seconds."""
        try:
            done = subprocess.run(
                [self.kubectl_path, *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                env=self.environment(),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"kubectl {shlex.join(arguments)} took more than {timeout:.0f} s") from None
        if done.returncode:
            raise Failed(f"kubectl {shlex.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """What `kubectl get` finds, as it is in JSON."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """`kubectl apply` the objects."""
        self.kubectl("apply", "--filename=-", stdin="\n---\n".join(json.dumps(item) for item in objects))

    def add_fake_node(
        self,
        name: str,
        *,
        gpu_product: str | None = None,
        gpus: int = 8,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Add a node that KWOK plays, labelled as GPU feature discovery would, and wait until it is Ready.

        Every pod scheduled to it turns Ready at once, and a pod of a Job Succeeded; nothing runs. Only in the
        control tier. Without `gpu_product` it has no GPUs.
        """
        resources = {"cpu": "64", "memory": "512Gi", "pods": "256", "ephemeral-storage": "1Ti"}
        found = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        if gpu_product:
            resources[_GPU] = str(gpus)
            found |= _gpu_labels(gpu_product, gpus)
        found[layout.FAKE_NODE_LABEL] = self.name
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "labels": {**found, **(labels or {})},
                    "annotations": {control.KWOK_ANNOTATION: self.name},
                },
                "status": {"capacity": resources, "allocatable": resources},
            }
        )
        self.kubectl("wait", "--for=condition=Ready", f"node/{name}", "--timeout=30s")

    def add_fake_gpus(self, *, product: str, gpus: int = 8, node: str = control.NODE) -> None:
        """Give a real node GPUs that it does not have: pods that ask for them are scheduled to it and run."""
        self.kubectl("label", "--overwrite", "node", node, *(f"{k}={v}" for k, v in _gpu_labels(product, gpus).items()))
        status = {"status": {"capacity": {_GPU: str(gpus)}, "allocatable": {_GPU: str(gpus)}}}
        self.kubectl("patch", "node", node, "--subresource=status", "--patch", json.dumps(status))

    def load_image(self, archive: Path) -> None:
        """Put the images of an OCI archive where pods find them; they must not have `imagePullPolicy: Always`."""
        if self.record.source == "kind":
            sources.load(archive, layout.kind_name(self.name))
        elif self.record.holder is not None:
            node.load(archive, holder=self.record.holder)
        elif command := os.environ.get(LOAD_IMAGE):
            isolation.run(*shlex.split(command), str(archive))
        else:
            raise Failed(f"no way to load an image into this cluster; {LOAD_IMAGE} may name a command that does")

    def writes(self, who: str) -> list[Write]:
        """The writes by the user `who`, or by programs whose user agent starts with it, since the cluster is up."""
        if not self.record.audit:
            raise Failed("this cluster keeps no audit log: bring up a local one with --audit")
        found = []
        with (self.state / "audit.log").open() as log:
            for line in log:
                event = json.loads(line)
                write = _write(event)
                if write and (write.user == who or write.agent.startswith(who)):
                    found.append(write)
        return found


def _gpu_labels(product: str, gpus: int) -> dict[str, str]:
    return {f"{_GPU}.product": product, f"{_GPU}.count": str(gpus), f"{_GPU}.present": "true"}


def _write(event: Mapping[str, Any]) -> Write | None:
    """The write that an audit event tells of, if it is the last event of one."""
    if event["verb"] not in _WRITES or event["stage"] != "ResponseComplete":
        return None
    target = event.get("objectRef", {})
    resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
    return Write(
        verb=event["verb"],
        resource=resource,
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        user=event["user"]["username"],
        agent=event.get("userAgent", ""),
        code=event.get("responseStatus", {}).get("code", 0),
    )
