"""The control plane of a local cluster: etcd, API server, controller manager, scheduler; and KWOK for fake nodes."""

import json
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import pki, tools
from tests.cluster.programs import Programs, flags

NODE = "node-0"
POD_RANGE = "10.244.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
KWOK_ANNOTATION = "kwok.x-k8s.io/node"
_API_SERVICE_ADDRESS = "10.96.0.1"

# kubeconfig -> who its holder is to the API server.
_USERS = {
    "admin": ("bud-test-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", None),
    "scheduler": ("system:kube-scheduler", None),
    "node": (f"system:node:{NODE}", "system:nodes"),
    "proxy": ("system:kube-proxy", None),
    "volumes": ("bud-test-volumes", "system:masters"),
    "kwok": ("bud-test-kwok", "system:masters"),
}
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    """Where one runs. `state` is its folder here, `inside` the same folder as its programs see it.

    `options` are further options by program, or others in place of those that it has here.
    """

    state: Path
    inside: str
    kube: str  # the program, as seen from inside
    bind: str
    address: str  # where it is reached from this process
    advertise: str  # where pods reach it
    port: int
    audit: bool
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.port}"

    def prepare(self) -> None:
        """Write certificates, keys, kubeconfigs and the audit policy."""
        authority = pki.Authority()
        folder = self.state / "pki"
        folder.mkdir(mode=0o700)
        (folder / "ca.crt").write_bytes(authority.certificate)
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1"]
        private, public = pki.signing_key()
        pki.write_private(folder / "tokens.key", private)
        pki.write_private(folder / "tokens.pub", public)
        for file, pair in {
            "server": authority.server([*names, self.address, self.advertise, _API_SERVICE_ADDRESS]),
            "kubelet-client": authority.client("kube-apiserver", "system:masters"),
            "aggregator": authority.client("aggregator"),
        }.items():
            pki.write_private(folder / f"{file}.crt", pair.certificate)
            pki.write_private(folder / f"{file}.key", pair.key)
        for user, (name, group) in _USERS.items():
            server = self.server if user == "admin" else f"https://127.0.0.1:{self.port}"
            pair = authority.client(name, group)
            pki.write_kubeconfig(self.state / f"{user}.kubeconfig", server=server, authority=authority, pair=pair)
        (self.state / "audit-policy.json").write_text(json.dumps(_AUDIT_POLICY))

    def etcd(self) -> list[str]:
        """etcd's command line: Unix sockets alone, so that no other user and no port is involved."""
        options = {
            "data-dir": "etcd",
            "unsafe-no-fsync": True,
            "listen-client-urls": "unix://etcd.sock",
            "listen-peer-urls": "unix://etcd-peer.sock",
            # It insists on host:port here; a single member is never asked for it.
            "advertise-client-urls": "http://localhost:2379",
        }
        return self._command("etcd", options)

    def apiserver(self, *, nodes: bool) -> list[str]:
        """The API server's command line; without `nodes` nothing reaches it through a Service."""
        pki_folder = f"{self.inside}/pki"
        options: dict[str, object] = {
            "etcd-servers": "unix://etcd.sock",
            "bind-address": self.bind,
            "secure-port": self.port,
            "permit-port-sharing": True,
            "advertise-address": self.advertise,
            "endpoint-reconciler-type": "lease" if nodes else "none",
            "service-cluster-ip-range": SERVICE_RANGE,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "allow-privileged": True,
            "client-ca-file": f"{pki_folder}/ca.crt",
            "tls-cert-file": f"{pki_folder}/server.crt",
            "tls-private-key-file": f"{pki_folder}/server.key",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": f"{pki_folder}/tokens.pub",
            "service-account-signing-key-file": f"{pki_folder}/tokens.key",
            "kubelet-client-certificate": f"{pki_folder}/kubelet-client.crt",
            "kubelet-client-key": f"{pki_folder}/kubelet-client.key",
            "kubelet-preferred-address-types": "InternalIP",
            "requestheader-client-ca-file": f"{pki_folder}/ca.crt",
            "requestheader-allowed-names": "aggregator",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": f"{pki_folder}/aggregator.crt",
            "proxy-client-key-file": f"{pki_folder}/aggregator.key",
        }
        if self.audit:
            options["audit-policy-file"] = f"{self.inside}/audit-policy.json"
            options["audit-log-path"] = f"{self.inside}/audit.log"
            options["audit-log-maxsize"] = 1000  # MB: never rotated, so that a test reads all of it
        return self._command("apiserver", options)

    def controller_manager(self) -> list[str]:
        """The controller manager's command line, fast enough for tests that wait on it."""
        options = {
            "kubeconfig": f"{self.inside}/controller-manager.kubeconfig",
            "leader-elect": False,
            "secure-port": 0,
            "service-account-private-key-file": f"{self.inside}/pki/tokens.key",
            "root-ca-file": f"{self.inside}/pki/ca.crt",
            "use-service-account-credentials": True,
            "allocate-node-cidrs": True,
            "cluster-cidr": POD_RANGE,
            "service-cluster-ip-range": SERVICE_RANGE,
            "pvclaimbinder-sync-period": "1s",
            "horizontal-pod-autoscaler-sync-period": "2s",
            "horizontal-pod-autoscaler-cpu-initialization-period": "10s",
            "horizontal-pod-autoscaler-initial-readiness-delay": "5s",
            "horizontal-pod-autoscaler-downscale-stabilization": "10s",
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
        }
        return self._command("controller-manager", options)

    def scheduler(self) -> list[str]:
        """The scheduler's command line."""
        options = {
            "kubeconfig": f"{self.inside}/scheduler.kubeconfig",
            "leader-elect": False,
            "secure-port": 0,
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
        }
        return self._command("scheduler", options)

    def _command(self, program: str, options: Mapping[str, object]) -> list[str]:
        return [self.kube, program, *flags({**options, **self.options.get(program, {})})]

    def answers(self, path: str) -> bool:
        """Whether the API server answers a GET of `path` by the administrator with 200."""
        context = ssl.create_default_context(cafile=str(self.state / "pki/ca.crt"))
        certificate, key = (self.state / f"pki/kubelet-client.{kind}" for kind in ("crt", "key"))
        context.load_cert_chain(certificate, key)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(self.server + path, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def start(plane: ControlPlane, programs: Programs, *, nodes: bool) -> None:
    """Start the four programs and wait until a pod could be created; Failed when one does not come up."""
    programs.start("etcd", plane.etcd())
    start_apiserver(plane, programs, nodes=nodes)
    programs.start("controller-manager", plane.controller_manager())
    programs.start("scheduler", plane.scheduler())
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    programs.until(lambda: plane.answers(account), what="the controller manager", seconds=30)


def start_apiserver(plane: ControlPlane, programs: Programs, *, nodes: bool) -> None:
    """Start the API server and wait until it is ready; Failed when it does not get there."""
    programs.start("apiserver", plane.apiserver(nodes=nodes))
    programs.until(lambda: plane.answers("/readyz"), what="the API server", seconds=60)


def kwok(cluster: str, kubeconfig: Path) -> list[str]:
    """KWOK's command line: it plays the kubelet of nodes annotated with `cluster`'s name, and of no others."""
    folder = tools.directory("kwok")
    stages = [f"--config={stage}" for stage in sorted(folder.glob("*.yaml"))]
    options = {
        "kubeconfig": kubeconfig,
        "manage-all-nodes": False,
        "manage-nodes-with-annotation-selector": f"{KWOK_ANNOTATION}={cluster}",
        "disregard-status-with-annotation-selector": "kwok.x-k8s.io/status=custom",
        "node-lease-duration-seconds": 40,
        "cidr": "10.245.0.1/16",
    }
    return [str(folder / "kwok"), *flags(options), *stages]
