"""What a Model wants to exist, as YAML, and which Models share a copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from bud.api.model import ModelSpec
from bud.engines.node_cache import NodeStorage
from bud.errors import BudError, InvalidError, WaitingError
from bud.kube.kinds import CLAIMS, JOBS, WANTED_BY
from bud.kube.seen import Seen
from bud.model.job import MADE_WITH
from bud.model.job import RESULT as RESULT_ANNOTATION
from bud.model.plan import plan
from bud.model.storage import REQUESTED
from bud.model.view import Need, Owner, View, copy_id, describe
from tests import goldens
from tests.unit.model.views import HUB, RESULT, claim, job, storage_class, view


def kept(claim: str = "copy") -> dict[str, str]:
    """The note on a claim of what was found in it."""
    return {RESULT_ANNOTATION: orjson.dumps(RESULT | {"claim": f"uid-{claim}"}).decode()}


KEPT = kept()
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
        job=job(
            complete=True,
            annotations={
                MADE_WITH: '{"image":"bud:1","node_storage":{"path":"/var/lib/bud/models","size_bytes":1000}}'
            },
        ),
        result=RESULT,
    ),
    "url": view({"source": {"url": {"url": "http://u:p@files/tiny.gguf?token=x"}}}),
    "cloud": view({"source": {"cloud": {"uri": "s3://bucket/llama", "region": "eu-1"}}}),
    "claim": view(LOCAL, given_claim=claim()),
    "for-gpus": view(
        needs=(
            Need(
                {
                    "nodeSelector": {"pool": "gpu"},
                    "tolerations": [
                        {"effect": "NoExecute", "key": "team", "operator": "Exists", "tolerationSeconds": 60}
                    ],
                },
                (("nvidia.com/gpu.product", ("NVIDIA-A100-SXM4-80GB", "NVIDIA-L4")),),
                ("nvidia.com/gpu",),
            ),
            Need({"nodeSelector": {"zone": "b"}}),
        )
    ),
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
    old = claim(name="old", annotations=kept("old"))
    assert plan(view(stale=(old,))).unwanted == ()
    assert plan(view(stale=(old,), claim=claim(annotations=KEPT), result=RESULT)).unwanted == (old,)


def test_what_is_left_of_a_failed_download_goes_at_once() -> None:
    left = (claim(name="old"), job(failed="x"))
    assert plan(view(stale=left)).unwanted == left


@pytest.mark.parametrize(
    ("asked", "seen", "changes", "expected"),
    [
        pytest.param(None, claim(size="40Gi"), {}, "40Gi", id="somebody expanded it"),
        pytest.param("10Gi", claim(), {}, "20Gi", id="a volume never shrinks"),
        pytest.param("30Gi", claim(), {"classes": (storage_class("fast", expands=True),)}, "30Gi", id="it grows"),
        pytest.param("30Gi", claim(), {"classes": (storage_class("fast"),)}, "20Gi", id="its class does not allow it"),
        pytest.param("30Gi", claim(storage_class=None), {}, "20Gi", id="it has no class"),
        pytest.param("30Gi", claim(), {"classes": None}, "30Gi", id="classes are not read: trying tells"),
        pytest.param("30Gi", claim("Pending"), {}, "20Gi", id="what is not bound cannot be changed"),
    ],
)
def test_the_size_of_a_claim_that_exists(asked: str | None, seen: Seen, changes: dict[str, Any], expected: str) -> None:
    documents = dict(plan(view(HUB | {"storage": {"size": asked}}, claim=seen, **changes)).objects)
    assert documents[CLAIMS]["spec"]["resources"]["requests"]["storage"] == expected


@pytest.mark.parametrize(
    ("seen", "result", "replaced"),
    [
        (claim("Pending", {REQUESTED: "20Gi"}), None, True),
        (claim("Pending", {REQUESTED: "30Gi"}), None, False),
        (claim("Pending", {REQUESTED: "30720Mi"}), None, False),
        (claim("Pending"), None, False),
        (claim("Pending", {REQUESTED: "20Gi"}), RESULT, False),
        (claim("Bound", {REQUESTED: "20Gi"}), None, False),
        (claim("Lost", {REQUESTED: "20Gi"}), None, False),
    ],
)
def test_a_claim_that_was_never_bound_is_made_anew_in_another_size(
    seen: Seen, result: dict[str, Any] | None, replaced: bool
) -> None:
    wanted = plan(view(HUB | {"storage": {"size": "30Gi"}}, claim=seen, result=result))
    assert (wanted.unwanted == (seen,)) is replaced
    assert (wanted.objects == ()) is replaced


@pytest.mark.parametrize(
    ("spec", "classes", "expected"),
    [
        ({}, (storage_class("disk", default=True),), ["ReadWriteOnce"]),
        ({}, (storage_class("nfs", provisioner="nfs.csi.k8s.io", default=True),), ["ReadWriteMany"]),
        ({}, (storage_class("nfs", provisioner="nfs.csi.k8s.io"),), ["ReadWriteOnce"]),
        (
            {"storageClassName": "ceph"},
            (storage_class("ceph", provisioner="rook-ceph.cephfs.csi.ceph.com"),),
            ["ReadWriteMany"],
        ),
        (
            {"storageClassName": "ceph"},
            (storage_class("ceph", provisioner="rook-ceph.rbd.csi.ceph.com"),),
            ["ReadWriteOnce"],
        ),
        ({"storageClassName": "efs"}, None, ["ReadWriteOnce"]),
        (
            {"accessModes": ["ReadWriteOncePod"]},
            (storage_class("nfs", provisioner="nfs.csi.k8s.io", default=True),),
            ["ReadWriteOncePod"],
        ),
    ],
)
def test_the_access_modes_of_a_new_claim(
    spec: dict[str, Any], classes: tuple[Seen, ...] | None, expected: list[str]
) -> None:
    documents = dict(plan(view(HUB | {"storage": spec}, classes=classes)).objects)
    assert documents[CLAIMS]["spec"]["accessModes"] == expected


def test_the_access_modes_of_a_claim_that_exists_stay() -> None:
    nfs = storage_class("fast", provisioner="nfs.csi.k8s.io", default=True)
    documents = dict(plan(view(claim=claim(access_modes=("ReadWriteOnce",)), classes=(nfs,))).objects)
    assert documents[CLAIMS]["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_of_several_default_classes_the_newest_counts() -> None:
    old = storage_class("a", default=True, created="2025-01-01T00:00:00Z", provisioner="nfs.csi.k8s.io")
    new = storage_class("b", default=True)
    documents = dict(plan(view(classes=(old, new))).objects)
    assert documents[CLAIMS]["spec"]["accessModes"] == ["ReadWriteOnce"]


MADE = {MADE_WITH: '{"claim":"uid-copy","image":"bud:1","size":"10Gi"}'}
GIVEN = HUB | {"storage": {"claimName": "copy"}}


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        pytest.param(view(claim=claim(), job=job(failed="x", annotations=MADE)), True, id="failed, and the volume has grown"),
        pytest.param(view(claim=claim(capacity="10Gi"), job=job(failed="x", annotations=MADE)), False, id="the volume is growing"),
        pytest.param(view(claim=claim(capacity="10Gi", awaits_mount=True), job=job(failed="x", annotations=MADE)), True, id="its file system grows with the next mount"),
        pytest.param(view(claim=claim(), job=job(annotations=MADE)), False, id="it goes on"),
        pytest.param(view(claim=claim(size="10Gi"), job=job(failed="x", annotations=MADE)), False, id="the volume is as it was"),
        pytest.param(view(claim=claim(), job=job(failed="x")), False, id="nobody knows what it was made with"),
        pytest.param(view(GIVEN, given_claim=claim(), job=job(failed="x", annotations=MADE)), True, id="a claim of the user's has grown"),
        pytest.param(view(GIVEN, given_claim=claim(name="new"), job=job(complete=True, annotations=MADE)), True, id="a claim of the user's is another"),
        pytest.param(view(GIVEN, given_claim=claim(), job=job(complete=True, annotations=MADE), result=RESULT), False, id="whole"),
    ],
)  # fmt: skip
def test_when_a_job_is_made_anew(changed: View, again: bool) -> None:
    wanted = plan(changed)
    assert (changed.job in wanted.unwanted) is again
    assert (JOBS in dict(wanted.objects)) is not again


def test_a_claim_is_as_large_as_the_largest_of_its_models_asks_for() -> None:
    owners = (Owner("a", "u1", "30Gi"), Owner("b", "u2"), Owner("c", "u3", 40 * 1024**3))
    documents = dict(plan(view(owners=owners)).objects)
    assert documents[CLAIMS]["spec"]["resources"]["requests"]["storage"] == "42949672960"


def test_a_claim_is_kept_while_one_of_its_models_says_so() -> None:
    owners = (Owner("a", "u1"), Owner("b", "u2", retain=True))
    documents = dict(plan(view(owners=owners)).objects)
    assert WANTED_BY not in documents[CLAIMS]["metadata"]["annotations"]
    assert documents[JOBS]["metadata"]["annotations"][WANTED_BY] == "a,b"


def test_a_job_keeps_the_image_it_was_made_with() -> None:
    documents = dict(plan(view(job=job(annotations={MADE_WITH: '{"image":"bud:0"}'}))).objects)
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


L4 = Need({"resources": {"gpu": 1}}, (("nvidia.com/gpu.product", ("NVIDIA-L4",)),), ("nvidia.com/gpu",))
POOL = Need({"nodeSelector": {"pool": "gpu", "zone": "a"}, "tolerations": [{"key": "team", "operator": "Exists"}]})
ANYWHERE = Need({})
NONSENSE = Need({"nodeSelector": {"not a label": "x"}, "tolerations": [{"effect": "NoSchedule"}, {"key": "k", "operator": "Exists", "value": "v"}]})  # fmt: skip


def term(**labels: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": [value]} for key, value in labels.items()]}


def placed(changed: View) -> tuple[list[Any], list[Any]]:
    """Terms of node affinity, and tolerations, of the download's pod."""
    pod = dict(plan(changed).objects)[JOBS]["spec"]["template"]["spec"]
    required = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    return required.get("nodeSelectorTerms", []), pod.get("tolerations", [])


TWO = (("x", ("1",)), ("y", ("2",)))
GPU_TERM = term(**{"nvidia.com/gpu.product": "NVIDIA-L4"})
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists"}
POOL_TERM = term(pool="gpu", zone="a")
TEAM_TAINT = {"key": "team", "operator": "Exists"}


@pytest.mark.parametrize(
    ("needs", "terms", "tolerations"),
    [
        pytest.param((), [], [], id="nobody says anything"),
        pytest.param((ANYWHERE,), [], [], id="anywhere"),
        pytest.param((L4,), [GPU_TERM], [GPU_TAINT], id="where the GPUs are, without asking for one"),
        pytest.param((replace(POOL, gpu_labels=TWO),), [term(pool="gpu", zone="a", x="1"), term(pool="gpu", zone="a", y="2")], [TEAM_TAINT], id="GPUs of two vendors"),
        pytest.param((POOL, L4), [POOL_TERM, GPU_TERM], [TEAM_TAINT, GPU_TAINT], id="one or the other where they differ"),
        pytest.param((POOL, ANYWHERE, POOL), [POOL_TERM], [TEAM_TAINT], id="who runs anywhere runs there too"),
        pytest.param((NONSENSE,), [], [], id="what the API server would refuse is left out"),
    ],
)  # fmt: skip
def test_a_download_runs_where_its_deployments_can(
    needs: tuple[Need, ...], terms: list[Any], tolerations: list[Any]
) -> None:
    assert placed(view(needs=needs)) == (terms, tolerations)
    assert placed(view(needs=needs, claim=claim("Pending"))) == (terms, tolerations)
    assert "nvidia.com/gpu" not in str(
        dict(plan(view(needs=needs)).objects)[JOBS]["spec"]["template"]["spec"]["containers"]
    )


def test_a_volume_that_is_bound_decides_by_itself_where_its_pods_run() -> None:
    assert placed(view(needs=(POOL,), claim=claim())) == ([], [TEAM_TAINT])
    assert placed(view(GIVEN, needs=(POOL,), given_claim=claim())) == ([], [TEAM_TAINT])


def made_for(*needs: Need) -> Seen:
    """The Job as it was made for these."""
    document = dict(plan(view(needs=needs)).objects)[JOBS]
    return job(annotations=document["metadata"]["annotations"])


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        pytest.param(view(needs=(L4,), job=made_for(L4), waits_for_node=True), False, id="as it was made"),
        pytest.param(view(needs=(L4,), job=made_for(), waits_for_node=True), True, id="a Deployment came while it waits for a node"),
        pytest.param(view(needs=(L4,), job=made_for()), False, id="a Deployment came when it had a node"),
        pytest.param(view(needs=(), job=made_for(L4), waits_for_node=True), True, id="the Deployment went"),
        pytest.param(view(needs=(L4,), claim=claim(), job=made_for(L4), waits_for_node=True), True, id="the volume came to be elsewhere"),
        pytest.param(view(needs=(L4,), claim=claim(), job=made_for(L4)), False, id="the volume came to be, and its pod with it"),
    ],
)  # fmt: skip
def test_a_job_is_made_for_other_nodes_only_while_it_waits_for_one(changed: View, again: bool) -> None:
    wanted = plan(changed)
    assert (changed.job in wanted.unwanted) is again
    if not again:
        made = changed.job.data.annotations[MADE_WITH] if changed.job else ""
        assert dict(wanted.objects)[JOBS]["metadata"]["annotations"][MADE_WITH] == made
