"""The control tier of the test clusters: what it can do, and that it leaves nothing behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cluster import cache, layout, node, running, sources, tools
from tests.cluster.failure import Failed
from tests.cluster.handle import Cluster

_ROOT = Path(__file__).parents[2]


def _until(done: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def _name(what: str) -> str:
    return f"{what}-{os.getpid()}"


def _pod(name: str, *, gpus: int, on: str) -> dict[str, Any]:
    """A pod for the nodes with this label `zone`: other tests have nodes of their own."""
    container = {"name": "engine", "image": "none", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    metadata = {"name": name, "namespace": "default"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], "nodeSelector": {"zone": on}},
    }


def _programs(folder: Path) -> set[int]:
    """The processes that were started in a cluster's folder, as the keeper's children are."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.add(int(process.name))
        except OSError:
            continue
    return found


def _port(cluster: Cluster) -> int:
    config = json.loads(cluster.kubeconfig.read_text())
    return urlsplit(str(config["clusters"][0]["cluster"]["server"])).port or 443


def _refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_a_pod_that_asks_for_gpus_turns_ready_on_a_fake_node(control_cluster: Cluster) -> None:
    start = time.monotonic()
    control_cluster.add_fake_node("l4-0", gpu_product="NVIDIA-L4", gpus=4, labels={"zone": "l4"})
    control_cluster.apply(_pod("fits", gpus=4, on="l4"))
    control_cluster.kubectl("wait", "--for=condition=Ready", "pod/fits", "--timeout=30s")
    print(f"fake node and pod Ready within {time.monotonic() - start:.1f} s")

    labels = control_cluster.get("node", "l4-0")["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-L4"
    assert labels["zone"] == "l4"
    assert control_cluster.get("pod", "fits")["spec"]["nodeName"] == "l4-0"


def test_a_pod_that_asks_for_more_gpus_than_a_node_has_stays_unscheduled(control_cluster: Cluster) -> None:
    control_cluster.add_fake_node("l4-1", gpu_product="NVIDIA-L4", gpus=2)
    control_cluster.apply(_pod("too-big", gpus=64, on="l4"))
    control_cluster.kubectl("wait", "--for=condition=PodScheduled=False", "pod/too-big", "--timeout=30s")
    assert "Insufficient nvidia.com/gpu" in control_cluster.kubectl("describe", "pod", "too-big")


def test_writes_are_told_by_user_and_by_user_agent(control_cluster: Cluster) -> None:
    before = len(control_cluster.writes("kubectl"))
    control_cluster.kubectl("create", "configmap", "counted", "--namespace=default")
    control_cluster.kubectl("get", "configmap", "counted", "--namespace=default")

    written = control_cluster.writes("kubectl")[before:]
    assert [(write.verb, write.resource, write.name, write.code) for write in written] == [
        ("create", "configmaps", "counted", 201)
    ]
    assert written[0] in control_cluster.writes("bud-test-admin")
    assert control_cluster.writes("nobody") == []


def test_two_clusters_stand_side_by_side_and_down_leaves_nothing_of_one(control_cluster: Cluster) -> None:
    start = time.monotonic()
    with running.cluster(_name("beside"), "control", say=print) as other:
        print(f"up in {time.monotonic() - start:.1f} s")
        programs = _programs(other.state)
        port = _port(other)
        assert len(programs) >= 5
        assert not _refuses(port)
        assert port != _port(control_cluster)
        other.kubectl("create", "namespace", "only-here")
    assert _refuses(port)
    assert _programs(other.state) == set()
    assert not any(Path(f"/proc/{pid}").exists() for pid in programs)
    assert not other.state.exists()
    assert "only-here" not in control_cluster.kubectl("get", "namespaces")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda ending: ending.name)
def test_a_tool_that_is_ended_half_way_takes_its_cluster_along(ending: signal.Signals) -> None:
    name = _name("half-way")
    folder = layout.home() / name
    command = [sys.executable, "-m", "tests.cluster", "up", "--name", name]
    with subprocess.Popen(command, cwd=_ROOT, stderr=subprocess.DEVNULL) as tool:
        _until(lambda: bool(_programs(folder)))
        tool.send_signal(ending)
    _until(lambda: not folder.exists())
    assert _programs(folder) == set()


def test_a_killed_keeper_takes_its_programs_along_and_the_next_start_removes_the_rest() -> None:
    name = _name("killed")
    running.up(name, "control", say=print)
    cluster = running.attach(name)
    programs = _programs(cluster.state)
    os.kill(cluster.record.keeper, signal.SIGKILL)
    _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in programs))
    assert programs
    assert cluster.state.exists()
    assert name in layout.reap()
    assert not cluster.state.exists()


def test_a_name_that_is_taken_is_refused(control_cluster: Cluster) -> None:
    with pytest.raises(Failed, match="is up already"), running.cluster(control_cluster.name, "control", say=print):
        pass
    assert control_cluster.kubectl("get", "--raw=/readyz") == "ok"


@pytest.fixture
def named(control_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The control cluster, named as one that someone else runs."""
    monkeypatch.setenv(sources.KUBECONFIG, str(control_cluster.kubeconfig))
    return control_cluster


def test_a_named_cluster_is_used_and_left_as_it_was(named: Cluster) -> None:
    before = named.kubectl("get", "nodes", "--output=name")
    with running.cluster(_name("named"), "control", say=print) as cluster:
        assert cluster.record.source == "external"
        cluster.add_fake_node("theirs-0", gpu_product="NVIDIA-H100")
        assert "theirs-0" in named.kubectl("get", "nodes", "--output=name")
    assert named.kubectl("get", "nodes", "--output=name") == before


def test_a_named_cluster_without_the_label_is_refused(named: Cluster) -> None:
    said: list[str] = []
    named.kubectl("label", "namespace", "kube-system", f"{layout.TEST_LABEL}-")
    try:
        with pytest.raises(Failed), running.cluster(_name("unmarked"), "control", say=said.append):
            pass
    finally:
        named.kubectl("label", "namespace", "kube-system", f"{layout.TEST_LABEL}=true")
    assert f"kubectl label namespace kube-system {layout.TEST_LABEL}=true" in said[-1]


def test_the_ambient_kubeconfig_is_never_used(
    control_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(sources.KUBECONFIG, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(control_cluster.kubeconfig))
    assert sources.choose("x", "control", tmp_path, audit=False, say=print).kind != "external"


_DOCKER = """
    #!/bin/sh
    case "$1" in
        info) ;;
        network) echo 172.18.0.1 fc00::1 ;;
        *) exit 1 ;;
    esac
"""
_KIND = """
    #!/bin/sh -e
    echo "$@" >> "$KIND_CALLS"
    for argument; do
        case "$argument" in --kubeconfig=*) cp "$KIND_KUBECONFIG" "${argument#*=}" ;; esac
    done
"""


@pytest.fixture
def kind_calls(control_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand-ins for Docker and kind that hand out the control cluster, and the file that kind's calls go to."""
    for name, script in {"docker": _DOCKER, "kind": _KIND}.items():
        (tmp_path / name).write_text(textwrap.dedent(script).lstrip())
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("KIND_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("KIND_KUBECONFIG", str(control_cluster.kubeconfig))
    monkeypatch.delenv(sources.KUBECONFIG, raising=False)
    return tmp_path / "calls"


def test_docker_with_kind_comes_before_a_local_cluster(kind_calls: Path) -> None:
    name = _name("kind")
    with running.cluster(name, "control", say=print) as cluster:
        assert cluster.record.source == "kind"
        assert cluster.host_address == "172.18.0.1"
        cluster.load_image(Path("image.tar"))
    calls = kind_calls.read_text().splitlines()
    assert calls[0].startswith(f"create cluster --name=bud-test-{name} ")
    assert calls[1] == f"load image-archive image.tar --name=bud-test-{name}"
    assert calls[2] == f"delete cluster --name=bud-test-{name}"


def test_a_node_without_root_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failed, match="needs root"):
        node.require(print)


def test_an_unknown_tool_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(Failed, match="helm, kube, kubeconform, kubectl"):
        tools.path("helmm")


def _builds(content: str) -> Callable[[Path], None]:
    def build(out: Path) -> None:
        (out / "program").write_text(content)

    return build


def test_a_build_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(out: Path) -> None:
        _builds("half")(out)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry(tmp_path / "tool-1", interrupted, say=print)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".part-left").mkdir()
    cache.entry(tmp_path / "tool-1", _builds("whole"), say=print)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "tool-1"]


def test_a_whole_entry_is_not_built_again(tmp_path: Path) -> None:
    cache.entry(tmp_path / "tool-1", _builds("first"), say=print)
    place = cache.entry(tmp_path / "tool-1", _builds("second"), say=print)
    assert (place / "program").read_text() == "first"


def test_of_two_who_want_the_same_one_builds_and_the_other_waits(tmp_path: Path) -> None:
    built: list[int] = []
    said: list[str] = []
    begun, finish = threading.Event(), threading.Event()

    def slow(out: Path) -> None:
        built.append(1)
        begun.set()
        assert finish.wait(30)
        _builds("whole")(out)

    def want() -> None:
        cache.entry(tmp_path / "tool-1", slow, say=said.append)

    first, second = threading.Thread(target=want), threading.Thread(target=want)
    first.start()
    assert begun.wait(30)
    second.start()
    _until(lambda: said == ["another process is building; waiting for it"])
    finish.set()
    first.join()
    second.join()
    assert built == [1]


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_an_entry_that_does_not_match_its_checksums_is_built_again(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    place = cache.entry(tmp_path / "tool-1", _builds("good"), say=said.append)
    match damage:
        case "changed":
            (place / "program").write_text("goof")
        case "missing":
            (place / "program").unlink()
        case "added":
            (place / "more").write_text("")
    cache.entry(place, _builds("good"), say=said.append)
    assert said == ["tool-1 does not match its checksums; building it again"]
    assert [path.name for path in sorted(place.iterdir())] == ["SHA256SUMS", "program"]
    assert (place / "program").read_text() == "good"
