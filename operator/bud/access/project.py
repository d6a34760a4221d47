"""Projects: who may read and write Secrets in a project's namespace, and what is true of a project. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from bud.api import API_VERSION, PROJECT
from bud.api.conditions import Verdict
from bud.api.project import UsageSummary
from bud.context import Binding
from bud.engines.pod import Document
from bud.errors import ApiRefused, BudError, InvalidError
from bud.kube.kinds import FULL_NAME, MANAGED_BY, MANAGER, OWNER_KIND, OWNER_NAME, ROLE_BINDINGS, child_name
from bud.kube.notes import Usage
from bud.kube.seen import Seen
from bud.times import seconds_between

ACTIVE = "Active"
"""Keys of the namespace are accepted."""
NAMESPACE_TAKEN = "NamespaceTaken"
"""An older Project has the namespace; two would count the same keys twice."""
NAMESPACE_MISSING = "NamespaceMissing"
"""There is no such namespace."""


SUMMARY_SECONDS = 60.0
"""How often what was used is told at most: ledgers change every few seconds."""


def identity(name: str) -> str:
    """The label by which what belongs to a Project is found."""
    return child_name(PROJECT.kind, "", name)


def namespace_of(project: Seen) -> str:
    """The namespace that a Project claims."""
    return str(project.data.spec.get("namespace") or project.name)


def holder(claimants: Iterable[Seen]) -> Seen | None:
    """Of several Projects that claim one namespace, the oldest has it."""
    return min(
        (seen for seen in claimants if not seen.deleting), key=lambda seen: (seen.data.created, seen.name), default=None
    )


def role_bindings(name: str, uid: str, namespace: str, bindings: Iterable[Binding]) -> list[Document]:
    """What gives the operator and the gateway their rights on Secrets, there and nowhere else."""
    return [
        {
            "apiVersion": ROLE_BINDINGS.api_version,
            "kind": ROLE_BINDINGS.kind,
            "metadata": {
                "annotations": {FULL_NAME: name},
                "labels": {MANAGED_BY: MANAGER, OWNER_KIND: PROJECT.kind, OWNER_NAME: identity(name)},
                "name": binding.role,
                "namespace": namespace,
                "ownerReferences": [
                    {"apiVersion": API_VERSION, "controller": True, "kind": PROJECT.kind, "name": name, "uid": uid}
                ],
            },
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": binding.role},
            "subjects": [{"kind": "ServiceAccount", "name": binding.account, "namespace": binding.namespace}],
        }
        for binding in bindings
    ]


def taken(namespace: str, by: str) -> InvalidError:
    """What is told of a Project whose namespace is another's."""
    return InvalidError(
        f"namespace {namespace} is Project {by}'s already: choose another in spec.namespace, or delete one of the two",
        reason=NAMESPACE_TAKEN,
    )


def in_words_of_the_spec(error: BudError, namespace: str) -> BudError:
    """The API server's refusal of an object in a namespace that is not there, in the user's words."""
    if isinstance(error, ApiRefused) and error.status == 404 and "namespaces" in str(error):
        text = f"there is no namespace {namespace}: create it (kubectl create namespace {namespace}) or correct"
        return ApiRefused(f"{text} spec.namespace", status=404, reason=NAMESPACE_MISSING)
    return error


def verdict(namespace: str, error: BudError | None) -> Verdict:
    """What is true of a Project; `error` is what came of its rights."""
    if error is None:
        return Verdict(True, ACTIVE, f"keys of namespace {namespace} are accepted")
    stalled = error.reason == NAMESPACE_TAKEN
    return Verdict(False, error.reason, str(error), reconciling=not stalled, stalled=stalled)


def summary(used: Usage | None, *, now: str) -> UsageSummary | None:
    """What a ledger says of the project, for its status."""
    if used is None:
        return None
    return UsageSummary(
        since=used.since,
        requests=used.requests,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        cost=used.cost,
        as_of=now,
    )


def seconds_left(known: UsageSummary | None, used: Usage | None, *, now: str) -> float | None:
    """Until the summary is to be written anew: 0 for now, None while it is right or nothing is known."""
    if used is None:
        return None
    if known is None:
        return 0.0
    if summary(used, now=known.as_of) == known:
        return None
    age = seconds_between(known.as_of, now) if known.as_of else SUMMARY_SECONDS
    return max(0.0, SUMMARY_SECONDS - age)
