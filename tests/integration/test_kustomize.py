"""Kustomize's transformers over our kinds, and the operator serving what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.chart import ROOT, documents, run
from tests.world import World, deployment, model

LABEL = {"team": "serving"}
REFERENCES = [
    ("Model", ("source", "local", "pvc"), "PersistentVolumeClaim", "v1"),
    ("Model", ("storage", "claimName"), "PersistentVolumeClaim", "v1"),
    ("Model", ("storage", "storageClassName"), "StorageClass", "storage.k8s.io/v1"),
    ("Model", ("credentialsSecretRef", "name"), "Secret", "v1"),
    ("Model", ("serviceAccountName",), "ServiceAccount", "v1"),
    ("Deployment", ("modelRef", "name"), "Model", "bud.studio/v1alpha1"),
    ("Deployment", ("adapters", 0, "modelRef", "name"), "Model", "bud.studio/v1alpha1"),
    ("Deployment", ("runtimeRef", "name"), "Runtime", "bud.studio/v1alpha1"),
    ("Deployment", ("priorityClassName",), "PriorityClass", "scheduling.k8s.io/v1"),
    ("Deployment", ("env", 0, "valueFrom", "secretKeyRef", "name"), "Secret", "v1"),
    ("Deployment", ("env", 0, "valueFrom", "configMapKeyRef", "name"), "ConfigMap", "v1"),
]


def built(folder: Path, objects: list[dict[str, Any]], **kustomization: Any) -> list[dict[str, Any]]:
    """What `kubectl kustomize` makes of the objects."""
    (folder / "bud.yaml").write_text((ROOT / "manifests/kustomize/bud.yaml").read_text())
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    whole = {"resources": ["objects.yaml"], "configurations": ["bud.yaml"], **kustomization}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    text = run(None, "kubectl", "kustomize", str(folder))
    return documents("".join(line for line in text.splitlines(keepends=True) if not line.startswith("# Warning")))


def nest(path: tuple[str | int, ...], value: Any) -> Any:
    """`value` at the end of a path of field names and, for the first of a list, zeros."""
    for step in reversed(path):
        value = [value] if step == 0 else {step: value}
    return value


@pytest.mark.parametrize(("kind", "path", "target", "version"), REFERENCES)
def test_every_reference_follows_a_new_name(
    kind: str, path: tuple[str | int, ...], target: str, version: str, tmp_path: Path
) -> None:
    ours = {"apiVersion": "bud.studio/v1alpha1", "kind": kind, "metadata": {"name": "a"}, "spec": nest(path, "b")}
    other = {"apiVersion": version, "kind": target, "metadata": {"name": "b"}}
    found = {item["kind"] + item["metadata"]["name"]: item for item in built(tmp_path, [ours, other], namePrefix="x-")}
    assert set(found) == {f"{kind}x-a", f"{target}x-b"}
    assert found[f"{kind}x-a"]["spec"] == nest(path, "x-b")


def test_what_the_transformers_make_is_served(world: World, tmp_path: Path) -> None:
    secret = {"credentialsSecretRef": {"name": "hub"}, "source": {"url": {"url": "http://files/tiny.gguf"}}}
    chat = deployment("chat", "tiny", image="engine:1")
    chat["spec"]["env"] = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    objects = built(
        tmp_path,
        [model("tiny", secret), chat],
        namePrefix="blue-",
        namespace=world.namespace,
        commonLabels=LABEL,
        labels=[{"pairs": {"tier": "gold"}, "includeSelectors": True, "includeTemplates": True}],
        commonAnnotations={"owner": "serving"},
        replicas=[{"name": "chat", "count": 2}],
        images=[{"name": "engine", "newTag": "2"}],
        secretGenerator=[{"name": "hub", "literals": ["token=x"]}],
    )
    name = next(item["metadata"]["name"] for item in objects if item["kind"] == "Secret")
    assert name.startswith("blue-hub-")
    options = ("--server-side", "--validate=strict", "--filename=-")
    for _ in range(2):  # the second time takes nothing back
        run(world.cluster, "kubectl", "apply", *options, stdin=yaml.safe_dump_all(objects))
    world.finish_download("blue-tiny")
    status = world.await_phase("mdep", "blue-chat", "Active")
    assert status["ready"] == "2/2"

    assert world.get("bmodel", "blue-tiny")["spec"]["credentialsSecretRef"]["name"] == name
    pods = world.find("pods")
    engines = [pod for pod in pods if pod["metadata"]["labels"].get("tier") == "gold"]
    assert len(engines) == 2
    for pod in engines:
        assert pod["metadata"]["labels"].items() >= LABEL.items()
        assert pod["metadata"]["annotations"]["owner"] == "serving"
        (engine,) = [each for each in pod["spec"]["containers"] if each["name"] == "engine"]
        assert engine["image"] == "engine:2"
        assert {"name": "A", "valueFrom": {"secretKeyRef": {"name": name, "key": "token"}}} in engine["env"]
