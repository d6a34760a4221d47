"""Where a cluster comes from: the one that someone names, one of `kind`, or one that runs right here."""

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.cluster import control, layout, node, pki, tools
from tests.cluster.cache import Say
from tests.cluster.failure import Failed
from tests.cluster.isolation import run
from tests.cluster.programs import Programs

KUBECONFIG = "BUD_TEST_KUBECONFIG"
HOST_ADDRESS = "BUD_TEST_HOST_ADDRESS"

_REAL_NODES = f"--selector=!{layout.FAKE_NODE_LABEL}"


class Source(Protocol):
    """A cluster that can be brought up and taken down; its kubeconfig is `admin.kubeconfig` in its state folder."""

    kind: str
    host_address: str | None
    holder: int | None

    def start(self) -> None:
        """Bring it up; Failed when that does not work."""

    def stop(self) -> None:
        """Take down whatever `start` brought up, however far it came."""


def choose(name: str, tier: layout.Tier, state: Path, *, audit: bool, say: Say) -> Source:
    """The first of: what BUD_TEST_KUBECONFIG names, Docker with kind, a local cluster."""
    if theirs := elsewhere():
        return Elsewhere(name, tier, state, kubeconfig=theirs, say=say)
    if kind_works():
        return Kind(name, tier, state, say=say)
    if tier == "node":
        return node.Node(name, state, audit=audit, say=say)
    return Control(name, state, audit=audit, say=say)


def elsewhere() -> Path | None:
    """The kubeconfig that BUD_TEST_KUBECONFIG names, if any; never the ambient one."""
    named = os.environ.get(KUBECONFIG)
    return Path(named) if named else None


def kind_works() -> bool:
    """Whether a kind cluster can be had."""
    return shutil.which("kind") is not None and tools.docker_works()


class Control:
    """A control plane and KWOK as plain processes of this user, on the loopback interface."""

    kind = "local"
    host_address: str | None = None
    holder: int | None = None

    def __init__(
        self,
        name: str,
        state: Path,
        *,
        audit: bool,
        say: Say,
        options: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        self._name = name
        self._state = state
        self._audit = audit
        self._say = say
        self._options = options or {}
        self.programs = Programs(logs=state / "logs", cwd=state)
        self._port: socket.socket | None = None
        self._plane: control.ControlPlane | None = None

    def start(self) -> None:
        """Bring up the control plane and KWOK."""
        kube = tools.path("kube", say=self._say)
        tools.directory("kwok", say=self._say)
        port = self._port = _free_port()
        self._plane = plane = control.ControlPlane(
            state=self._state,
            inside=str(self._state),
            kube=str(kube),
            bind="127.0.0.1",
            address="127.0.0.1",
            advertise="192.0.2.1",  # of the documentation: it must be no loopback address, and nobody uses it
            port=port.getsockname()[1],
            audit=self._audit,
            options=self._options,
        )
        plane.prepare()
        control.start(plane, self.programs, nodes=False)
        self.programs.start("kwok", control.kwok(self._name, self._state / "kwok.kubeconfig"))

    def kill_apiserver(self) -> None:
        """Have the cluster without an API server, all else running on."""
        self.programs.kill("apiserver")

    def start_apiserver(self) -> None:
        """Start the API server again, at the same address."""
        assert self._plane is not None
        control.start_apiserver(self._plane, self.programs, nodes=False)

    def stop(self) -> None:
        """Kill the programs."""
        self.programs.stop()
        if self._port:
            self._port.close()


def _free_port() -> socket.socket:
    """A port bound but not listening: it stays ours, and the API server shares it."""
    port = socket.socket()
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    port.bind(("127.0.0.1", 0))
    return port


class Kind:
    """A cluster of kind's, in Docker."""

    kind = "kind"
    holder: int | None = None

    def __init__(self, name: str, tier: layout.Tier, state: Path, *, say: Say) -> None:
        self._cluster = name
        self._name = layout.kind_name(name)
        self._tier = tier
        self._kubeconfig = state / "admin.kubeconfig"
        self._say = say
        self._programs = Programs(logs=state / "logs", cwd=state)
        self.host_address: str | None = None

    def start(self) -> None:
        """Create it, with a metrics server or, in the control tier, KWOK."""
        tools.path("kube", say=self._say)
        self._say("creating a kind cluster")
        run("kind", "create", "cluster", f"--name={self._name}", f"--kubeconfig={self._kubeconfig}", "--wait=180s")
        template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
        gateways = run("docker", "network", "inspect", "kind", "--format", template).split()
        self.host_address = next((address for address in gateways if "." in address), None)
        if self._tier == "control":
            _fake_nodes_only(self._cluster, self._kubeconfig, programs=self._programs)
            return
        archive = tools.image("metrics-server", say=self._say)
        load(archive, self._name)
        run(*_kubectl(self._kubeconfig), "apply", "-f", "-", stdin=node.addons("metrics"))

    def stop(self) -> None:
        """Delete it."""
        self._programs.stop()
        run("kind", "delete", "cluster", f"--name={self._name}")


class Elsewhere:
    """A cluster that someone else runs and has marked as one for tests."""

    kind = "external"
    holder: int | None = None

    def __init__(self, name: str, tier: layout.Tier, state: Path, *, kubeconfig: Path, say: Say) -> None:
        self._cluster = name
        self._tier = tier
        self._theirs = kubeconfig
        self._kubeconfig = state / "admin.kubeconfig"
        self._say = say
        self._programs = Programs(logs=state / "logs", cwd=state)
        self.host_address = os.environ.get(HOST_ADDRESS)

    def start(self) -> None:
        """Check that it may be used, and start KWOK for it in the control tier; Failed when it may not."""
        tools.path("kube", say=self._say)
        if not self._theirs.is_file():
            raise Failed(f"{KUBECONFIG} names {self._theirs}, which is no file")
        # One file of its own: theirs may name others relative to where it lies.
        flat = run(*_kubectl(self._theirs), "config", "view", "--raw", "--flatten", "--minify")
        pki.write_private(self._kubeconfig, flat.encode())
        key = layout.TEST_LABEL.replace(".", r"\.")
        label = run(
            *_kubectl(self._kubeconfig), "get", "namespace", "kube-system", f"-o=jsonpath={{.metadata.labels.{key}}}"
        )
        if label != "true":
            raise Failed(
                f"the cluster of {KUBECONFIG} is not marked as one for tests, which may delete what they find there; "
                f"if it is one: kubectl label namespace kube-system {layout.TEST_LABEL}=true"
            )
        if self._tier == "control":
            _fake_nodes_only(self._cluster, self._kubeconfig, programs=self._programs)

    def stop(self) -> None:
        """Remove the fake nodes and let pods run on the real ones again; the cluster stays."""
        self._programs.stop()
        if self._tier == "control" and self._kubeconfig.exists():
            kubectl = _kubectl(self._kubeconfig)
            run(*kubectl, "delete", "nodes", f"--selector={layout.FAKE_NODE_LABEL}={self._cluster}")
            run(*kubectl, "uncordon", _REAL_NODES)


def load(archive: Path, cluster: str) -> None:
    """Put the images of an archive on the nodes of a kind cluster."""
    run("kind", "load", "image-archive", str(archive), f"--name={cluster}")


def _fake_nodes_only(cluster: str, kubeconfig: Path, *, programs: Programs) -> None:
    """Let pods run on fake nodes alone."""
    run(*_kubectl(kubeconfig), "cordon", _REAL_NODES)
    programs.start("kwok", control.kwok(cluster, kubeconfig))


def _kubectl(kubeconfig: Path) -> list[str]:
    return [str(tools.path("kubectl")), "--kubeconfig", str(kubeconfig)]
