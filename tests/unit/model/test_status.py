"""The truth table of a Model's phase and conditions."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bud.api.conditions import READY, RECONCILING, STALLED, find
from bud.api.model import ModelStatus, Progress
from bud.errors import ApiForbidden, BudError, InvalidError, WaitingError
from bud.kube.seen import Seen
from bud.model.job import RESULT as RESULT_ANNOTATION
from bud.model.status import Told, progress_of, result_of, status
from bud.model.view import View
from tests.unit.model.views import HUB, RESULT, claim, job, pod, storage_class, view

NOW = "2026-01-01T00:00:00Z"
DENIED = orjson.dumps({"error": {"reason": "Unauthorized", "message": "401; set spec.credentialsSecretRef"}}).decode()
FULL = orjson.dumps({"error": {"reason": "InsufficientSpace", "message": "raise spec.storage.size"}}).decode()


def look(
    changed: View,
    *pods: Seen,
    error: BudError | None = None,
    progress: Progress | None = None,
    overdue: bool = False,
    warning: str = "",
) -> ModelStatus:
    return status(changed, error, pods=pods, told=Told(progress, overdue, warning), previous=ModelStatus(), now=NOW)


@pytest.mark.parametrize(
    ("found", "phase", "reason", "message", "stalled"),
    [
        pytest.param(look(view()), "Downloading", "Downloading", "fetched", False, id="nothing made yet"),
        pytest.param(
            look(view(claim=claim("Pending"), classes=(storage_class("fast"),)), pod(phase="Pending", unschedulable="unbound claim")),
            "Downloading", "ClaimPending", "fast.*kubectl describe pvc", False, id="the volume is not there",
        ),
        pytest.param(
            look(view(claim=claim("Lost")), pod(phase="Pending", unschedulable="bound to non-existent persistentvolume")),
            "Error", "ClaimLost", "lost its volume.*delete claim", False, id="the volume is gone",
        ),
        pytest.param(
            look(view(claim=claim()), pod(phase="Pending", unschedulable="Insufficient cpu")),
            "Downloading", "Unschedulable", "Insufficient cpu", False, id="no node fits the download",
        ),
        pytest.param(
            look(view(), pod(waiting_reason="CreateContainerConfigError", waiting_message='secret "hub" not found')),
            "Downloading", "ContainerConfigInvalid", 'secret "hub" not found.*credentialsSecretRef', False, id="no such Secret",
        ),
        pytest.param(
            look(view(), pod(waiting_reason="ImagePullBackOff", waiting_message="Back-off")),
            "Downloading", "ImagePullFailed", "Back-off", False, id="the operator's image cannot be pulled",
        ),
        pytest.param(
            look(view(job=job()), pod(exit_code=1, exit_reason="Error", exit_message="reset by peer")),
            "Downloading", "Downloading", "trying again after.*reset by peer", False, id="a fault that may heal",
        ),
        pytest.param(
            look(view(job=job(failed="PodFailurePolicy")), pod(exit_code=10, exit_message=DENIED)),
            "Error", "Unauthorized", "401; set spec.credentialsSecretRef; then .* delete Job", True, id="a fault that cannot heal",
        ),
        pytest.param(
            look(view(job=job()), pod(exit_code=10, exit_message=DENIED)),
            "Error", "Unauthorized", "401", True, id="a fault that cannot heal, before the Job says that it failed",
        ),
        pytest.param(
            look(view(job=job(failed="BackoffLimitExceeded")), pod(exit_code=1, exit_reason="Error", exit_message="reset")),
            "Error", "DownloadFailed", "gave up .*reset", True, id="too many tries",
        ),
        pytest.param(
            look(view(job=job(failed="BackoffLimitExceeded"))),
            "Error", "DownloadFailed", "told by the Job", True, id="too many tries, and their pods are gone",
        ),
        pytest.param(
            look(view(job=job(complete=True))), "Error", "ResultLost", "delete Job", True, id="what was found is lost",
        ),
        pytest.param(
            look(view(), error=WaitingError("x", reason="ClaimNotFound")),
            "Error", "ClaimNotFound", "x", False, id="something outside is missing",
        ),
        pytest.param(
            look(view(), error=InvalidError("x", reason="HostPathNotAllowed")),
            "Error", "HostPathNotAllowed", "x", True, id="a spec that cannot work",
        ),
        pytest.param(
            look(view(HUB | {"storage": {"storageClassName": "fast"}})),
            "Error", "StorageClassNotFound", "no StorageClass fast .classes: standard.*spec.storage.storageClassName", False, id="no such StorageClass",
        ),
        pytest.param(
            look(view(classes=(storage_class("standard"),))),
            "Error", "NoDefaultStorageClass", "classes: standard.*spec.storage.storageClassName", False, id="no default StorageClass",
        ),
        pytest.param(
            look(view(HUB | {"storage": {"storageClassName": "manual"}}, claim=claim())),
            "Downloading", "Downloading", "fetched", False, id="no StorageClass, and a volume all the same",
        ),
        pytest.param(
            look(view(HUB | {"storage": {"storageClassName": "fast"}}, classes=None)),
            "Downloading", "Downloading", "fetched", False, id="StorageClasses are not read",
        ),
        pytest.param(
            look(view(claim=claim("Pending"), classes=(storage_class("fast"),)), pod(phase="Pending", unschedulable="unbound claim"), warning="no space left in pool"),
            "Downloading", "ClaimPending", "fast.: no space left in pool; see", False, id="the volume cannot be made",
        ),
        pytest.param(
            look(view(job=job()), overdue=True, warning='pods "x" is forbidden: exceeded quota: team'),
            "Downloading", "QuotaExceeded", "exceeded quota: team; raise the ResourceQuota, or free some of it; see kubectl describe job", False, id="a quota refuses the pod",
        ),
        pytest.param(
            look(view(job=job()), overdue=True, warning='error looking up service account team/nobody'),
            "Downloading", "PodRefused", "service account team/nobody", False, id="something else refuses the pod",
        ),
        pytest.param(
            look(view(job=job()), overdue=True),
            "Downloading", "Downloading", "pod is not made yet; see kubectl describe job", False, id="no pod, and nothing tells why",
        ),
        pytest.param(
            look(view(), error=ApiForbidden("exceeded quota: team", reason="QuotaExceeded")),
            "Error", "QuotaExceeded", "exceeded quota: team", False, id="a quota refuses the claim",
        ),
        pytest.param(
            look(view(claim=claim(), result=RESULT), error=ApiForbidden("exceeded quota: team", reason="QuotaExceeded")),
            "Available", "Available", "3 files.*exceeded quota: team", False, id="a quota refuses that the claim grows",
        ),
        pytest.param(
            look(view(result=RESULT), error=ApiForbidden("exceeded quota: team", reason="QuotaExceeded")),
            "Error", "QuotaExceeded", "exceeded quota: team", False, id="a quota refuses the claim that was lost",
        ),
        pytest.param(
            look(view(HUB | {"storage": {"size": "30Gi"}}, claim=claim(), classes=(storage_class("fast"),), result=RESULT)),
            "Available", "Available", "stays at 20Gi, not 30Gi: StorageClass fast does not allow expansion.*delete claim llama", False, id="the volume cannot grow",
        ),
        pytest.param(
            look(view(claim=claim(capacity="10Gi"), job=job(failed="x")), pod(exit_code=10, exit_message=FULL)),
            "Error", "InsufficientSpace", "raise spec.storage.size.*the volume is being grown to 20Gi", True, id="larger than the volume, which is growing",
        ),
        pytest.param(
            look(view(HUB | {"storage": {"claimName": "mine"}}, given_claim=claim(), job=job(failed="x")), pod(exit_code=10, exit_message=FULL)),
            "Error", "InsufficientSpace", "claim mine is yours to grow", True, id="larger than a volume of the user's",
        ),
        pytest.param(look(view(result=RESULT)), "Available", "Available", "3 files, 2.3Gi; .* compared", False, id="whole"),
        pytest.param(
            look(view(result=RESULT | {"verification": "recorded"})),
            "Available", "Available", "recorded; there were none", False, id="whole, with nothing to compare with",
        ),
        pytest.param(
            look(view(result=RESULT, deleting=True, users=("chat", "embed"))),
            "Deleting", "InUse", "now used by chat, embed", False, id="deleted while in use",
        ),
        pytest.param(look(view(deleting=True)), "Deleting", "Deleting", "", False, id="being deleted"),
    ],
)  # fmt: skip
def test_the_truth_table(found: ModelStatus, phase: str, reason: str, message: str, stalled: bool) -> None:
    ready, going, stuck = (find(found.conditions, kind) for kind in (READY, RECONCILING, STALLED))
    assert ready is not None and going is not None and stuck is not None
    assert (found.phase, ready.reason) == (phase, reason)
    assert (ready.status == "True") is (phase == "Available")
    assert (stuck.status == "True") is stalled
    assert (going.status == "True") is (phase != "Available" and not stalled)
    assert re.search(message, ready.message)


def test_available_tells_what_was_found_and_where_it_is() -> None:
    found = look(view(result=RESULT))
    assert (found.size, found.bytes, found.files, found.revision) == ("2.3Gi", 2_500_000_000, 3, "abc123")
    assert (found.verification, found.format, found.task, found.digest) == (
        "verified",
        "safetensors",
        "text-generation",
        RESULT["digest"],
    )
    assert [copy.model_dump() for copy in found.copies] == [{"cluster": "local", "claim_name": view().id, "path": ""}]


def test_weights_in_a_claim_of_the_users_are_in_a_folder_of_their_own() -> None:
    changed = view({"source": {"url": {"url": "http://x/y.gguf"}}, "storage": {"claimName": "mine"}}, result=RESULT)
    found = look(replace(changed, result=RESULT | {"file": "y.gguf"}))
    assert [(copy.claim_name, copy.path) for copy in found.copies] == [("mine", changed.id)]
    assert found.file == f"{changed.id}/y.gguf"


def test_what_the_spec_says_wins_over_what_was_found() -> None:
    spec = {"source": {"url": {"url": "http://x/y.bin"}}, "format": "gguf", "task": "text-ranking"}
    found = look(view(spec, result=RESULT))
    assert (found.format, found.task) == ("gguf", "text-ranking")


@pytest.mark.parametrize(
    ("found", "task"),
    [
        (None, "text-generation"),
        ("image-text-to-text", "text-generation"),
        ("sentence-similarity", "feature-extraction"),
        ("text-ranking", "text-ranking"),
    ],
)
def test_the_task_by_which_a_model_is_served(found: str | None, task: str) -> None:
    assert look(view(result=RESULT | {"task": found})).task == task


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ('{"progress": {"bytesDone": 50, "bytesTotal": 200, "bytesPerSecond": 10, "secondsLeft": 15}}\n', ("25%", 50, 15)),
        ('{"progress": {"bytesDone": 1, "bytesTotal": 2}}\n{"progress": {"bytesDone": 2, "bytesTotal": 2}}\nnoise', ("100%", 2, None)),
        ('{"progress": {"bytesDone": 7, "bytesTotal": null}}', ("", 7, None)),
        ("noise", None),
        ('{"progress": {"bytesDone": "x"}}', None),
    ],
)  # fmt: skip
def test_progress_is_read_from_the_end_of_the_log(log: str, expected: tuple[str, int, int | None] | None) -> None:
    found = progress_of(log)
    assert (found and (found.percent, found.bytes_done, found.seconds_left)) == expected


def test_progress_is_told_only_while_it_goes_on() -> None:
    progress = Progress(percent="10%")
    assert look(view(), progress=progress).progress == progress
    assert look(view(job=job(failed="x")), progress=progress).progress is None


KEPT: dict[str, Any] = {RESULT_ANNOTATION: orjson.dumps(RESULT).decode()}
FOUND = RESULT | {"claim": "uid-copy"}
OF_THIS: dict[str, Any] = {RESULT_ANNOTATION: orjson.dumps(FOUND).decode()}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ((claim(annotations=OF_THIS), None, []), FOUND),
        ((claim(annotations=KEPT), None, []), None),
        ((claim(annotations=OF_THIS, name="restored"), None, []), None),
        ((claim("Lost", OF_THIS), None, []), None),
        ((claim(annotations=OF_THIS, edited=frozenset({RESULT_ANNOTATION})), None, []), None),
        ((None, job(annotations=KEPT), []), RESULT),
        ((claim(), job(), [pod(exit_code=0, exit_message=orjson.dumps(RESULT).decode())]), RESULT),
        ((claim(), job(), [pod(exit_code=1, exit_message=orjson.dumps(RESULT).decode())]), None),
        ((claim(), job(), [pod(exit_code=0, exit_message="garbage")]), None),
        ((claim(annotations={RESULT_ANNOTATION: "{"}), None, []), None),
    ],
)
def test_where_the_result_of_a_download_is_read(where: tuple[Any, Any, list[Seen]], expected: object) -> None:
    assert result_of(*where) == expected


@pytest.mark.parametrize(
    ("told", "adapter"),
    [
        (None, None),
        ({"type": "lora", "base": ""}, {"type": "lora"}),
        ({"type": "lora", "base": "a/b"}, {"type": "lora", "base": "a/b"}),
        ("odd", None),
    ],
)
def test_weights_that_are_an_adapter_are_told(told: object, adapter: object) -> None:
    found = look(view(claim=claim(), result=RESULT | {"adapter": told, "architecture": "llama"}))
    shown = found.model_dump(by_alias=True, exclude_defaults=True)
    assert (shown.get("adapter"), shown["architecture"]) == (adapter, "llama")
