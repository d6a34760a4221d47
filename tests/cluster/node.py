"""A node that runs pods: containerd, kubelet and kube-proxy in namespaces of their own; DNS, metrics and volumes."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster import control, isolation, tools
from tests.cluster.failure import Failed
from tests.cluster.isolation import run
from tests.cluster.programs import Programs

_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "socat": "socat",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
_CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")
_ADDONS = Path(__file__).parent / "addons"
_IMAGES = ("pod", "coredns", "metrics-server")
_PORT = 6443
_SOCKET = "/run/containerd/containerd.sock"


def require(say: Callable[[str], None]) -> None:
    """See to it that this machine can run a node: Failed without root; missing Debian packages are installed."""
    if os.geteuid():
        raise Failed("the node tier needs root (namespaces, mounts, cgroups); the control tier does not")
    missing = {package for program, package in _PACKAGES.items() if not shutil.which(program)}
    if _cni() is None:
        missing.add("containernetworking-plugins")
    if not missing:
        return
    names = " ".join(sorted(missing))
    if not shutil.which("apt-get"):
        raise Failed(f"the node tier needs these programs (Debian's package names): {names}")
    say(f"installing Debian packages: {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *sorted(missing)]):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{' '.join(argv)} failed: {done.stderr.strip()}")


def _cni() -> str | None:
    return next((folder for folder in _CNI_FOLDERS if Path(folder, "ptp").exists()), None)


class Node:
    """A whole cluster of one node, its state in `state`."""

    kind = "local"

    def __init__(self, name: str, state: Path, *, audit: bool, say: Callable[[str], None]) -> None:
        self._name = name
        self._state = state
        self._audit = audit
        self._say = say
        self._namespaces: isolation.Namespaces | None = None
        self._programs: Programs | None = None
        self.host_address: str | None = None
        self.holder: int | None = None

    def start(self) -> None:
        """Bring it up to a Ready node with DNS; Failed when something does not come up."""
        require(self._say)
        kube = tools.path("kube", say=self._say)
        images = [tools.image(name, say=self._say) for name in _IMAGES]
        namespaces = self._namespaces = isolation.Namespaces(tools.path("pod", say=self._say))
        self.holder = namespaces.pid
        link = isolation.Link(self._name, namespaces)
        self.host_address = link.host
        namespaces.script(
            f"iptables -t nat -A POSTROUTING -s {control.POD_RANGE} ! -d {control.POD_RANGE} -j MASQUERADE"
        )
        namespaces.cover(state=self._state, programs=kube.parent)
        isolation.create_cgroup(self._name)
        programs = self._programs = Programs(logs=self._state / "logs", cwd=self._state, prefix=namespaces.enter)
        plane = control.ControlPlane(
            state=self._state,
            inside="/run/cluster",
            kube="/run/programs/kube",
            bind="0.0.0.0",
            address=link.cluster,
            advertise=link.cluster,
            port=_PORT,
            audit=self._audit,
        )
        plane.prepare()
        self._configure(link.cluster)
        programs.start("containerd", ["containerd", "--config", "/run/cluster/containerd.toml"])
        control.start(plane, programs, nodes=True)
        self._say("the API server answers")
        self._start_node(programs, link.cluster)
        for archive in images:
            load(archive, holder=namespaces.pid)
        kubectl = [str(kube), "kubectl", "--kubeconfig", str(self._state / "admin.kubeconfig")]
        run(*kubectl, "apply", "-f", "-", stdin=addons("dns", "metrics", "volumes"))
        self._wait(programs, kubectl)

    def stop(self) -> None:
        """Kill everything and remove what lies outside the namespaces."""
        if self._namespaces:
            self._namespaces.close()
        if self._programs:
            self._programs.stop()
        isolation.remove_cgroup(self._name)

    def _start_node(self, programs: Programs, address: str) -> None:
        kube = "/run/programs/kube"
        programs.until(
            lambda: (self._state / "covers/var/lib/containerd").exists() and self._ctr("version"),
            what="containerd",
            seconds=30,
        )
        kubelet = [f"--node-ip={address}", f"--hostname-override={control.NODE}"]
        node = "--kubeconfig=/run/cluster/node.kubeconfig"
        programs.start("kubelet", [kube, "kubelet", "--config=/run/cluster/kubelet.json", node, *kubelet])
        programs.start("proxy", [kube, "proxy", "--config=/run/cluster/proxy.json"])
        volumes = ["--kubeconfig=/run/cluster/volumes.kubeconfig", "--root=/var/lib/volumes"]
        programs.start("volumes", [kube, "provisioner", *volumes])

    def _ctr(self, *argv: str) -> bool:
        assert self._namespaces
        command = [*self._namespaces.enter, "ctr", "--address", _SOCKET, *argv]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _wait(self, programs: Programs, kubectl: list[str]) -> None:
        def succeeds(*argv: str) -> bool:
            return subprocess.run([*kubectl, *argv], capture_output=True, check=False).returncode == 0

        ready = ("wait", "--timeout=1s", "--for=condition=Ready", f"node/{control.NODE}")
        programs.until(lambda: succeeds(*ready), what="a Ready node", seconds=60)
        self._say("the node is Ready")
        dns = ("--namespace=kube-system", "wait", "--timeout=1s", "--for=condition=Available", "deployment/coredns")
        programs.until(lambda: succeeds(*dns), what="CoreDNS", seconds=60)

    def _configure(self, address: str) -> None:
        for file, content in {
            "kubelet.json": _kubelet(isolation.cgroup(self._name)),
            "proxy.json": _PROXY,
            "cni/pods.conflist": _NETWORK,
        }.items():
            (self._state / file).parent.mkdir(exist_ok=True)
            (self._state / file).write_text(json.dumps(content, indent=1))
        # Pods that use the node's resolver have nobody to ask: there is no way out of the namespace.
        (self._state / "resolv.conf").write_text("")
        (self._state / "containerd.toml").write_text(_containerd(self._state))


def load(archive: Path, *, holder: int) -> None:
    """Import the images of an OCI or Docker archive into the containerd of the cluster held by `holder`."""
    enter = ["nsenter", f"--mount=/proc/{holder}/ns/mnt"]
    ctr = ["ctr", "--address", _SOCKET, "--namespace", "k8s.io", "images", "import", "-"]
    with archive.open("rb") as stream:
        done = subprocess.run([*enter, *ctr], stdin=stream, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"could not load {archive}: {done.stderr.strip()}")


def addons(*names: str) -> str:
    """The manifests of `addons/`, with our images in them."""
    text = "\n---\n".join((_ADDONS / f"{name}.yaml").read_text() for name in names)
    text = text.replace("DNS_ADDRESS", control.DNS_ADDRESS)
    for name in _IMAGES:
        text = text.replace(f"IMAGE({name})", tools.image_name(name))
    return text


def _containerd(state: Path) -> str:
    # An overlay cannot lie on an overlay, which is what a container's own disk is.
    on_overlay = run("stat", "--file-system", "--format=%T", str(state)).strip() == "overlayfs"
    return f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{tools.image_name("pod")}"
  # Not every root may lower the OOM score of what it starts.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_cni()}"
    conf_dir = "/run/cluster/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{"native" if on_overlay else "overlayfs"}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


# Each pod gets a veth pair and a route, no bridge: all its traffic passes the namespace's own iptables.
_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.244.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "/run/cni",
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

_PROXY = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "clusterCIDR": control.POD_RANGE,
    "hostnameOverride": control.NODE,
    "oomScoreAdj": 0,
    "clientConnection": {"kubeconfig": "/run/cluster/proxy.kubeconfig"},
    # Zero leaves the machine's connection tracking as it is.
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
}


def _kubelet(cgroup: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": "/run/cluster/pki/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "failCgroupV1": False,
        "protectKernelDefaults": True,
        "oomScoreAdj": 0,
        "resolvConf": "/run/cluster/resolv.conf",
        "clusterDNS": [control.DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # What a test changes in a Secret or ConfigMap should be in the pod soon.
        "syncFrequency": "5s",
        # Images cannot be pulled again, and a full disk of this machine is not the test's concern.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "100Mi"},
    }
