"""What is true of a Model: pure, from what is seen to the status."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from bud.api.base import Condition
from bud.api.conditions import Verdict, conditions
from bud.api.model import AdapterFound, Copy, ModelPhase, ModelSpec, ModelStatus, Progress
from bud.errors import ApiForbidden, BudError, InvalidError, is_quota
from bud.kube.quantity import readable
from bud.kube.seen import Claim, Container, Job, Pod, Seen
from bud.model.job import PERMANENT_EXIT, WORKER, kept_result
from bud.model.storage import class_missing, growth, lost
from bud.model.view import View


@dataclass(frozen=True)
class Told:
    """What was asked for besides.

    How far a download is; whether its pod is overdue; the newest warning about what holds it up.
    """

    progress: Progress | None = None
    overdue: bool = False
    warning: str = ""


def is_without_pods(view: View, pods: Collection[Seen]) -> bool:
    """Whether a Job that goes on has no pod."""
    job: Job | None = view.job.data if view.job is not None else None
    return job is not None and not pods and not job.complete and not job.failed and view.result is None


def result_of(claim: Seen | None, job: Seen | None, pods: Iterable[Seen]) -> Mapping[str, Any] | None:
    """What a finished download found: from the claim or the Job, where it was kept, else from the pod that found it."""
    for keeper in (claim, job):
        if (kept := kept_result(keeper)) is not None:
            return kept
    for pod in pods:
        for container in pod.data.containers:
            if container.name == WORKER and container.exit_code == 0 and (found := _json(container.exit_message)):
                return found
    return None


def progress_of(log: str) -> Progress | None:
    """The last progress that a download's log tells."""
    for line in reversed(log.splitlines()):
        raw = _json(line).get("progress")
        if isinstance(raw, dict):
            try:
                progress = Progress.model_validate(raw)
            except ValueError:
                return None
            total = progress.bytes_total
            percent = f"{min(100, progress.bytes_done * 100 // total)}%" if total else ""
            return progress.model_copy(update={"percent": percent})
    return None


def status(
    view: View,
    error: BudError | None,
    *,
    pods: Iterable[Seen],
    told: Told,
    previous: ModelStatus,
    now: str,
) -> ModelStatus:
    """The whole status; `now` (RFC 3339) is used only for conditions that change."""
    phase, verdict = _verdict(view, error, [pod.data for pod in pods], told)
    if remark := growth(view):
        verdict = replace(verdict, message=f"{verdict.message}; {remark}")
    shown = conditions(verdict, previous=previous.conditions, generation=view.generation, now=now)
    if view.result is None or (error is not None and isinstance(error, InvalidError)):
        return _without_weights(view, phase, shown, told.progress)
    return _with_weights(view, phase, shown)


def _without_weights(
    view: View, phase: ModelPhase, shown: tuple[Condition, ...], progress: Progress | None
) -> ModelStatus:
    return ModelStatus(
        observed_generation=view.generation,
        phase=phase,
        progress=progress if phase == "Downloading" else None,
        format=view.spec.format or "",
        task=view.spec.task or "",
        conditions=shown,
    )


def _with_weights(view: View, phase: ModelPhase, shown: tuple[Condition, ...]) -> ModelStatus:
    result = view.result or {}
    size = int(result.get("bytes") or 0)
    return ModelStatus(
        observed_generation=view.generation,
        phase=phase,
        size=readable(size),
        bytes=size,
        files=int(result.get("files") or 0),
        digest=str(result.get("digest") or "")[:80],
        revision=str(result.get("revision") or "")[:200],
        verification="verified" if result.get("verification") == "verified" else "recorded",
        format=format_of(view.spec, result),
        task=view.spec.task or served_as(result.get("task")),
        file=_file(view, str(result.get("file") or "")),
        architecture=str(result.get("architecture") or "")[:256],
        adapter=_adapter(result.get("adapter")),
        copies=(Copy(cluster="local", claim_name=view.claim_name, path=view.node_folder or view.directory),),
        conditions=shown,
    )


def _adapter(found: object) -> AdapterFound | None:
    if not isinstance(found, Mapping):
        return None
    return AdapterFound(type=str(found.get("type") or "")[:256], base=str(found.get("base") or "")[:256])


def served_as(tag: str | None) -> str:
    """The task by which a model is served: chat models that also see or hear are served as chat models."""
    if not tag or tag in ("image-text-to-text", "audio-text-to-text", "any-to-any"):
        return "text-generation"
    return "feature-extraction" if tag == "sentence-similarity" else tag


def format_of(spec: ModelSpec, result: Mapping[str, Any]) -> str:
    """The format given, else the one found."""
    return spec.format or str(result.get("format") or "other")


def _file(view: View, found: str) -> str:
    """The main file, relative to the root of its volume; a download tells it relative to the folder that it filled."""
    return f"{view.directory}/{found}" if found and view.downloads and view.directory else found


def _verdict(view: View, error: BudError | None, pods: list[Pod], told: Told) -> tuple[ModelPhase, Verdict]:
    if view.deleting:
        return "Deleting", _deleting(view, error)
    if error is not None:
        return _hindered(view, error)
    if view.result is not None:
        return "Available", _available(view.result)
    return _unfinished(view, pods, told)


def _deleting(view: View, error: BudError | None) -> Verdict:
    if error is not None:
        return Verdict(False, error.reason, f"cannot be deleted yet: {error}", reconciling=True)
    users = ", ".join(view.users)
    message = f"deleted once no Deployment uses it; now used by {users}" if users else "the weights are being deleted"
    return Verdict(False, "InUse" if users else "Deleting", message, reconciling=True)


def _hindered(view: View, error: BudError) -> tuple[ModelPhase, Verdict]:
    there = view.claim is not None or not view.makes_claim
    if isinstance(error, ApiForbidden) and view.result is not None and there:
        # What is refused is a change of the claim; the weights are as whole as before.
        kept = _available(view.result)
        return "Available", replace(kept, message=f"{kept.message}; {error}")
    invalid = isinstance(error, InvalidError)
    return "Error", Verdict(False, error.reason, str(error), reconciling=not invalid, stalled=invalid)


def _unfinished(view: View, pods: list[Pod], told: Told) -> tuple[ModelPhase, Verdict]:
    job: Job | None = view.job.data if view.job is not None else None
    ends = [c for pod in pods for c in pod.containers if c.name == WORKER and c.exit_code not in (None, 0)]
    if job is not None and (job.failed or any(end.exit_code == PERMANENT_EXIT for end in ends)):
        return "Error", _failed(view, job, ends)
    if job is not None and job.complete:
        text = f"the download ended without telling what it found; delete Job {view.id} to run it again"
        return "Error", Verdict(False, "ResultLost", text, stalled=True)
    if (missing := lost(view) or class_missing(view)) is not None:
        return "Error", Verdict(False, *missing, reconciling=True)
    return _going_on(view, pods, ends, told)


def _available(result: Mapping[str, Any]) -> Verdict:
    count, verification = int(result.get("files") or 0), result.get("verification")
    files = "1 file" if count == 1 else f"{count} files"
    how = (
        "compared with the published ones"
        if verification == "verified"
        else "recorded; there were none to compare with"
    )
    return Verdict(
        True,
        "Available",
        f"{files}, {readable(int(result.get('bytes') or 0))}; SHA-256 of every file {how}",
    )


def _failed(view: View, job: Job, ends: list[Container]) -> Verdict:
    again = f"; then change the spec, or delete Job {view.id} to try again"
    for container in ends:
        told = _json(container.exit_message).get("error")
        if isinstance(told, dict) and container.exit_code == PERMANENT_EXIT:
            reason = str(told.get("reason") or "DownloadFailed")
            whose = f"; claim {view.claim_name} is yours to grow" if _is_full(view, reason) else ""
            return Verdict(False, reason, f"{told.get('message')}{whose}{again}", stalled=True)
    last = _told(ends) or job.failed_message
    return Verdict(False, "DownloadFailed", f"gave up after several tries: {last}{again}", stalled=True)


def _is_full(view: View, reason: str) -> bool:
    return reason == "InsufficientSpace" and view.downloads and not view.makes_claim


def _going_on(view: View, pods: list[Pod], ends: list[Container], told: Told) -> tuple[ModelPhase, Verdict]:
    reason, message = (
        "Downloading",
        "the weights are being fetched" if view.downloads else "the weights are being hashed",
    )
    claim: Claim | None = view.claim.data if view.claim is not None else None
    waiting = next((c for pod in pods for c in pod.containers if c.waiting_message), None)
    unschedulable = next((pod.unschedulable for pod in pods if pod.unschedulable), "")
    if waiting is not None and waiting.waiting_reason.startswith("Create"):
        reason, message = (
            "ContainerConfigInvalid",
            f"{waiting.waiting_message}; create it or correct spec.credentialsSecretRef",
        )
    elif waiting is not None:
        reason, message = (
            "ImagePullFailed",
            f"the download's image cannot be pulled: {waiting.waiting_message}",
        )
    elif claim is not None and claim.phase == "Pending" and unschedulable:
        storage = claim.storage_class or "the default StorageClass"
        reason = "ClaimPending"
        why = told.warning or unschedulable
        message = f"claim {view.id} is not bound ({storage}): {why}; see kubectl describe pvc {view.id}"
    elif told.overdue:
        if told.warning:
            reason = "QuotaExceeded" if is_quota(told.warning) else "PodRefused"
        why = f": {told.warning}" if told.warning else " yet"
        if reason == "QuotaExceeded":
            why += "; raise the ResourceQuota, or free some of it"
        message = f"the download's pod is not made{why}; see kubectl describe job {view.id}"
    elif unschedulable:
        reason, message = "Unschedulable", f"no node fits the download: {unschedulable}"
    elif ends:
        message = f"trying again after: {_told(ends)}"
    return "Downloading", Verdict(False, reason, message, reconciling=True)


def _told(ends: list[Container]) -> str:
    for container in reversed(ends):
        told = _json(container.exit_message).get("error")
        if isinstance(told, dict):
            return str(told.get("message"))
        if container.exit_reason:
            return f"{container.exit_reason} (exit code {container.exit_code}) {container.exit_message[-300:]}".strip()
    return ""


def _json(text: str) -> Mapping[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
