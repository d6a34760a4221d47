"""The chart and the manifests, rendered by the real programs, and the rights that they give."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import pki, tools
from tests.cluster.handle import Cluster
from tools import generate

ROOT = generate.ROOT
CHART = str(generate.CHART)
SYSTEM = generate.NAMESPACE

Values = dict[str, Any]

_RIGHTS = (
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
)


def run(cluster: Cluster | None, program: str, *arguments: str, stdin: str | None = None) -> str:
    """What a program said, warnings included; fails with that when it fails."""
    done = subprocess.run(
        [tools.path(program), *arguments],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=cluster.environment() if cluster else None,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def rendered(values: Values, *, namespace: str = SYSTEM) -> str:
    options = (f"--kube-version={tools.KUBERNETES}", f"--namespace={namespace}", "--values=-")
    return run(None, "helm", "template", "bud-operator", CHART, *options, stdin=json.dumps(values))


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def kustomized(folder: str = "manifests") -> str:
    return run(None, "kubectl", "kustomize", str(ROOT / folder))


def of_kind(kind: str, text: str) -> list[dict[str, Any]]:
    return [document for document in documents(text) if document["kind"] == kind]


def permitted(cluster: Cluster, folder: Path, text: str, *, namespace: str, name: str = "bud-operator") -> Path:
    """A kubeconfig with the rights that a rendered chart gives, and no others, to the operator or to another."""
    cluster.apply(*(document for document in documents(text) if document["kind"] in _RIGHTS))
    return account(cluster, folder, namespace=namespace, name=name)


def account(cluster: Cluster, folder: Path, *, namespace: str = SYSTEM, name: str = "bud-operator") -> Path:
    """A kubeconfig that holds what the operator's pod would, or another's: a token of its service account."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    token = run(cluster, "kubectl", "create", "token", name, "--namespace", namespace).strip()
    config["users"][0]["user"] = {"token": token}
    path = folder / "kubeconfig"
    pki.write_private(path, yaml.safe_dump(config).encode())
    return path
