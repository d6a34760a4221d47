"""The node tier of the test clusters: pods truly run, and this machine is afterwards as it was."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import isolation, layout, oci, running, tools
from tests.cluster.cache import Say
from tests.cluster.failure import Failed
from tests.cluster.handle import Cluster

_IMAGE = tools.image_name("pod")


def _until(done: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def _pod(name: str, *arguments: str, image: str = _IMAGE, gpus: int = 0, claim: str = "") -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": image, "args": list(arguments)}
    if gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": gpus}}
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 0}
    if claim:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
        spec["securityContext"] = {"runAsUser": 65532, "runAsNonRoot": True, "fsGroup": 65532}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def _answer(cluster: Cluster, pod: str, url: str) -> str:
    """What a GET of `url` from inside `pod` gave, or why it gave nothing."""
    try:
        return cluster.kubectl("exec", pod, "--", "/pod", "get", url)
    except Failed as failure:
        return str(failure)


@pytest.fixture(scope="module")
def cluster(node_cluster: Cluster) -> Iterator[Cluster]:
    """The node cluster with a server `web`, its Service, and a pod `client`; removed afterwards."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    objects = [_pod("web", "serve", ":8080"), service, _pod("client", "burn", "50ms")]
    node_cluster.apply(*objects)
    node_cluster.kubectl("wait", "--for=condition=Ready", "pod/web", "pod/client", "--timeout=60s")
    _until(lambda: _answer(node_cluster, "client", "http://web.default/") == "web\n")
    yield node_cluster
    node_cluster.kubectl("delete", "pod/web", "pod/client", "service/web")


def test_a_pod_reaches_a_service_by_its_name(cluster: Cluster) -> None:
    for name in ("web", "web.default.svc.cluster.local"):
        assert _answer(cluster, "client", f"http://{name}/by-name") == "web\n"


def test_a_pod_reaches_itself_through_its_service(cluster: Cluster) -> None:
    assert _answer(cluster, "web", "http://web.default/") == "web\n"  # plain `web` is its own host name


def test_a_name_outside_the_cluster_is_unknown_at_once(cluster: Cluster) -> None:
    with pytest.raises(Failed, match="no such host"):
        cluster.kubectl("exec", "client", "--", "/pod", "lookup", "example.com")


def test_the_api_server_is_where_pods_look_for_it(cluster: Cluster) -> None:
    assert cluster.kubectl("exec", "client", "--", "/pod", "lookup", "kubernetes.default") == "10.96.0.1\n"
    assert "certificate signed by unknown authority" in _answer(cluster, "client", "https://kubernetes.default/")


def test_logs_tell_what_a_pod_said(cluster: Cluster) -> None:
    _answer(cluster, "client", "http://web/a-line-for-the-log")
    assert "GET /a-line-for-the-log" in cluster.kubectl("logs", "web")


def test_the_api_server_relays_to_a_service(cluster: Cluster) -> None:
    assert cluster.kubectl("get", "--raw=/api/v1/namespaces/default/services/web/proxy/") == "web\n"


class _Here(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"this machine\n")

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing."""


def test_a_pod_reaches_a_server_of_this_machine(cluster: Cluster) -> None:
    with ThreadingHTTPServer((cluster.host_address, 0), _Here) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://{cluster.host_address}:{server.server_port}/"
            assert _answer(cluster, "client", url) == "this machine\n"
        finally:
            server.shutdown()
            thread.join()


def test_a_claim_is_bound_written_to_and_its_volume_removed_with_it(cluster: Cluster) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    cluster.apply(claim, _pod("writer", claim="data"))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/writer", "--timeout=60s")
    cluster.kubectl("exec", "writer", "--", "/pod", "write", "/data/file")
    assert cluster.get("pvc", "data")["status"]["phase"] == "Bound"

    cluster.kubectl("delete", "pod/writer", "pvc/data")
    _until(lambda: not cluster.get("pv")["items"])


def test_kubectl_top_tells_what_a_pod_uses(cluster: Cluster) -> None:
    def used() -> int:
        with suppress(Failed):
            match = re.search(r"client +(\d+)m", cluster.kubectl("top", "pods"))
            return int(match[1]) if match else 0
        return 0

    _until(lambda: used() > 10)


def test_an_image_of_our_own_packing_is_loaded_and_runs(cluster: Cluster, tmp_path: Path) -> None:
    program = tools.path("pod")
    oci.pack({"/own": program}, name="bud.test/own:2", entrypoint=["/own"], archive=tmp_path / "own.tar")
    cluster.load_image(tmp_path / "own.tar")
    cluster.apply(_pod("own", "serve", ":80", image="bud.test/own:2"))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/own", "--timeout=30s")
    cluster.kubectl("delete", "pod/own")


def test_a_pod_that_asks_for_fake_gpus_runs(cluster: Cluster) -> None:
    cluster.add_fake_gpus(product="NVIDIA-L4", gpus=2)
    cluster.apply(_pod("gpu", gpus=2))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/gpu", "--timeout=30s")
    cluster.kubectl("delete", "pod/gpu")


_RULES_COUNTER = re.compile(r"\[\d+:\d+]|^#.*$", re.MULTILINE)


def _machine(besides: str) -> dict[str, object]:
    """What a cluster called `besides` must leave as it was; other clusters may come and go meanwhile."""
    links = [link["ifname"] for link in json.loads(isolation.run("ip", "-json", "link"))]
    kernel = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")
    folders = ("/run", "/var/lib", "/var/log", "/opt", "/etc/cni", "/usr/libexec")
    ours = isolation.link_name(besides)
    return {
        "links": sorted(name for name in links if name == ours or not name.startswith("bud")),
        "rules": _RULES_COUNTER.sub("", isolation.run("iptables-save")).split(),
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if "containers" not in line],
        "cgroups": sorted(map(str, Path("/sys/fs/cgroup").glob(f"**/*{besides}*"))),
        "kernel": {name: Path("/proc/sys", name).read_text() for name in kernel},
        "folders": {name: sorted(os.listdir(name)) for name in folders if Path(name).exists()},
        "state": (layout.home() / besides).exists(),
    }


def _inside(cluster: Cluster) -> set[int]:
    """Every process that is in one of the cluster's namespaces, or keeps it."""
    assert cluster.record.holder
    kinds = {"net": "net", "mnt": "mnt", "pid": "pid_for_children"}
    holder = Path(f"/proc/{cluster.record.holder}/ns")
    wanted = {kind: (holder / file).readlink() for kind, file in kinds.items()}
    found = {cluster.record.keeper}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any((process / "ns" / kind).readlink() == namespace for kind, namespace in wanted.items()):
                found.add(int(process.name))
    return found


def _alive(processes: set[int]) -> set[int]:
    return {pid for pid in processes if Path(f"/proc/{pid}").exists()}


@contextmanager
def _timed_node(name: str, say: Say) -> Iterator[Cluster]:
    start = time.monotonic()
    with running.cluster(name, "node", say=say) as cluster:
        say(f"up in {time.monotonic() - start:.1f} s")
        yield cluster


def test_two_nodes_stand_side_by_side_and_one_leaves_this_machine_as_it_was(cluster: Cluster) -> None:
    name = f"beside-{os.getpid()}"
    before = _machine(name)
    with _timed_node(name, print) as other:
        other.apply(_pod("neighbour", "serve", ":8080"))
        other.kubectl("wait", "--for=condition=Ready", "pod/neighbour", "--timeout=60s")
        during = _machine(name)
        processes = _inside(other)
        assert len(processes) > 15
    assert _alive(processes) == set()
    assert _machine(name) == before
    changed = {what for what, now in during.items() if now != before[what]}
    assert changed == {"links", "cgroups", "state"}  # or this test would not see anything
    assert _answer(cluster, "client", "http://web/") == "web\n"
    restarts = [pod["status"]["containerStatuses"][0]["restartCount"] for pod in cluster.get("pods", "-A")["items"]]
    assert set(restarts) == {0}


def test_a_killed_keeper_takes_the_node_along_and_down_removes_the_rest(cluster: Cluster) -> None:
    name = f"killed-{os.getpid()}"
    before = _machine(name)
    # By the tool, so that the keeper is no child of ours that would stay as a zombie.
    subprocess.run([sys.executable, "-m", "tests.cluster", "up", "--tier=node", f"--name={name}"], check=True)
    killed = running.attach(name)
    processes = _inside(killed)
    os.kill(killed.record.keeper, signal.SIGKILL)
    _until(lambda: not _alive(processes))
    assert _machine(name)["cgroups"]
    running.down(name)
    assert _machine(name) == before
