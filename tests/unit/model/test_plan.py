"""What a Model wants to exist, as YAML, and which Models share a copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from bud.api.model import ModelSpec
from bud.engines.node_cache import NodeStorage
from bud.errors import BudError, InvalidError, WaitingError
from bud.kube.kinds import CLAIMS, JOBS
from bud.model.job import IMAGE, NODE_STORAGE
from bud.model.job import RESULT as RESULT_ANNOTATION
from bud.model.plan import plan
from bud.model.view import Owner, View, copy_id, describe
from tests import goldens
from tests.unit.model.views import HUB, RESULT, claim, job, view

KEPT = {RESULT_ANNOTATION: orjson.dumps(RESULT).decode()}
LOCAL = {"source": {"local": {"pvc": "weights", "path": "llama/"}}}
SECRET = {"credentialsSecretRef": {"name": "hub"}}

PER_NODE = HUB | {"storage": {"mode": "PerNode"}}
NODE = NodeStorage("/var/lib/bud/models", 200 * 1024**3)

GOLDENS = {
    "shortest": view(),
    "full": view(
        {
            "source": {
                "huggingFace": {
                    "repo": "a/B",
                    "revision": "v1",
                    "allowPatterns": ["*.gguf"],
                    "endpoint": "http://mirror",
                }
            },
            "sha256": {"m.gguf": "0" * 64},
            "storage": {"size": "1024Mi", "storageClassName": "fast"},
            **SECRET,
        },
        owners=(Owner("a", "u1", "1024Mi"), Owner("b", "u2", "1Mi")),
    ),
    "retained": view(HUB | {"storage": {"reclaim": "Retain", "accessModes": ["ReadWriteMany"]}}),
    "given-claim": view(
        HUB | {"storage": {"claimName": "shared"}, "serviceAccountName": "hub-reader"}, given_claim=claim()
    ),
    "given-claim-filled": view(
        HUB | {"storage": {"claimName": "shared"}}, given_claim=claim(), job=job(complete=True), result=RESULT
    ),
    "per-node": view(PER_NODE | SECRET, node_storage=NODE),
    "per-node-fetched": view(
        PER_NODE,
        node_storage=NodeStorage("/elsewhere", 1),
        job=job(complete=True, annotations={NODE_STORAGE: '{"path":"/var/lib/bud/models","size_bytes":1000}'}),
        result=RESULT,
    ),
    "url": view({"source": {"url": {"url": "http://u:p@files/tiny.gguf?token=x"}}}),
    "cloud": view({"source": {"cloud": {"uri": "s3://bucket/llama", "region": "eu-1"}}}),
    "claim": view(LOCAL, given_claim=claim()),
    "host-path": view({"source": {"local": {"hostPath": "/mnt/models/llama"}}}),
    "found-but-not-yet-kept": view(claim=claim(), job=job(complete=True), result=RESULT),
    "claim-hashed": view(LOCAL, given_claim=claim(), job=job(complete=True), result=RESULT),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_the_objects_that_are_wanted(name: str) -> None:
    goldens.check(f"model/{name}", [document for _, document in plan(GOLDENS[name]).objects])


def test_the_job_goes_once_the_claim_tells_what_was_found() -> None:
    finished = view(claim=claim(annotations=KEPT), job=job(complete=True), result=RESULT)
    wanted = plan(finished)
    assert [resource for resource, _ in wanted.objects] == [CLAIMS]
    assert wanted.unwanted == (finished.job,)


def test_copies_of_an_earlier_source_go_only_when_the_new_one_is_whole() -> None:
    old = claim(name="old", annotations=KEPT)
    assert plan(view(stale=(old,))).unwanted == ()
    assert plan(view(stale=(old,), claim=claim(annotations=KEPT), result=RESULT)).unwanted == (old,)


def test_what_is_left_of_a_failed_download_goes_at_once() -> None:
    left = (claim(name="old"), job(failed="x"))
    assert plan(view(stale=left)).unwanted == left


def test_a_claim_that_somebody_expanded_is_not_shrunk() -> None:
    expanded = claim()
    documents = dict(plan(view(claim=replace(expanded, data=replace(expanded.data, size="40Gi")))).objects)
    assert documents[CLAIMS]["spec"]["resources"]["requests"]["storage"] == "40Gi"


def test_a_claim_is_as_large_as_the_largest_of_its_models_asks_for() -> None:
    owners = (Owner("a", "u1", "30Gi"), Owner("b", "u2"), Owner("c", "u3", 40 * 1024**3))
    documents = dict(plan(view(owners=owners)).objects)
    assert documents[CLAIMS]["spec"]["resources"]["requests"]["storage"] == "42949672960"


def test_a_claim_is_kept_while_one_of_its_models_says_so() -> None:
    owners = (Owner("a", "u1"), Owner("b", "u2", retain=True))
    documents = dict(plan(view(owners=owners)).objects)
    assert "ownerReferences" not in documents[CLAIMS]["metadata"]
    assert len(documents[JOBS]["metadata"]["ownerReferences"]) == 2


def test_a_job_keeps_the_image_it_was_made_with() -> None:
    documents = dict(plan(view(job=job(annotations={IMAGE: "bud:0"}))).objects)
    assert documents[JOBS]["spec"]["template"]["spec"]["containers"][0]["image"] == "bud:0"


@pytest.mark.parametrize(
    ("changed", "kind", "reason", "message"),
    [
        (view(older_claim=True), WaitingError, "ClaimDeleting", "still being deleted"),
        (view(PER_NODE), InvalidError, "NodeCacheNotEnabled", "--node-cache-path.*spec.storage.mode"),
        (view(LOCAL), WaitingError, "ClaimNotFound", "no PersistentVolumeClaim weights in namespace team.*local.pvc"),
        (
            view(HUB | {"storage": {"claimName": "w"}}),
            WaitingError,
            "ClaimNotFound",
            "PersistentVolumeClaim w .*spec.storage.claimName",
        ),
        (view({"source": {"local": {"hostPath": "/etc"}}}), InvalidError, "HostPathNotAllowed", "/mnt/models"),
        (
            view({"source": {"local": {"hostPath": "/mnt/modelsX"}}}),
            InvalidError,
            "HostPathNotAllowed",
            "allow-host-path",
        ),
        (
            view({"source": {"local": {"hostPath": "/mnt/models/../../etc"}}}),
            InvalidError,
            "HostPathNotAllowed",
            "/etc",
        ),
        (view(HUB | {"storage": {"size": "lots"}}), InvalidError, "InvalidQuantity", "lots"),
    ],
)
def test_why_nothing_is_wanted_yet(changed: View, kind: type[BudError], reason: str, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        plan(changed)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        pytest.param(HUB, True, id="the same source"),
        pytest.param(HUB | {"task": "text-generation", "format": "gguf", "metadata": {"a": 1}}, True, id="what does not concern files"),
        pytest.param({"source": {"huggingFace": {"repo": "meta-llama/Llama-3.2-1B-Instruct", "revision": "main"}}}, True, id="a default written out"),
        pytest.param({"source": {"huggingFace": {"repo": "meta-llama/Llama-3.2-1B-Instruct", "revision": "v2"}}}, False, id="another revision"),
        pytest.param(HUB | SECRET, False, id="other credentials"),
        pytest.param(HUB | {"serviceAccountName": "hub"}, False, id="another identity"),
        pytest.param(HUB | {"storage": {"storageClassName": "fast"}}, False, id="another kind of volume"),
        pytest.param(HUB | {"storage": {"accessModes": ["ReadWriteMany"]}}, False, id="a volume for other nodes"),
        pytest.param(HUB | {"storage": {"claimName": "mine"}}, False, id="a claim of the user's"),
        pytest.param(HUB | {"storage": {"size": "5Gi", "reclaim": "Retain"}}, True, id="another size, and another end"),
        pytest.param(HUB | {"storage": {}}, True, id="nothing said of the volume"),
        pytest.param(HUB | {"sha256": {"a": "0" * 64}}, False, id="other hashes"),
    ],
)  # fmt: skip
def test_which_models_of_a_namespace_share_a_copy(other: dict[str, Any], shared: bool) -> None:
    first, second = (copy_id("team", ModelSpec.model_validate(spec)) for spec in (HUB, other))
    assert (first == second) is shared


def test_no_copy_is_shared_across_namespaces() -> None:
    spec = ModelSpec.model_validate(HUB)
    assert copy_id("a", spec) != copy_id("b", spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (HUB, "hf://meta-llama/Llama-3.2-1B-Instruct@main"),
        ({"source": {"url": {"url": "https://user:secret@host/a/b.gguf?sig=secret"}}}, "https://host/a/b.gguf"),
        ({"source": {"url": {"urls": ["https://host/a", "https://host/b"]}}}, "https://host/a"),
        ({"source": {"cloud": {"uri": "gs://bucket/p"}}}, "gs://bucket/p"),
        (LOCAL, "pvc://weights/llama/"),
    ],
)
def test_a_source_is_described_without_its_secrets(spec: dict[str, Any], expected: str) -> None:
    assert describe(ModelSpec.model_validate(spec)) == expected


def test_every_owner_of_a_shared_copy_wants_the_very_same_objects() -> None:
    owners = (Owner("a", "u1"), Owner("b", "u2"))
    assert plan(view(owners=owners)) == plan(replace(view(owners=owners), name="b", uid="u2"))
