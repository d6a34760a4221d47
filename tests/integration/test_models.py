"""Models on a real API server: copies, sharing, faults and deletion."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from bud.api.model import ModelSpec
from bud.kube.kinds import WANTED_BY
from bud.model.view import copy_id
from tests.cluster.handle import Cluster
from tests.waiting import differs, eventually, is_equal
from tests.world import RESULT, World, deployment, model, refused

DENIED = {"error": {"reason": "Unauthorized", "message": "401 from http://files; set spec.credentialsSecretRef"}}
SAME = {"source": {"url": {"url": "http://files/same.gguf"}}}


def owners(world: World, claim: str) -> set[str]:
    return set(world.get("pvc", claim)["metadata"]["annotations"][WANTED_BY].split(","))


def test_a_model_becomes_available_and_its_job_goes(world: World) -> None:
    world.apply(model("tiny"))
    job = world.one("jobs")
    assert world.await_reason("bmodel", "tiny", "ClaimPending")["status"] == "False"
    world.end_download(job["metadata"]["name"])
    status = world.await_phase("bmodel", "tiny", "Available")
    assert (status["digest"], status["bytes"], status["verification"]) == (RESULT["digest"], 500_000, "verified")
    assert (status["format"], status["task"], status["file"]) == ("gguf", "text-generation", "tiny.gguf")
    eventually(lambda: world.gone("jobs"))
    assert [reason for _, reason in world.events("tiny")][-1] == "Available"
    row = world.kubectl("get", "models", "tiny").splitlines()
    assert row[0].split() == ["NAME", "PHASE", "SIZE", "PROGRESS", "REASON", "AGE"]
    assert row[1].split()[:3] == ["tiny", "Available", "488Ki"]


def test_the_truth_outlives_job_pods_and_status(world: World) -> None:
    world.make_available("tiny")
    eventually(lambda: world.gone("jobs"))
    world.kubectl(
        "patch", "bmodel", "tiny", "--subresource=status", "--type=json", '-p=[{"op":"remove","path":"/status"}]'
    )
    status = world.await_phase("bmodel", "tiny", "Available")
    assert status["digest"] == RESULT["digest"]
    assert world.find("jobs") == []


def test_models_that_want_the_same_share_one_copy_until_the_last_goes(world: World) -> None:
    world.apply(model("a", SAME), model("b", SAME))
    job = world.one("jobs")["metadata"]["name"]
    world.end_download(job)
    for name in ("a", "b"):
        world.await_phase("bmodel", name, "Available")
    eventually(lambda: is_equal(owners(world, job), {"a", "b"}))
    world.kubectl("delete", "bmodel", "a")
    eventually(lambda: is_equal(owners(world, job), {"b"}))
    world.kubectl("delete", "bmodel", "b")
    eventually(lambda: world.gone("pvc"))


def test_a_download_that_cannot_heal_is_told_and_runs_again_when_its_job_is_deleted(world: World) -> None:
    world.apply(model("tiny"))
    job = world.one("jobs")
    world.end_download(job["metadata"]["name"], code=10, message=DENIED)
    ready = world.await_reason("bmodel", "tiny", "Unauthorized")
    assert "set spec.credentialsSecretRef" in ready["message"]
    assert f"delete Job {job['metadata']['name']}" in ready["message"]
    assert world.condition("bmodel", "tiny", "Stalled")["status"] == "True"
    assert ("Warning", "Unauthorized") in world.events("tiny")
    world.kubectl("delete", "job", job["metadata"]["name"])
    eventually(lambda: differs(world.one("jobs")["metadata"]["uid"], job["metadata"]["uid"]))
    world.end_download(job["metadata"]["name"])
    world.await_phase("bmodel", "tiny", "Available")


def test_deletion_waits_for_the_deployments_that_use_the_model_and_then_takes_the_copy(world: World) -> None:
    world.make_available("tiny")
    world.apply(deployment("chat", "tiny"))
    world.await_phase("mdep", "chat", "Active")
    world.kubectl("delete", "bmodel", "tiny", "--wait=false")
    ready = world.await_reason("bmodel", "tiny", "InUse")
    assert "chat" in ready["message"]
    assert world.get("mdep", "chat")["status"]["phase"] == "Active"
    world.kubectl("delete", "mdep", "chat")
    eventually(lambda: world.gone("bmodel"))
    eventually(lambda: world.gone("pvc"))


def test_deletion_in_the_foreground_takes_no_weights_that_are_in_use(world: World) -> None:
    claim = world.make_available("tiny")
    world.apply(deployment("chat", "tiny"))
    world.await_phase("mdep", "chat", "Active")
    world.kubectl("delete", "bmodel", "tiny", "--cascade=foreground", "--wait=false")
    world.await_reason("bmodel", "tiny", "InUse")
    # The garbage collector has then looked at all that depends on the Model.
    eventually(lambda: is_equal(world.get("bmodel", "tiny")["metadata"]["finalizers"], ["bud.studio/model-in-use"]))
    assert "deletionTimestamp" not in world.get("pvc", claim)["metadata"]
    world.kubectl("delete", "mdep", "chat", "--cascade=foreground")
    eventually(lambda: world.gone("bmodel"))
    eventually(lambda: world.gone("pvc"))


def test_deletion_during_a_download_leaves_nothing(world: World) -> None:
    world.apply(model("tiny"))
    world.one("jobs")
    world.kubectl("delete", "bmodel", "tiny")
    eventually(lambda: world.gone("jobs,pvc"))


def test_a_new_source_is_fetched_beside_the_old_one(world: World) -> None:
    old = world.make_available("tiny")
    world.apply(model("tiny", {"source": {"url": {"url": "http://files/other.gguf"}}}))
    job = eventually(lambda: world.one("jobs"))["metadata"]["name"]
    assert job != old
    world.await_phase("bmodel", "tiny", "Downloading")
    assert {claim["metadata"]["name"] for claim in world.find("pvc")} == {old, job}
    world.end_download(job)
    world.await_phase("bmodel", "tiny", "Available")
    eventually(
        lambda: is_equal(
            [c["metadata"]["name"] for c in world.find("pvc") if "deletionTimestamp" not in c["metadata"]], [job]
        )
    )


def test_the_old_copy_stays_until_the_last_pod_has_moved_to_the_new_one(world: World) -> None:
    old = world.make_available("tiny")
    world.apply(deployment("chat", "tiny"))
    world.await_phase("mdep", "chat", "Active")
    world.apply(model("tiny", {"source": {"url": {"url": "http://files/other.gguf"}}}))
    new = world.one("jobs")["metadata"]["name"]
    world.end_download(new)
    world.await_phase("bmodel", "tiny", "Available")
    eventually(lambda: is_equal(_mounted(world.one("deployments.apps")["spec"]["template"]["spec"]), {new}))
    eventually(lambda: is_equal({claim for pod in world.find("pods") for claim in _mounted(pod["spec"])}, {old, new}))
    assert "deletionTimestamp" not in world.get("pvc", old)["metadata"]
    world.bind(new)
    eventually(lambda: is_equal({claim["metadata"]["name"] for claim in world.find("pvc")}, {new}))


def _mounted(pod: dict[str, Any]) -> set[str]:
    claims = [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
    return {claim["claimName"] for claim in claims if claim}


def test_a_claim_that_does_not_exist_is_named_and_waited_for(world: World) -> None:
    world.apply(model("tiny", {"source": {"local": {"pvc": "weights"}}}))
    ready = world.await_reason("bmodel", "tiny", "ClaimNotFound")
    assert "PersistentVolumeClaim weights" in ready["message"]
    world.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "weights"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
    )
    job = world.one("jobs")
    world.end_download(job["metadata"]["name"])
    status = world.await_phase("bmodel", "tiny", "Available")
    assert status["copies"] == [{"cluster": "local", "claimName": "weights"}]
    world.kubectl("delete", "bmodel", "tiny")
    assert world.get("pvc", "weights")["metadata"]["name"] == "weights"


def test_a_path_of_the_node_needs_an_allowed_prefix(world: World) -> None:
    world.apply(model("bad", {"source": {"local": {"hostPath": "/etc"}}}))
    assert "/mnt/models" in world.await_reason("bmodel", "bad", "HostPathNotAllowed")["message"]
    world.apply(model("good", {"source": {"local": {"hostPath": "/mnt/models/tiny"}}}))
    job = world.one("jobs")
    assert job["spec"]["template"]["spec"]["volumes"][0]["hostPath"]["path"] == "/mnt/models/tiny"


def test_a_refused_path_of_the_node_reaches_no_pod_by_any_detour(world: World) -> None:
    spec = {"source": {"local": {"hostPath": "/etc"}}}
    forged = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": copy_id(world.namespace, ModelSpec.model_validate(spec)),
            "annotations": {"bud.studio/weights": json.dumps(RESULT)},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    world.apply(forged)
    world.apply(model("evil", spec), deployment("chat", "evil"))
    world.await_reason("bmodel", "evil", "HostPathNotAllowed")
    world.await_reason("mdep", "chat", "ModelFailed")
    world.kubectl("delete", "bmodel", "evil", "--wait=false")
    world.await_reason("bmodel", "evil", "InUse")
    eventually(lambda: is_equal(world.get("mdep", "chat")["status"]["phase"], "Pending"))
    assert world.find("deployments.apps") == []


def test_a_restored_model_that_brings_our_finalizer_along_can_be_deleted(world: World) -> None:
    restored = model("tiny")
    restored["metadata"]["finalizers"] = ["bud.studio/model-in-use", "example.com/of-somebody-else"]
    world.apply(restored)
    world.one("jobs")
    world.kubectl("delete", "bmodel", "tiny", "--wait=false")
    eventually(
        lambda: is_equal(world.get("bmodel", "tiny")["metadata"]["finalizers"], ["example.com/of-somebody-else"])
    )
    world.kubectl("patch", "bmodel", "tiny", "--type=merge", '-p={"metadata":{"finalizers":null}}')
    eventually(lambda: world.gone("bmodel"))


def test_a_claim_that_is_going_is_not_taken_for_the_weights(world: World) -> None:
    claim = world.make_available("tiny")
    world.apply(deployment("chat", "tiny"))
    world.await_phase("mdep", "chat", "Active")
    world.kubectl("delete", "pvc", claim, "--wait=false")
    world.await_reason("bmodel", "tiny", "ClaimDeleting")
    world.kubectl("delete", "mdep", "chat")
    eventually(lambda: _job_of(world, claim))
    world.end_download(claim)
    world.await_phase("bmodel", "tiny", "Available")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"source": {"url": {"url": "http://a/b"}, "cloud": {"uri": "s3://a/b"}}},
            "set exactly one of huggingFace, url, local or cloud",
        ),
        ({"source": {}}, "set exactly one of huggingFace, url, local or cloud"),
        ({}, "spec.source: Required"),
        ({"source": {"url": {}}}, "set exactly one of url .one file. or urls"),
        ({"source": {"url": {"url": "ftp://a/b"}}}, "spec.source.url.url"),
        ({"source": {"local": {"pvc": "a", "hostPath": "/b"}}}, "set exactly one of pvc or hostPath"),
        ({"source": {"local": {"pvc": "a", "path": "../b"}}}, "must not contain .."),
        ({"source": {"local": {"pvc": "a", "path": "/b"}}}, "path must be relative"),
        ({"source": {"cloud": {"uri": "ftp://a"}}}, "spec.source.cloud.uri"),
        (SAME | {"sha256": {"f": "abc"}}, "spec.sha256"),
        (SAME | {"storage": {"size": "lots"}}, "must be a Kubernetes quantity"),
        (SAME | {"storage": {"size": "-1Gi"}}, "greater than zero"),
        (SAME | {"storage": {"size": 0}}, "greater than zero"),
        (SAME | {"storage": {"size": 20}}, "spec.storage.size: .*write 16Gi rather than 16"),
        (SAME | {"storage": {"accessModes": ["ReadWriteOnce", "ReadWriteOnce"]}}, "named twice"),
        (SAME | {"storage": {"claimName": "mine", "size": "1Gi"}}, "remove size, storageClassName and accessModes"),
        (SAME | {"storage": {"claimName": "mine", "reclaim": "Delete"}}, "a claim of yours is always kept"),
        (SAME | {"storage": {"mode": "PerNode", "size": "1Gi"}}, "mode PerNode keeps copies on the nodes' own disks"),
        (SAME | {"storage": {"mode": "PerNode"}, "serviceAccountName": "a"}, "remove serviceAccountName"),
        ({"source": {"local": {"pvc": "a"}}, "storage": {"mode": "PerNode"}}, "set storage.mode to Shared"),
        (SAME | {"storage": {"accessModes": ["ReadOnlyMany"]}}, "add ReadWriteOnce or ReadWriteMany"),
        (SAME | {"storage": {"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}}, "goes with no other access mode"),
        (SAME | {"storage": {"accessModes": ["Everywhere"]}}, "spec.storage.accessModes.0.: Unsupported value"),
        ({"source": {"local": {"pvc": "a"}}, "storage": {"claimName": "b"}}, "remove storage.claimName"),
        (SAME | {"format": "ggml"}, "spec.format: Unsupported value"),
        (SAME | {"checksum": "x"}, r'unknown field "spec.checksum"|\.spec\.checksum: field not declared in schema'),
        (
            {"source": {"url": {"url": "http://a/b", "sha": "x"}}},
            r'unknown field "spec.source.url.sha"|\.url\.sha: field not declared in schema',
        ),
    ],
)
@pytest.mark.parametrize("options", [(), ("--server-side",)], ids=["client-side apply", "server-side apply"])
def test_the_api_server_refuses_a_bad_model(
    kinds: Cluster, spec: dict[str, object], message: str, options: tuple[str, ...]
) -> None:
    refusal = refused(kinds, {**model("bad"), "spec": spec}, *options)
    assert re.search(message, refusal)


def _job_of(world: World, name: str) -> None:
    assert name in [job["metadata"]["name"] for job in world.find("jobs")]
