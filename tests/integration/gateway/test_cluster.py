"""The gateway in a cluster: a real control plane with the chart's own rights, and strict servers that stand in for pods."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from aiohttp import web

from bud.kube.kinds import child_name
from tests.cluster.handle import Cluster
from tests.gate import Gate
from tests.gateway_process import GatewayProcess
from tests.integration.chart import permitted, rendered
from tests.integration.gateway.talking import end_of_session, end_session
from tests.integration.gateway.upstream import Upstream, completion, failing, running
from tests.waiting import eventually
from tests.world import World, deployment

SECONDS = 1.0
"""Within which what is said of a key takes effect."""
API_SERVER = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}],
    "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
}
"""As an API server writes it that nodes reach; that of these tests does not."""
HASHED = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("bud_alice", "bud_made", "bud_late")}


@dataclass
class Place:
    """A gateway in a cluster, the way from it to the API server, and two servers that stand in for pods."""

    gateway: GatewayProcess
    gate: Gate
    through: Path
    world: World
    pods: tuple[Upstream, Upstream]
    mine: Path

    def await_listed(self, model: str) -> None:
        def check() -> None:
            listed = httpx.get(f"{self.gateway.url}/v1/models", headers={"Authorization": "Bearer bud_alice"}).json()
            assert model in {one["id"] for one in listed["data"]}

        eventually(check)

    def ask(self, key: str = "bud_alice", model: str = "chat") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(f"{self.gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=20)

    def await_status(self, status: int, *, within: float = 20, **asked: str) -> httpx.Response:
        def check() -> httpx.Response:
            answer = self.ask(**asked)
            assert answer.status_code == status, answer.text
            return answer

        return eventually(check, within=within)


@pytest.fixture(scope="module")
def place(kinds: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("cluster")
    world = World.create(kinds)
    kubeconfig = _rights(world, folder, world.namespace)
    with ExitStack() as stack:
        address = _address()
        pods = tuple(stack.enter_context(running(_answer, address=address)) for _ in range(2))
        world.apply(
            _made("Project", "team", {"namespace": world.namespace}) | {"metadata": {"name": world.namespace}},
            _made("APIKey", "alice", {"hash": HASHED["bud_alice"]}),
            deployment("chat", "weights"),
            _slice("a", world, pods[0]),
            _slice("b", world, pods[1]),
        )
        kinds.apply(API_SERVER)
        stack.callback(kinds.kubectl, "delete", "endpointslice", "kubernetes", "--namespace=default")
        gate, through = stack.enter_context(Gate.before(kubeconfig, folder))
        gateway = GatewayProcess(
            folder / "gateway",
            source=("--kubeconfig", str(through)),
            options=("--drain-delay", "1", "--home-namespace", world.namespace),
            allow=(address, "192.0.2.0/24"),
        )
        gateway.start()
        stack.callback(gateway.stop)
        yield Place(gateway, gate, through, world, (pods[0], pods[1]), kubeconfig)
    kinds.kubectl("delete", "bproj", world.namespace)
    world.clear()


async def _answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Knows the models of these tests and no others; who names the longest one gets a stream that waits for a word."""
    if request.path == "/v1/realtime":
        return await end_session(request)
    if request.path != "/v1/chat/completions" or body["model"] not in ("chat", "gpt", "sleepy", "spare"):
        return failing(404)
    if body["model"] == "gpt" and request.headers.get("Authorization") != "Bearer sk-1":
        return failing(401)
    if not body.get("stream"):
        return completion(body)
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    for _ in range(15):
        chunk = {"id": "c", "object": "chat.completion.chunk", "model": body["model"], "choices": []}
        await answer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await asyncio.sleep(0.1)
    await answer.write(b"data: [DONE]\n\n")
    return answer


def test_a_deployment_is_reached_at_its_pods_and_one_that_ends_gets_nothing_new(place: Place) -> None:
    place.await_status(200)
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    headers = {"Authorization": "Bearer bud_alice"}
    asked = [len(pod.asked) for pod in place.pods]
    with httpx.stream(
        "POST", f"{place.gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=20
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        ending = next(n for n, pod in enumerate(place.pods) if len(pod.asked) > asked[n])
        place.world.apply(_slice("ab"[ending], place.world, place.pods[ending], terminating=True))
        other = place.pods[1 - ending]

        def moved() -> None:
            before = len(other.asked)
            assert place.ask().status_code == 200
            assert len(other.asked) > before

        eventually(moved)
        before = len(place.pods[ending].asked)
        for _ in range(10):
            assert place.ask().status_code == 200
        assert len(place.pods[ending].asked) == before
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    place.world.apply(*(_slice("ab"[n], place.world, pod, terminating=True) for n, pod in enumerate(place.pods)))
    assert place.await_status(503).json()["error"]["type"] == "overloaded_error"
    place.world.apply(*(_slice("ab"[n], place.world, pod) for n, pod in enumerate(place.pods)))
    place.await_status(200)


def test_a_key_is_accepted_and_refused_as_soon_as_that_is_said(place: Place) -> None:
    world = place.world
    place.await_status(401, key="bud_made")
    world.apply(_made("APIKey", "made", {"hash": HASHED["bud_made"]}))
    place.await_status(200, key="bud_made", within=SECONDS)
    world.kubectl("patch", "bkey", "made", "--type=merge", "-p", '{"spec": {"revoked": true}}')
    place.await_status(401, key="bud_made", within=SECONDS)
    world.kubectl("patch", "bkey", "made", "--type=merge", "-p", '{"spec": {"revoked": false}}')
    place.await_status(200, key="bud_made", within=SECONDS)
    world.kubectl("delete", "bkey", "made")
    place.await_status(401, key="bud_made", within=SECONDS)


def test_a_provider_waits_for_its_secret_and_for_the_right_to_read_it(place: Place) -> None:
    world, url = place.world, place.pods[0].url
    offer = {
        "kind": "OpenAICompatible",
        "baseURL": url,
        "models": [{"name": "gpt"}],
        "credentialsSecretRef": {"name": "s"},
    }
    route = {"model": "team/best", "targets": [{"providerRef": {"name": "p", "model": "gpt"}}]}
    world.apply(_made("Provider", "p", offer), _made("Route", "r", route))
    place.await_status(503, model="gpt")
    eventually(lambda: _logged(place, f"Secret {world.namespace}/s: it may not be read"))
    binding = (
        "--clusterrole",
        f"{world.namespace}-gateway-secrets",
        "--serviceaccount",
        f"{world.namespace}:{world.namespace}-gateway",
    )
    world.kubectl("create", "rolebinding", "gateway", *binding)
    world.kubectl("create", "secret", "generic", "s", "--from-literal=apiKey=sk-1")
    place.await_status(200, model="gpt")
    assert place.await_status(200, model="team/best").json()["model"] == "team/best"
    world.apply(_made("Provider", "p", offer | {"credentialsSecretRef": {"name": "gone"}}))
    place.await_status(503, model="gpt")
    world.kubectl("delete", "bprov,broute", "--all")
    place.await_status(404, model="gpt", within=SECONDS)


def test_a_provider_leads_to_no_machine_of_the_api_server_whatever_network_is_allowed(place: Place) -> None:
    world = place.world
    offer = {"kind": "OpenAICompatible", "baseURL": "http://192.0.2.1:6443/v1", "models": [{"name": "api"}]}
    world.apply(_made("Provider", "api", offer))
    place.await_listed("api")
    assert place.ask(model="api").json()["error"]["code"] == "upstream_not_allowed"
    world.kubectl("delete", "bprov", "api")


def test_requests_for_one_that_sleeps_are_noted_once_and_held_until_it_serves(place: Place) -> None:
    world = place.world
    id = child_name("Deployment", world.namespace, "sleepy")
    world.apply(deployment("sleepy", "weights", autoScaling={"minReplicas": 0, "idleSeconds": 3600}))
    place.await_listed("sleepy")
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(place.ask, model="sleepy") for _ in range(8)]
        lease = eventually(lambda: _found(world, id))
        assert lease["metadata"]["labels"] == {"bud.studio/use": "true"}
        assert not any(one.done() for one in asked)
        world.apply(_slice("s", world, place.pods[0], of="sleepy"))
        assert {one.result().status_code for one in asked} == {200}
    assert place.ask(model="sleepy").status_code == 200
    # Asked for by a patch, it was not there.
    assert [write.code for write in world.cluster.writes("bud-gateway/") if write.name in (id, "")] == [404, 201]
    world.kubectl("delete", "mdep", "sleepy")


def _request(place: Place, model: str) -> str:
    told: str = place.ask(model=model).json()["conduit_metadata"]["model_version"]
    return told


def _session(place: Place, model: str) -> str:
    return end_of_session(place.gateway.port, model, "bud_alice")


@pytest.mark.parametrize(("ask", "spare"), [(_request, "spare"), (_session, "voice")])
def test_one_that_sleeps_is_woken_as_a_fallback_when_nothing_else_answers(
    place: Place, ask: Callable[[Place, str], str], spare: str
) -> None:
    world, nowhere = place.world, place.pods[0].url.rpartition(":")[0] + ":1/v1"
    world.apply(
        deployment(spare, "weights", autoScaling={"minReplicas": 0, "idleSeconds": 3600}),
        _made("Provider", "away", {"kind": "OpenAICompatible", "baseURL": nowhere, "models": [{"name": "away"}]}),
        _made("Route", f"to-{spare}", {"targets": [{"providerRef": {"name": "away", "model": "away"}}],
                                       "fallbacks": [{"deploymentRef": {"name": spare}}]}),
    )  # fmt: skip
    place.await_listed(f"to-{spare}")
    place.await_listed(spare)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, place, f"to-{spare}")
        eventually(lambda: _found(world, child_name("Deployment", world.namespace, spare)))
        assert not asked.done()
        world.apply(_slice(spare, world, place.pods[0], of=spare))
        assert asked.result() == spare
    assert ask(place, f"to-{spare}") == spare
    world.kubectl("delete", f"mdep/{spare}", "bprov/away", f"broute/to-{spare}")


def test_a_gateway_changes_nothing_but_its_notes(place: Place) -> None:
    kubectl = (str(place.world.cluster.kubectl_path), f"--kubeconfig={place.mine}", "-n", place.world.namespace)
    labelled = '{"metadata": {"labels": {"bud.studio/ledger": "true"}}, "data": {"ca.crt": "mine"}}'
    patch = (*kubectl, "patch", "configmap", "kube-root-ca.crt", "--type=merge", "-p", labelled)
    assert "gateways change ledgers and notes of use alone" in eventually(lambda: _refused(patch))
    assert "gateways write ledgers and notes of use alone" in _refused((*kubectl, "create", "configmap", "mine"))


def test_requests_flow_while_the_api_server_is_away_and_what_was_missed_is_made_up_for(place: Place) -> None:
    place.await_status(200)
    eventually(lambda: _counted(place, "bud_gateway_catalog_seen_timestamp_seconds"))
    place.gate.shut()
    place.world.apply(_made("APIKey", "late", {"hash": HASHED["bud_late"]}))
    for _ in range(5):
        assert place.ask().status_code == 200
    assert httpx.get(f"{place.gateway.url}/readyz").status_code == 200
    assert place.ask(key="bud_late").status_code == 401
    place.gate.open()
    place.await_status(200, key="bud_late")


def test_a_new_gateway_says_what_it_waits_for_and_needs_no_right_beyond_the_namespaces_that_it_serves(
    place: Place, tmp_path: Path
) -> None:
    namespace = place.world.namespace
    mine = yaml.safe_load(_rights(place.world, tmp_path, f"{namespace}-some", namespaces=[namespace]).read_text())
    through = tmp_path / "through"
    through.write_text(yaml.safe_dump(yaml.safe_load(place.through.read_text()) | {"users": mine["users"]}))
    new = GatewayProcess(tmp_path / "new", source=("--kubeconfig", str(through)), options=("--namespace", namespace))
    place.gate.shut()
    new.launch()
    try:
        answer = eventually(lambda: _asked(f"{new.url}/readyz", 503))
        assert "apikeys" in answer.json()["reason"]
        told = _asked(f"{new.url}/v1/models", 503)
        assert told.json()["error"]["code"] == "keys_unknown"
        place.gate.open()
        eventually(lambda: _asked(f"{new.url}/readyz", 200))
        assert [one["id"] for one in _asked(f"{new.url}/v1/models", 200).json()["data"]] == ["chat"]
    finally:
        place.gate.open()
        new.stop()


def test_a_gateway_that_is_to_stop_says_so_serves_on_and_then_ends_well(place: Place) -> None:
    place.await_status(200)
    place.gateway.signal(signal.SIGTERM)

    def leaving() -> None:
        assert httpx.get(f"{place.gateway.url}/readyz").status_code == 503

    eventually(leaving)
    answer = place.ask()
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert place.gateway.wait() == 0
    # What was used is written last, and nothing refuses it.
    ledgers = [item for item in place.world.find("configmaps") if item["metadata"]["name"].startswith("ledger-")]
    assert {item["metadata"]["labels"]["bud.studio/ledger"] for item in ledgers} == {"true", "keys"}
    assert all('"leases":{"' not in item["data"]["ledger.json"] for item in ledgers)
    place.gateway.start()


def _rights(world: World, folder: Path, name: str, **values: Any) -> Path:
    """The kubeconfig of a gateway whose rights are those that the chart gives it."""
    values = {"rbac": {"aggregate": False}, "fullnameOverride": name, **values}
    text = rendered(values, namespace=world.namespace)
    return permitted(world.cluster, folder, text, namespace=world.namespace, name=f"{name}-gateway")


def _asked(url: str, status: int) -> httpx.Response:
    try:
        answer = httpx.get(url, headers={"Authorization": "Bearer bud_alice"})
    except httpx.TransportError as error:
        raise AssertionError(str(error)) from error
    assert answer.status_code == status, answer.text
    return answer


def _found(world: World, lease: str) -> dict[str, Any]:
    found = {item["metadata"]["name"]: item for item in world.find("leases")}
    assert lease in found
    return found[lease]


def _refused(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode, done.stdout
    return done.stderr


def _counted(place: Place, name: str) -> None:
    assert name in httpx.get(f"{place.gateway.url}/metrics").text


def _logged(place: Place, text: str) -> None:
    assert text in place.gateway.log


def _made(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "bud.studio/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _slice(name: str, world: World, pod: Upstream, *, of: str = "chat", terminating: bool = False) -> dict[str, Any]:
    """What the endpoint slice controller writes of a pod of a Deployment, as of 1.34."""
    at = urlsplit(pod.url)
    engine = child_name("Deployment", world.namespace, of)
    labels = {
        "app.kubernetes.io/managed-by": "bud-operator",
        "bud.studio/owner-kind": "Deployment",
        "bud.studio/owner-name": engine,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": engine,
    }
    conditions = {"ready": not terminating, "serving": True, "terminating": terminating}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{engine}-{name}", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [at.hostname], "conditions": conditions}],
        "ports": [{"name": "http", "port": at.port, "protocol": "TCP", "appProtocol": "http"}],
    }


def _address() -> str:
    """One of this machine that is not loopback, which the API server refuses for pods; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        found: str = probe.getsockname()[0]
        return found
