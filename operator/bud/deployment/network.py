"""Which callers reach the engines: one NetworkPolicy for all of a namespace, where the operator is told to make it.

No Deployment owns it, since each new owner would be one more write to an object that all share. Whatever makes or takes
the first or last Deployment of a namespace leads here, and so does every start and resync; so none is left behind.
"""

from __future__ import annotations

from bud.api import DEPLOYMENT
from bud.context import Context
from bud.engines.pod import Document
from bud.errors import NameConflict
from bud.kube.kinds import (
    DEPLOYMENTS,
    MANAGED_BY,
    MANAGER,
    NETWORK_POLICIES,
    NETWORK_POLICY_NAME,
    OWNER_KIND,
    OWNER_NAME,
)

_OWNER = "Namespace"


async def reconcile(context: Context, namespace: str, name: str) -> float | None:
    """Makes the policy of a namespace, or deletes it when no Deployment is left or none is asked for any more.

    Raises `NameConflict` when a policy of that name is somebody else's. An Event about a Deployment tells of it at each
    look, and only a Deployment that comes or goes, or the resync, brings one about.
    """
    label = context.settings.engine_access
    served = (seen for seen in context.store.all(DEPLOYMENTS) if seen.namespace == namespace and not seen.deleting)
    if label and (first := next(served, None)) is not None:
        try:
            await context.writer.apply(policy(namespace, label), NETWORK_POLICIES)
        except NameConflict as error:
            # The newest Deployment is what led here, as a rule, so that whoever made it reads of it.
            newest = max((first, *served), key=lambda seen: (seen.data.created, seen.name))
            note = f"{error}; until then no policy of this operator keeps callers from the engines"
            await context.writer.event(newest, kind="Warning", reason=error.reason, note=note)
            raise
        return None
    seen = context.store.get(NETWORK_POLICIES, namespace, name)
    if seen is not None and seen.owner_kind == _OWNER:
        await context.writer.delete(seen)
    return None


def policy(namespace: str, label: str) -> Document:
    """Engines are reached by pods of their own namespace, and of namespaces with the label (`key=value`).

    The kubelet's probes come from the node, which no policy keeps out. Nothing is said of what engines may reach.
    """
    key, _, value = label.partition("=")
    return {
        "apiVersion": NETWORK_POLICIES.api_version,
        "kind": NETWORK_POLICIES.kind,
        "metadata": {
            "labels": {MANAGED_BY: MANAGER, OWNER_KIND: _OWNER, OWNER_NAME: namespace},
            "name": NETWORK_POLICY_NAME,
            "namespace": namespace,
        },
        "spec": {
            "ingress": [{"from": [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {key: value}}}]}],
            "podSelector": {"matchLabels": {MANAGED_BY: MANAGER, OWNER_KIND: DEPLOYMENT.kind}},
            "policyTypes": ["Ingress"],
        },
    }
