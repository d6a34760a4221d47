"""Where the weights of a Model are kept, on a real API server: claims of ours and of the user's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bud.kube.kinds import WANTED_BY
from tests.cluster.failure import Failed
from tests.waiting import eventually, is_equal
from tests.world import RESULT, World, claim_of_ones_own, deployment, model

RETAINED = {"source": {"url": {"url": "http://files/kept.gguf"}}, "storage": {"reclaim": "Retain"}}


def test_a_retained_claim_outlives_its_model_and_is_found_again_without_a_download(world: World) -> None:
    kept = world.make_available("tiny", RETAINED)
    eventually(lambda: world.gone("jobs"))
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
        # kubectl would wait for the end of its successor, which is there at once.
        world.kubectl("delete", "pvc", kept, "--wait=false")
    world.await_reason("bmodel", "again", "ClaimPending")
    world.end_download(kept)
    world.await_phase("bmodel", "again", "Available")
    eventually(lambda: world.gone("jobs"))


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
    eventually(lambda: world.gone("bmodel"))
    eventually(lambda: world.gone("pvc"))


def test_another_end_for_the_claim_fetches_nothing_anew(world: World) -> None:
    kept = world.make_available("tiny")
    assert world.get("pvc", kept)["metadata"]["annotations"][WANTED_BY] == "tiny"
    spec = world.get("bmodel", "tiny")["spec"]
    world.apply(model("tiny", spec | {"storage": {"reclaim": "Retain"}}))
    eventually(lambda: is_equal(world.get("pvc", kept)["metadata"]["annotations"].get(WANTED_BY), None))
    world.apply(model("tiny", spec | {"storage": {"reclaim": "Delete"}}))
    eventually(lambda: is_equal(world.get("pvc", kept)["metadata"]["annotations"].get(WANTED_BY), "tiny"))
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
