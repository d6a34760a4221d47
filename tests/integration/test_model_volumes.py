"""The volumes that StorageClasses, quotas and nodes allow the weights of a Model, on a real API server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.waiting import differs, eventually, is_equal
from tests.world import World, claim_of_ones_own, deployment, model, refused, storage_class

URL = {"source": {"url": {"url": "http://files/tiny.gguf"}}}
FULL = {"error": {"reason": "InsufficientSpace", "message": "raise spec.storage.size to at least 25Gi"}}

MakeClass = Callable[..., str]


@pytest.fixture
def make_class(world: World) -> Iterator[MakeClass]:
    """Makes StorageClasses, of names of the test's own."""
    made: list[str] = []

    def make(name: str = "", **fields: Any) -> str:
        made.append(name or f"{world.namespace}-{len(made)}")
        world.cluster.apply(storage_class(made[-1], **fields))
        return made[-1]

    yield make
    for name in made:
        world.cluster.kubectl("delete", "storageclass", name, "--wait=false")


def of_class(name: str, **storage: Any) -> dict[str, Any]:
    return model("tiny", URL | {"storage": {"storageClassName": name, **storage}})


def quota(world: World, **hard: str) -> None:
    world.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": hard}},
    )
    eventually(lambda: is_equal(world.get("resourcequota", "team").get("status", {}).get("hard"), hard))


def test_a_storage_class_that_does_not_exist_is_named_and_heals_when_it_is_there(
    world: World, make_class: MakeClass
) -> None:
    name = f"{world.namespace}-later"
    world.apply(of_class(name))
    ready = world.await_reason("bmodel", "tiny", "StorageClassNotFound")
    assert f"no StorageClass {name} (classes: " in ready["message"]
    assert "correct spec.storage.storageClassName" in ready["message"]
    assert world.get("bmodel", "tiny")["status"]["phase"] == "Error"
    make_class(name)
    world.await_reason("bmodel", "tiny", "ClaimPending")
    world.end_download(world.one("jobs")["metadata"]["name"])
    world.await_phase("bmodel", "tiny", "Available")


def test_a_model_whose_storage_class_never_existed_is_deleted_at_once(world: World) -> None:
    world.apply(of_class("never-there"))
    world.await_reason("bmodel", "tiny", "StorageClassNotFound")
    world.one("pods")
    world.kubectl("delete", "bmodel", "tiny", "--timeout=20s")
    eventually(lambda: world.gone("jobs,pods,pvc"))


def test_a_cluster_without_a_default_storage_class_is_told_and_heals_when_it_has_one(world: World) -> None:
    world.cluster.apply(storage_class("standard", default=False))
    try:
        world.apply(model("tiny"))
        ready = world.await_reason("bmodel", "tiny", "NoDefaultStorageClass")
        assert "name one in spec.storage.storageClassName" in ready["message"]
    finally:
        world.cluster.apply(storage_class("standard", default=True))
    world.await_reason("bmodel", "tiny", "ClaimPending")
    eventually(lambda: is_equal(world.one("pvc")["spec"].get("storageClassName"), "standard"))


def test_a_class_that_is_known_to_share_gives_a_volume_that_many_nodes_mount(
    world: World, make_class: MakeClass
) -> None:
    world.apply(of_class(make_class(provisioner="nfs.csi.k8s.io")))
    assert world.one("pvc")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_quota_that_refuses_the_claim_is_told_and_waited_for(world: World) -> None:
    quota(world, **{"requests.storage": "10Gi"})
    world.apply(model("tiny"))
    ready = world.await_reason("bmodel", "tiny", "QuotaExceeded")
    assert "exceeded quota: team, requested: requests.storage=20Gi" in ready["message"]
    assert world.find("pvc") == []
    world.apply(model("tiny", URL | {"storage": {"size": "5Gi"}}))
    assert world.one("pvc")["spec"]["resources"]["requests"]["storage"] == "5Gi"


@pytest.fixture
def silent_webhook(world: World) -> Iterator[str]:
    """A webhook on the claims of the test's namespace, at an address where nobody listens; gives its name."""
    name = f"{world.namespace}.silent.example.com"
    world.cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": name,
                    "admissionReviewVersions": ["v1"],
                    "clientConfig": {"url": "https://127.0.0.1:9/"},
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["persistentvolumeclaims"],
                        }
                    ],
                    "sideEffects": "None",
                    "timeoutSeconds": 1,
                }
            ],
        }
    )
    yield name
    world.cluster.kubectl("delete", "validatingwebhookconfiguration", name, "--ignore-not-found")


def test_a_webhook_that_does_not_answer_is_told_and_waited_for(world: World, silent_webhook: str) -> None:
    eventually(lambda: refused(world.cluster, claim_of_ones_own("any"), "-n", world.namespace))
    world.apply(model("tiny", URL))
    ready = world.await_reason("bmodel", "tiny", "WebhookFailed")
    assert f'failed calling webhook "{silent_webhook}"' in ready["message"]
    assert "failurePolicy" in ready["message"]
    assert world.condition("bmodel", "tiny", "Stalled")["status"] == "False"
    world.cluster.kubectl("delete", "validatingwebhookconfiguration", silent_webhook)
    world.finish_download("tiny")
    world.await_phase("bmodel", "tiny", "Available")


def test_a_quota_that_refuses_the_downloads_pod_is_told_and_waited_for(world: World) -> None:
    quota(world, pods="0")
    world.apply(model("tiny"))
    ready = world.await_reason("bmodel", "tiny", "QuotaExceeded")
    assert "the download's pod is not made: " in ready["message"]
    assert "exceeded quota: team" in ready["message"]
    world.kubectl("delete", "resourcequota", "team")
    world.await_reason("bmodel", "tiny", "ClaimPending")


def test_a_service_account_that_does_not_exist_is_told(world: World) -> None:
    world.apply(model("tiny", URL | {"serviceAccountName": "nobody"}))
    ready = world.await_reason("bmodel", "tiny", "PodRefused")
    assert 'serviceaccount "nobody" not found' in ready["message"]


def test_a_volume_grows_in_place_and_a_download_that_it_was_too_small_for_runs_again(
    world: World, make_class: MakeClass
) -> None:
    name = make_class(allowVolumeExpansion=True)
    world.apply(of_class(name, size="20Gi"))
    job = world.one("jobs")["metadata"]
    world.end_download(job["name"], code=10, message=FULL)
    world.bind(job["name"])
    assert "raise spec.storage.size" in world.await_reason("bmodel", "tiny", "InsufficientSpace")["message"]
    world.apply(of_class(name, size="25Gi"))
    eventually(lambda: is_equal(world.one("pvc")["spec"]["resources"]["requests"]["storage"], "25Gi"))
    assert "is being grown to 25Gi" in world.await_reason("bmodel", "tiny", "InsufficientSpace")["message"]
    assert world.one("jobs")["metadata"]["uid"] == job["uid"]
    grown = json.dumps({"status": {"capacity": {"storage": "25Gi"}}})
    world.kubectl("patch", "pvc", job["name"], "--subresource=status", "--type=merge", "-p", grown)
    eventually(lambda: differs(world.one("jobs")["metadata"]["uid"], job["uid"]))


def test_a_volume_that_cannot_grow_is_told_and_the_weights_stay(world: World, make_class: MakeClass) -> None:
    name = make_class()
    spec = URL | {"storage": {"storageClassName": name, "size": "20Gi"}}
    claim = world.make_available("tiny", spec)
    world.apply(of_class(name, size="25Gi"))

    def told() -> None:
        ready = world.condition("bmodel", "tiny")
        assert f"not 25Gi: StorageClass {name} does not allow expansion" in ready["message"]
        assert (ready["reason"], ready["status"]) == ("Available", "True")

    eventually(told)
    assert world.get("pvc", claim)["spec"]["resources"]["requests"]["storage"] == "20Gi"


def test_a_claim_that_never_got_a_volume_is_made_anew_in_another_size(world: World, make_class: MakeClass) -> None:
    name = make_class()
    world.apply(of_class(name, size="900Ti"))
    before = world.one("pvc")["metadata"]
    world.apply(of_class(name, size="2Gi"))

    def changed() -> None:
        claim = world.one("pvc")
        assert claim["spec"]["resources"]["requests"]["storage"] == "2Gi"
        assert (claim["metadata"]["name"], claim["metadata"]["uid"] != before["uid"]) == (before["name"], True)

    eventually(changed)


def terms(world: World) -> list[Any]:
    """Of the node affinity of the only Job."""
    affinity = world.one("jobs")["spec"]["template"]["spec"].get("affinity", {}).get("nodeAffinity", {})
    found: list[Any] = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    return found


def test_a_download_goes_where_its_deployments_can_run_even_one_that_comes_while_it_waits_for_a_node(
    world: World,
) -> None:
    gpu = {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}]}
    pool = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["serving"]}]}
    world.apply(model("tiny"), deployment("a", "tiny", resources={"gpu": 1, "gpuType": "L4"}))
    eventually(lambda: is_equal(terms(world), [gpu]))
    world.await_reason("bmodel", "tiny", "ClaimPending")
    world.apply(deployment("b", "tiny", nodeSelector={"pool": "serving"}))
    eventually(lambda: is_equal(terms(world), [gpu, pool]))
    world.end_download(world.one("jobs")["metadata"]["name"])
    world.await_phase("bmodel", "tiny", "Available")


@pytest.fixture
def two_nodes(world: World) -> Iterator[str]:
    """Two nodes of a pool of their own; gives the pool, which is the first one's name too."""
    pool = f"{world.namespace}-a"
    for name in (pool, f"{world.namespace}-b"):
        world.cluster.add_fake_node(name, labels={"pool": pool})
    yield pool
    world.cluster.kubectl("delete", "node", pool, f"{world.namespace}-b", "--wait=false")


def test_a_replica_whose_node_cannot_mount_the_volume_is_told_and_heals_with_a_volume_that_can_be_shared(
    world: World, two_nodes: str, make_class: MakeClass
) -> None:
    world.make_available("tiny", URL, node=two_nodes)
    spec = {"replicas": 2, "nodeSelector": {"pool": two_nodes}, "resources": {"cpu": "40"}, "rollout": {"maxSurge": 0}}
    world.apply(deployment("chat", "tiny", **spec))

    def told() -> None:
        message = world.await_reason("mdep", "chat", "StorageNotShareable")["message"]
        assert "1 of 2 replicas answer; a node fits but for the volume" in message
        assert "let Model tiny keep them on a volume that nodes share" in message

    eventually(told)
    assert world.condition("mdep", "chat", "Stalled")["status"] == "True"
    world.apply(of_class(make_class(provisioner="nfs.csi.k8s.io")))
    claim = eventually(lambda: world._job_of("tiny"))
    world.end_download(claim)
    world.await_phase("bmodel", "tiny", "Available")
    world.bind(claim)
    assert world.await_phase("mdep", "chat", "Active")["ready"] == "2/2"


def test_a_volume_for_one_pod_serves_one_replica_and_no_more(world: World) -> None:
    world.make_available("tiny", URL | {"storage": {"accessModes": ["ReadWriteOncePod"]}})
    world.apply(deployment("chat", "tiny", replicas=2))
    ready = world.await_reason("mdep", "chat", "StorageNotShareable")
    assert "ReadWriteOncePod" in ready["message"]
    assert world.condition("mdep", "chat", "Stalled")["status"] == "True"
    world.apply(deployment("chat", "tiny", replicas=1))
    world.await_phase("mdep", "chat", "Active")
