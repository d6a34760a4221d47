"""The resources that the operator reads or writes, and the label vocabulary of its children."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from bud import ledger
from bud.api import API_KEY, API_VERSION, DEPLOYMENT, MODEL, PROJECT, PROVIDER, ROUTE, RUNTIME, Kind

MANAGER = "bud-operator"
STATUS_MANAGER = "bud-operator-status"
GATEWAY_MANAGER = "bud-gateway"

MANAGED_BY = "app.kubernetes.io/managed-by"
OWNER_KIND = "bud.studio/owner-kind"
OWNER_NAME = "bud.studio/owner-name"
FULL_NAME = "bud.studio/name"
"""Annotation: the owner's full name, which a label value may be too short for."""

WANTED_BY = "bud.studio/models"
"""Annotation on the claim and the Job of a copy: the Models that want it, by name. It stands in place of owner
references, by which a deletion in the foreground would take the weights while they are in use."""

CHILD_SELECTOR = f"{MANAGED_BY}={MANAGER}"

USE = "bud.studio/use"
"""Label of the Leases, named as the children of a Deployment, by which gateways note that it is used."""
USE_SELECTOR = f"{USE}=true"

LEDGER_SELECTOR = f"{ledger.LABEL}=true"
"""The parts with the projects' accounts; those of keys are many times as large, and nothing here reads them."""
LEDGER_PREFIX = "ledger-"

OF_NOTHING = "1"
"""The version of an empty database: an apply that names it creates, or is answered by 409 and changes nothing."""

_MAX_SLUG = 50


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the API server, for building paths."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str = "", subresource: str = "") -> str:
        """Path relative to the server's root."""
        root = "api/v1" if self.api_version == "v1" else f"apis/{self.api_version}"
        scope = f"namespaces/{namespace}" if self.namespaced and namespace else ""
        return "/".join(part for part in (root, scope, self.plural, name, subresource) if part)


def _ours(kind: Kind) -> Resource:
    return Resource(API_VERSION, kind.kind, kind.plural, kind.namespaced)


MODELS = _ours(MODEL)
DEPLOYMENTS = _ours(DEPLOYMENT)
RUNTIMES = _ours(RUNTIME)
PROJECTS = _ours(PROJECT)
API_KEYS = _ours(API_KEY)
PROVIDERS = _ours(PROVIDER)
ROUTES = _ours(ROUTE)

APPS = Resource("apps/v1", "Deployment", "deployments")
SERVICES = Resource("v1", "Service", "services")
AUTOSCALERS = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
DISRUPTION_BUDGETS = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICIES = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
NETWORK_POLICY_NAME = "bud-engines"
"""The same in every namespace, so that the operator's rights can be narrowed to it."""
JOBS = Resource("batch/v1", "Job", "jobs")
CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
PODS = Resource("v1", "Pod", "pods")
NODES = Resource("v1", "Node", "nodes", namespaced=False)
STORAGE_CLASSES = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
SECRETS = Resource("v1", "Secret", "secrets")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings")
ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
EVENTS = Resource("v1", "Event", "events")
"""Of the core group: `kubectl describe` sorts by timestamps that the newer group refuses."""


def ledger_name(project: str, part: int = 0) -> str:
    """Name of the ConfigMap of a part of a project's ledger, in the namespace of the gateways."""
    name = f"{LEDGER_PREFIX}{child_name(PROJECT.kind, '', project)}"
    return f"{name}-{part}" if part else name


def slug(text: str, limit: int = _MAX_SLUG) -> str:
    """`text` as the start of a DNS-1035 label: lower case, dashes, beginning with a letter."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not words or not words[0].isalpha():
        words = f"x-{words}".rstrip("-")
    return words[:limit].rstrip("-")


def child_name(kind: str, namespace: str, name: str, *, suffix: str = "") -> str:
    """Name of a child: `<slug of at most 50>-<8 hex of SHA-256(kind/namespace/name)>`, unique to its owner."""
    digest = hashlib.sha256(f"{kind}/{namespace}/{name}{suffix}".encode()).hexdigest()[:8]
    return f"{slug(name)}-{digest}"
