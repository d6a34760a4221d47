"""Where the weights of a Model are kept, on a real API server: claims of ours and of the user's."""

from __future__ import annotations

from typing import Any

from tests.integration.test_models import _equal, _none
from tests.waiting import eventually
from tests.world import RESULT, World, deployment, model

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


def test_another_end_for_the_claim_fetches_nothing_anew(world: World) -> None:
    kept = world.make_available("tiny")
    assert world.get("pvc", kept)["metadata"]["ownerReferences"]
    spec = world.get("bmodel", "tiny")["spec"]
    world.apply(model("tiny", spec | {"storage": {"reclaim": "Retain"}}))
    eventually(lambda: _equal(world.get("pvc", kept)["metadata"].get("ownerReferences"), None))
    world.apply(model("tiny", spec | {"storage": {"reclaim": "Delete"}}))
    eventually(lambda: _equal([o["name"] for o in world.get("pvc", kept)["metadata"]["ownerReferences"]], ["tiny"]))
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
