"""Where the weights of a Model are kept, on a real API server: claims of ours and of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bud.kube.kinds import WANTED_BY
from tests.cluster.failure import Failed
from tests.integration.test_models import _differs, _equal, _none
from tests.waiting import eventually
from tests.world import RESULT, World, deployment, model, refused, storage_class

RETAINED = {"source": {"url": {"url": "http://files/kept.gguf"}}, "storage": {"reclaim": "Retain"}}


def claim_of_ones_own(name: str, *modes: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": list(modes or ("ReadWriteOnce",)), "resources": {"requests": {"storage": "20Gi"}}},
    }


def test_a_retained_claim_outlives_its_model_and_is_found_again_without_a_download(world: World) -> None:
    kept = world.make_available("tiny", RETAINED)
    eventually(lambda: _none(world, "jobs"))
    uid = world.get("pvc", kept)["metadata"]["uid"]
    world.kubectl("delete", "bmodel", "tiny")
    world.apply(model("again", RETAINED))
    status = world.await_phase("bmodel", "again", "Available")
    assert (status["digest"], status["copies"]) == (RESULT["digest"], [{"cluster": "local", "claimName": kept}])
    assert world.get("pvc", kept)["metadata"]["uid"] == uid
    assert world.find("jobs") == []


@pytest.mark.parametrize(
    "bound", [pytest.param(False, id="as backup tools do"), pytest.param(True, id="as it was, by hand")]
)
def test_a_claim_that_was_restored_without_its_volume_is_not_taken_for_the_weights(
    world: World, *, bound: bool
) -> None:
    kept = world.make_available("tiny", RETAINED)
    world.kubectl("delete", "bmodel", "tiny")
    backup = world.get("pvc", kept)
    world.kubectl("delete", "pvc", kept)
    told = {key: backup["metadata"][key] for key in ("name", "labels", "annotations")}
    if not bound:
        told["annotations"] = {key: note for key, note in told["annotations"].items() if "kubernetes.io/" not in key}
    spec = {key: backup["spec"][key] for key in ("accessModes", "resources")}
    world.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": told, "spec": spec})
    world.apply(model("again", RETAINED))
    if bound:
        assert f"delete claim {kept}" in world.await_reason("bmodel", "again", "ClaimLost")["message"]
        world.kubectl("delete", "pvc", kept)
    world.await_reason("bmodel", "again", "ClaimPending")
    world.end_download(kept)
    world.await_phase("bmodel", "again", "Available")
    eventually(lambda: _none(world, "jobs"))


@pytest.fixture
def no_claim_may_go(world: World) -> Iterator[str]:
    """A policy that refuses to delete claims, by its name."""
    name, api = f"{world.namespace}-keep", "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["persistentvolumeclaims"]}
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}}
    rules = {"matchConstraints": {"resourceRules": [rule], **where}}
    for kind, spec in (
        ("ValidatingAdmissionPolicy", rules | {"validations": [{"expression": "false", "message": "ask for it"}]}),
        ("ValidatingAdmissionPolicyBinding", {"policyName": name, "validationActions": ["Deny"]}),
    ):
        world.cluster.apply({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec})
    yield name
    for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
        world.cluster.kubectl("delete", kind, name, "--ignore-not-found")


def test_a_claim_that_must_not_go_is_told_and_the_model_goes_once_it_may(world: World, no_claim_may_go: str) -> None:
    kept = world.make_available("tiny")

    def refused() -> None:
        with pytest.raises(Failed, match="ask for it"):
            world.kubectl("delete", "pvc", kept, "--dry-run=server")

    eventually(refused)
    world.kubectl("delete", "bmodel", "tiny", "--wait=false")
    ready = world.await_reason("bmodel", "tiny", "ApiRefused")
    assert "cannot be deleted yet: " in ready["message"]
    assert "ask for it" in ready["message"]
    assert world.get("bmodel", "tiny")["status"]["phase"] == "Deleting"
    world.cluster.kubectl("delete", "validatingadmissionpolicybinding", no_claim_may_go)
    eventually(lambda: _none(world, "bmodel"))
    eventually(lambda: _none(world, "pvc"))


def test_another_end_for_the_claim_fetches_nothing_anew(world: World) -> None:
    kept = world.make_available("tiny")
    assert world.get("pvc", kept)["metadata"]["annotations"][WANTED_BY] == "tiny"
    spec = world.get("bmodel", "tiny")["spec"]
    world.apply(model("tiny", spec | {"storage": {"reclaim": "Retain"}}))
    eventually(lambda: _equal(world.get("pvc", kept)["metadata"]["annotations"].get(WANTED_BY), None))
    world.apply(model("tiny", spec | {"storage": {"reclaim": "Delete"}}))
    eventually(lambda: _equal(world.get("pvc", kept)["metadata"]["annotations"].get(WANTED_BY), "tiny"))
    assert world.await_phase("bmodel", "tiny", "Available")["observedGeneration"] == 3
    assert world.find("jobs") == []


def test_models_share_a_claim_of_the_users_which_stays_as_it_was(world: World) -> None:
    world.apply(claim_of_ones_own("shared"))
    world.bind("shared")
    before = world.get("pvc", "shared")["metadata"]
    copies = {}
    for name in ("a", "b"):
        url = {"source": {"url": {"url": f"http://files/{name}.gguf"}}}
        world.apply(model(name, url | {"storage": {"claimName": "shared"}}), deployment(name, name))
        job = eventually(lambda name=name: world._job_of(name))  # type: ignore[misc]
        world.end_download(job, message=RESULT | {"file": "weights.gguf"})
        status = world.await_phase("bmodel", name, "Available")
        assert status["copies"] == [{"cluster": "local", "claimName": "shared", "path": job}]
        assert status["file"] == f"{job}/weights.gguf"
        world.await_phase("mdep", name, "Active")
        copies[name] = job
    env = world.find("deployments.apps")[0]["spec"]["template"]["spec"]["containers"][0]["env"]
    path = next(variable["value"] for variable in env if variable["name"] == "BUD_MODEL_PATH")
    assert path.removeprefix("/weights/") in copies.values()
    assert {claim["metadata"]["name"] for claim in world.find("pvc")} == {"shared"}
    world.kubectl("delete", "mdep,bmodel", "--all")
    after = world.get("pvc", "shared")["metadata"]
    assert [after.get(key) for key in ("annotations", "labels", "ownerReferences", "resourceVersion")] == [
        before.get(key) for key in ("annotations", "labels", "ownerReferences", "resourceVersion")
    ]


def test_a_claim_of_the_users_that_does_not_exist_is_named_and_waited_for(world: World) -> None:
    world.apply(model("tiny", {"source": {"url": {"url": "http://files/a"}}, "storage": {"claimName": "later"}}))
    assert "spec.storage.claimName" in world.await_reason("bmodel", "tiny", "ClaimNotFound")["message"]
    world.apply(claim_of_ones_own("later"))
    world.end_download(world.one("jobs")["metadata"]["name"])
    world.await_phase("bmodel", "tiny", "Available")


def test_the_download_has_the_identity_of_its_service_account_and_no_token_for_the_api_server(world: World) -> None:
    world.kubectl("create", "serviceaccount", "hub-reader")
    world.apply(model("tiny", {"source": {"cloud": {"uri": "s3://bucket/tiny"}}, "serviceAccountName": "hub-reader"}))
    pod = world.one("pods")
    assert pod["spec"]["serviceAccountName"] == "hub-reader"
    assert [mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]] == ["weights", "tmp"]
    assert pod["metadata"]["labels"]["azure.workload.identity/use"] == "true"


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
    eventually(lambda: _equal(world.get("resourcequota", "team").get("status", {}).get("hard"), hard))


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
    eventually(lambda: _none(world, "jobs,pods,pvc"))


def test_a_cluster_without_a_default_storage_class_is_told_and_heals_when_it_has_one(world: World) -> None:
    world.cluster.apply(storage_class("standard", default=False))
    try:
        world.apply(model("tiny"))
        ready = world.await_reason("bmodel", "tiny", "NoDefaultStorageClass")
        assert "name one in spec.storage.storageClassName" in ready["message"]
    finally:
        world.cluster.apply(storage_class("standard", default=True))
    world.await_reason("bmodel", "tiny", "ClaimPending")
    eventually(lambda: _equal(world.one("pvc")["spec"].get("storageClassName"), "standard"))


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
    eventually(lambda: _equal(world.one("pvc")["spec"]["resources"]["requests"]["storage"], "25Gi"))
    assert "is being grown to 25Gi" in world.await_reason("bmodel", "tiny", "InsufficientSpace")["message"]
    assert world.one("jobs")["metadata"]["uid"] == job["uid"]
    grown = json.dumps({"status": {"capacity": {"storage": "25Gi"}}})
    world.kubectl("patch", "pvc", job["name"], "--subresource=status", "--type=merge", "-p", grown)
    eventually(lambda: _differs(world.one("jobs")["metadata"]["uid"], job["uid"]))


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
    eventually(lambda: _equal(terms(world), [gpu]))
    world.await_reason("bmodel", "tiny", "ClaimPending")
    world.apply(deployment("b", "tiny", nodeSelector={"pool": "serving"}))
    eventually(lambda: _equal(terms(world), [gpu, pool]))
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
