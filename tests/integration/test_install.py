"""The ways to install the operator, against a real API server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import pki, running, tools
from tests.cluster.handle import Cluster
from tests.integration import schemas
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually
from tests.world import World
from tools import generate

ROOT = generate.ROOT
CHART = str(generate.CHART)
SYSTEM = generate.NAMESPACE
RUNTIMES = sorted((generate.CHART / "runtimes").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
PROGRAM = [sys.executable, "-m", "bud.builtin"]
ACCOUNT = f"system:serviceaccount:{SYSTEM}:bud-operator"

Values = dict[str, Any]

EVERYTHING: Values = {
    "image": {"digest": "sha256:" + "a" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"allowHostPath": ["/mnt/models", "/srv"]},
    "serviceAccount": {"annotations": {"team": "serving"}},
    "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "podLabels": {"team": "serving"},
    "podAnnotations": {"team": "serving"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
}
NOTHING: Values = {
    "crds": {"enabled": False},
    "runtimes": {"enabled": False},
    "rbac": {"create": False, "aggregate": False},
    "serviceAccount": {"create": False},
    "metrics": {"service": False},
}


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


def rendered(values: Values) -> str:
    options = (f"--kube-version={tools.KUBERNETES}", f"--namespace={SYSTEM}", "--values=-")
    return run(None, "helm", "template", "bud-operator", CHART, *options, stdin=json.dumps(values))


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def kustomized(folder: str = "manifests") -> str:
    return run(None, "kubectl", "kustomize", str(ROOT / folder))


def of_kind(kind: str, text: str) -> list[dict[str, Any]]:
    return [document for document in documents(text) if document["kind"] == kind]


@pytest.fixture(scope="module")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A control plane that nothing was installed in yet, with one node."""
    with running.cluster("install", "control", audit=True, say=lambda _: None) as found:
        found.add_fake_node("node-1")
        yield found


@pytest.fixture(scope="module")
def by_kubectl(cluster: Cluster) -> Cluster:
    """The manifests, applied in one go."""
    said = run(cluster, "kubectl", "apply", "--kustomize", str(ROOT / "manifests"))
    assert "Warning" not in said, said
    return cluster


@pytest.fixture(scope="module")
def served(by_kubectl: Cluster) -> Cluster:
    """The same, once all kinds are served."""
    names = [f"crd/{path.stem}.bud.studio" for path in generate.crds()]
    run(by_kubectl, "kubectl", "wait", "--for=condition=Established", *sorted(set(names)))
    return by_kubectl


def test_the_chart_passes_helms_own_checks() -> None:
    assert "0 chart(s) failed" in run(None, "helm", "lint", "--strict", CHART)


def test_the_manifests_are_those_of_the_chart() -> None:
    for path, text in generate.manifests().items():
        assert path.read_text() == text, "run `make manifests`"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"settings": {"workers": 0}}, "/settings/workers': minimum"),
        ({"settings": {"loglevel": "info"}}, "additional properties 'loglevel'"),
        ({"image": {"digest": "sha256:abc"}}, "/image/digest': 'sha256:abc' does not match"),
        ({"settings": {"allowHostPath": ["models"]}}, "/settings/allowHostPath/0': 'models' does not match"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(values: Values, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        rendered(values)


def test_no_role_holds_a_wildcard_or_reads_secrets() -> None:
    for role in of_kind("ClusterRole", rendered({})):
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            assert "secrets" not in rule["resources"]


def test_another_set_of_runtimes_restarts_the_operator_and_nothing_else_does() -> None:
    def annotations(text: str) -> dict[str, str]:
        found: dict[str, str] = of_kind("Deployment", text)[0]["spec"]["template"]["metadata"]["annotations"]
        return found

    assert annotations(rendered({})) == annotations(rendered({"metrics": {"service": False}}))
    assert "bud.studio/runtimes" not in annotations(rendered(NOTHING))


@pytest.fixture(scope="module")
def all_manifests() -> dict[str, str]:
    files = {str(path.relative_to(ROOT)): path.read_text() for path in (*RUNTIMES, *EXAMPLES)}
    return files | {
        "chart": rendered({}),
        "chart with everything": rendered(EVERYTHING),
        "chart with nothing": rendered(NOTHING),
        "manifests": kustomized(),
        "crds": kustomized("crds"),
    }


def test_every_manifest_is_valid_for_kubeconform(
    served: Cluster, all_manifests: dict[str, str], tmp_path: Path
) -> None:
    kinds = {document["kind"] for text in all_manifests.values() for document in documents(text)}
    schemas.write(served, tmp_path, kinds)
    # Of the Prometheus operator, whose schemas no API server here has.
    options = ["-strict", "-summary", "-skip=ServiceMonitor", "-schema-location", f"{tmp_path}/{schemas.LOCATION}"]
    for name, text in all_manifests.items():
        said = run(None, "kubeconform", *options, stdin=text)
        assert "Invalid: 0, Errors: 0" in said, f"{name}: {said}"
    with pytest.raises(AssertionError, match="additional properties 'replica' not allowed"):
        run(None, "kubeconform", *options, stdin=all_manifests["chart"].replace("replicas:", "replica:"))


def test_every_manifest_is_taken_by_the_api_server(served: Cluster, all_manifests: dict[str, str]) -> None:
    for name, text in all_manifests.items():
        taken = [document for document in documents(text) if document["kind"] != "ServiceMonitor"]
        options = ("--server-side", "--dry-run=server", "--force-conflicts", "--validate=strict", "--filename=-")
        said = run(served, "kubectl", "apply", *options, stdin=yaml.safe_dump_all(taken))
        assert "PodSecurity" not in said, f"{name}: {said}"
        assert said.count("serverside-applied") == len(taken)


def test_the_operators_pod_is_admitted_where_pod_security_is_restricted(served: Cluster) -> None:
    namespace = served.get("namespace", SYSTEM)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    run(served, "kubectl", "-n", SYSTEM, "rollout", "status", "deployment/bud-operator", "--timeout=60s")


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("patch", "models.bud.studio/status", True),
        ("create", "events", True),
        ("create", "runtimes.bud.studio", True),
        ("delete", "runtimes.bud.studio", False),
        ("delete", "models.bud.studio", False),
        ("patch", "deployments.bud.studio", False),
        ("get", "secrets", False),
        ("list", "secrets", False),
        ("create", "pods", False),
        ("get", "configmaps", False),
        ("patch", "nodes", False),
        ("create", "clusterroles.rbac.authorization.k8s.io", False),
        ("update", "customresourcedefinitions.apiextensions.k8s.io", False),
    ],
)
def test_the_operator_may_do_what_it_needs_and_no_more(
    served: Cluster, verb: str, resource: str, allowed: bool
) -> None:
    kind, _, subresource = resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": ACCOUNT,
            "groups": ["system:serviceaccounts", "system:authenticated"],
            "resourceAttributes": {
                "verb": verb,
                "resource": kind.partition(".")[0],
                "group": kind.partition(".")[2],
                "subresource": subresource,
                "namespace": "default",
            },
        },
    }
    answer = json.loads(run(served, "kubectl", "create", "-o=json", "--filename=-", stdin=json.dumps(review)))
    assert answer["status"]["allowed"] is allowed


@pytest.mark.parametrize(("role", "verb", "allowed"), [("view", "create", False), ("edit", "create", True)])
def test_the_stock_roles_extend_to_models(served: Cluster, role: str, verb: str, allowed: bool) -> None:
    def check() -> None:
        rules = served.get("clusterrole", role)["rules"]
        ours = [rule for rule in rules if "bud.studio" in rule["apiGroups"] and "models" in rule["resources"]]
        assert any("get" in rule["verbs"] for rule in ours)
        assert any(verb in rule["verbs"] for rule in ours) is allowed

    eventually(check)


def builtin(cluster: Cluster, folder: Path, *, seconds: float = 30.0) -> str:
    """What the program that installs Runtimes said."""
    options = ["--kubeconfig", str(cluster.kubeconfig), "--seconds", str(seconds)]
    command = [*PROGRAM, str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_built_in_runtimes_are_installed_and_what_somebody_changed_in_one_stays(served: Cluster) -> None:
    builtin(served, generate.CHART / "runtimes")
    found = {item["metadata"]["name"] for item in served.get("runtimes")["items"]}
    assert {path.stem for path in RUNTIMES} <= found
    run(served, "kubectl", "patch", "runtime", "vllm", "--type=merge", "--patch", '{"spec": {"priority": 7}}')
    assert "left as it is" in builtin(served, generate.CHART / "runtimes")
    assert served.get("runtime", "vllm")["spec"]["priority"] == 7


def with_rights_of_the_operator(cluster: Cluster, folder: Path) -> Path:
    """A kubeconfig that holds what the operator's pod would: a token of its service account."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    token = run(cluster, "kubectl", "create", "token", "bud-operator", "--namespace", SYSTEM).strip()
    config["users"][0]["user"] = {"token": token}
    path = folder / "kubeconfig"
    pki.write_private(path, yaml.safe_dump(config).encode())
    return path


@pytest.fixture
def operator(served: Cluster, tmp_path: Path) -> Iterator[OperatorProcess]:
    with operator_process(with_rights_of_the_operator(served, tmp_path), tmp_path / "log") as process:
        yield process


def test_the_charts_rights_are_enough_to_serve_a_model(served: Cluster, operator: OperatorProcess) -> None:
    builtin(served, generate.CHART / "runtimes")
    world = World.create(served)
    world.serve("chat", autoScaling={"maxReplicas": 2})
    world.kubectl(
        "patch", "mdep", "chat", "--type=merge", "--patch", '{"spec": {"autoScaling": null, "stopped": true}}'
    )
    world.await_phase("mdep", "chat", "Stopped")
    assert world.events("chat")
    world.clear()
    assert "forbidden" not in operator.log


def test_kustomize_may_label_rename_and_scale_our_objects(served: Cluster, tmp_path: Path) -> None:
    (tmp_path / "bud.yaml").write_text((ROOT / "manifests/kustomize/bud.yaml").read_text())
    objects = documents((ROOT / "examples/chat.yaml").read_text())
    objects[0]["spec"]["credentialsSecretRef"] = {"name": "hub"}
    objects[1]["spec"]["env"] = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}]
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    kustomization = {
        "resources": ["objects.yaml"],
        "configurations": ["bud.yaml"],
        "namePrefix": "blue-",
        "secretGenerator": [{"name": "hub", "literals": ["token=x"]}],
        "labels": [{"pairs": {"team": "serving"}, "includeSelectors": True, "includeTemplates": True}],
        "commonAnnotations": {"owner": "serving"},
        "replicas": [{"name": "qwen2.5-0.5b", "count": 2}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    text = run(None, "kubectl", "kustomize", str(tmp_path))
    secret, model, deployment = (of_kind(kind, text)[0] for kind in ("Secret", "Model", "Deployment"))
    name = secret["metadata"]["name"]
    assert name.startswith("blue-hub-")
    assert model["spec"]["credentialsSecretRef"]["name"] == name
    assert deployment["spec"]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == name
    assert deployment["spec"]["modelRef"]["name"] == model["metadata"]["name"] == "blue-qwen2.5-0.5b"
    assert deployment["spec"]["template"]["metadata"]["labels"] == {"team": "serving"}
    assert deployment["spec"]["replicas"] == 2
    said = run(served, "kubectl", "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=text)
    assert said.count("serverside-applied") == 3


@pytest.fixture(scope="module")
def helm_cluster() -> Iterator[Cluster]:
    """A control plane for Helm alone, which takes over nothing that others made."""
    with running.cluster("install-helm", "control", say=lambda _: None) as found:
        yield found


def test_runtimes_wait_for_their_kind_and_definitions_outlive_the_release(helm_cluster: Cluster) -> None:
    def helm(*arguments: str) -> str:
        return run(helm_cluster, "helm", *arguments, "--namespace", SYSTEM)

    def kinds() -> list[str]:
        return [item["metadata"]["name"] for item in helm_cluster.get("crds")["items"]]

    early = subprocess.Popen(
        [*PROGRAM, str(generate.CHART / "runtimes"), "--kubeconfig", str(helm_cluster.kubeconfig)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert early.stderr
    assert "not yet" in early.stderr.readline()
    helm("install", "bud-operator", CHART, "--create-namespace")
    assert early.wait(60) == 0, early.stderr.read()
    early.stderr.close()
    assert len(kinds()) == 3
    run(helm_cluster, "kubectl", "apply", "--filename", str(ROOT / "examples"))

    helm("upgrade", "bud-operator", CHART, "--set=settings.workers=2")
    arguments = helm_cluster.get("deployment.apps/bud-operator", "-n", SYSTEM)["spec"]["template"]["spec"]["containers"]
    assert "--workers=2" in arguments[0]["args"]

    helm("uninstall", "bud-operator")
    assert len(kinds()) == 3
    assert helm_cluster.get("bmodel,mdep")["items"]
    helm("install", "bud-operator", CHART, "--set=crds.keep=false")
    helm("upgrade", "bud-operator", CHART, "--set=crds.keep=false")
    helm("uninstall", "bud-operator", "--wait")
    assert not kinds()
