"""The ways to install the operator, against a real API server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster import running
from tests.cluster.handle import Cluster
from tests.integration import schemas
from tests.integration.chart import CHART, ROOT, SYSTEM, Values, account, documents, kustomized, of_kind, rendered, run
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually
from tests.world import World
from tools import generate

RUNTIMES = sorted((generate.CHART / "runtimes").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
PROGRAM = [sys.executable, "-m", "bud.builtin"]
ACCOUNT = f"system:serviceaccount:{SYSTEM}:bud-operator"
_NOT_OURS = ("ServiceMonitor", "PrometheusRule")

EVERYTHING: Values = {
    "image": {"digest": "sha256:" + "a" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {
        "allowHostPath": ["/mnt/models", "/srv"],
        "nodeCache": {"path": "/var/lib/bud/models", "size": "200Gi"},
    },
    "serviceAccount": {"annotations": {"team": "serving"}},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
        "alerts": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "podLabels": {"team": "serving"},
    "podAnnotations": {"team": "serving"},
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
    "gateway": {
        "service": {"type": "LoadBalancer", "annotations": {"internal": "yes"}},
        "maxStaleKeys": 3600,
        "extraArgs": ["--log-level=debug"],
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "podLabels": {"team": "serving"},
        "podAnnotations": {"team": "serving"},
    },
}
NOTHING: Values = {
    "replicas": 1,
    "releaseOnUninstall": False,
    "crds": {"enabled": False},
    "runtimes": {"enabled": False},
    "rbac": {"create": False, "aggregate": False},
    "serviceAccount": {"create": False},
    "metrics": {"service": False},
    "gateway": {"enabled": False},
}
SOME: Values = {"namespaces": ["default", "kube-public"]}


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
    assert not of_kind("CustomResourceDefinition", (ROOT / "manifests/operator.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"settings": {"workers": 0}}, "/settings/workers': minimum"),
        ({"namespaces": ["Team_A"]}, "/namespaces/0': 'Team_A' does not match"),
        ({"settings": {"loglevel": "info"}}, "additional properties 'loglevel'"),
        ({"image": {"digest": "sha256:abc"}}, "/image/digest': 'sha256:abc' does not match"),
        ({"settings": {"allowHostPath": ["models"]}}, "/settings/allowHostPath/0': 'models' does not match"),
        (
            {"gateway": {"extraArgs": ["--access-log", "--metrics-port=9"]}},
            "gateway.extraArgs: the chart sets --metrics-port by itself; leave it out",
        ),
        ({"gateway": {"extraArgs": ["--port=9"]}}, "the chart sets --port by itself; set gateway.service.port"),
        ({"gateway": {"maxStaleKeys": 1e9}}, "/gateway/maxStaleKeys"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(values: Values, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        rendered(values)


def test_every_option_that_the_chart_gives_the_gateway_is_the_charts_own() -> None:
    """What is given twice holds as it was given last. How it logs may be other than the operator's way."""
    values: Values = SOME | {
        "gateway": {"allowUpstream": ["private"], "corsOrigins": ["*"], "extraArgs": ["--access-log"]}
    }
    (deployment,) = (
        one for one in of_kind("Deployment", rendered(values)) if one["metadata"]["name"].endswith("-gateway")
    )
    *own, last = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert last == "--access-log"
    given = {argument.partition("=")[0] for argument in own} | {"--home-namespace"}
    for option in given - {"--log-level", "--log-format"}:
        with pytest.raises(AssertionError, match=f"the chart sets {option} by itself"):
            rendered({"gateway": {"extraArgs": [option]}})


@pytest.mark.parametrize("values", [{}, SOME])
def test_no_role_holds_a_wildcard_and_none_that_is_bound_reads_secrets(values: Values) -> None:
    text = rendered(values)
    bound = {one["roleRef"]["name"] for one in of_kind("ClusterRoleBinding", text) + of_kind("RoleBinding", text)}
    for role in of_kind("ClusterRole", text) + of_kind("Role", text):
        for rule in role["rules"]:
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            # Those are bound by the operator, in Projects' namespaces alone.
            assert "secrets" not in rule["resources"] or role["metadata"]["name"] not in bound


def test_an_operator_of_some_namespaces_reads_runtimes_and_projects_and_nothing_else_of_the_cluster() -> None:
    text = rendered(SOME | {"rbac": {"aggregate": False}})
    bound = {one["roleRef"]["name"] for one in of_kind("ClusterRoleBinding", text)}
    rules = [
        rule for role in of_kind("ClusterRole", text) if role["metadata"]["name"] in bound for rule in role["rules"]
    ]
    assert rules == [
        {"apiGroups": ["bud.studio"], "resources": ["projects"], "verbs": ["list", "watch"]},  # the gateway's
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "resourceNames": ["kubernetes"],
            "verbs": ["get"],
        },
        {"apiGroups": ["bud.studio"], "resources": ["runtimes", "projects"], "verbs": ["list", "watch"]},
        {"apiGroups": ["bud.studio"], "resources": ["projects/status"], "verbs": ["patch"]},
    ]
    assert {role["metadata"]["namespace"] for role in of_kind("Role", text)} == {SYSTEM, *SOME["namespaces"]}
    operator, gateway = of_kind("Deployment", text)
    assert "initContainers" not in operator["spec"]["template"]["spec"]
    arguments = gateway["spec"]["template"]["spec"]["containers"][0]["args"]
    assert [one for one in arguments if "namespace" in one] == ["--namespace=default", "--namespace=kube-public"]


def test_callers_of_the_gateway_reach_no_metrics() -> None:
    text = rendered({"metrics": {"serviceMonitor": {"enabled": True}}})
    container = of_kind("Deployment", text)[1]["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--metrics-port={ports['metrics']}" in container["args"]
    probes = [container[f"{name}Probe"]["httpGet"]["port"] for name in ("startup", "liveness", "readiness")]
    assert probes == ["metrics"] * 3
    services = {one["metadata"]["name"]: one for one in of_kind("Service", text)}
    leads = {name: [port["targetPort"] for port in one["spec"]["ports"]] for name, one in services.items()}
    assert leads["bud-operator-gateway"] == ["http"]
    assert leads["bud-operator-gateway-metrics"] == ["metrics"]
    monitor = of_kind("ServiceMonitor", text)[0]["spec"]
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == ["metrics"]
    labels = services["bud-operator-gateway-metrics"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()


def test_what_is_not_read_for_some_namespaces_is_said(served: Cluster) -> None:
    options = ("--dry-run=client", "--namespace", SYSTEM, "--set=crds.enabled=false", "--values=-")
    said = run(served, "helm", "install", "bud-operator-two", CHART, *options, stdin=json.dumps(SOME))
    assert "It serves default, kube-public and nothing else. The cluster's inventory is off" in said
    assert "kubectl apply --namespace default -f -" in said


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
        "chart for some namespaces": rendered(SOME),
        "manifests": kustomized(),
        "crds": kustomized("crds"),
    }


def test_every_manifest_is_valid_for_kubeconform(
    served: Cluster, all_manifests: dict[str, str], tmp_path: Path
) -> None:
    kinds = {document["kind"] for text in all_manifests.values() for document in documents(text)}
    schemas.write(served, tmp_path, kinds)
    # Of the Prometheus operator, whose schemas no API server here has.
    options = [
        "-strict",
        "-summary",
        f"-skip={','.join(_NOT_OURS)}",
        "-schema-location",
        f"{tmp_path}/{schemas.LOCATION}",
    ]
    for name, text in all_manifests.items():
        said = run(None, "kubeconform", *options, stdin=text)
        assert "Invalid: 0, Errors: 0" in said, f"{name}: {said}"
    with pytest.raises(AssertionError, match="additional properties 'replica' not allowed"):
        run(None, "kubeconform", *options, stdin=all_manifests["chart"].replace("replicas:", "replica:"))


def test_every_manifest_is_taken_by_the_api_server(served: Cluster, all_manifests: dict[str, str]) -> None:
    for name, text in all_manifests.items():
        taken = [document for document in documents(text) if document["kind"] not in _NOT_OURS]
        options = ("--server-side", "--dry-run=server", "--force-conflicts", "--validate=strict", "--filename=-")
        said = run(served, "kubectl", "apply", *options, stdin=yaml.safe_dump_all(taken))
        assert "PodSecurity" not in said, f"{name}: {said}"
        assert said.count("serverside-applied") == len(taken)


def test_the_pods_are_admitted_where_pod_security_is_restricted(served: Cluster) -> None:
    namespace = served.get("namespace", SYSTEM)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name in ("bud-operator", "bud-operator-gateway"):
        run(served, "kubectl", "-n", SYSTEM, "rollout", "status", f"deployment/{name}", "--timeout=60s")


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
        ("create", "leases.coordination.k8s.io", False),  # but in its own namespace
        ("create", "clusterroles.rbac.authorization.k8s.io", False),
        ("update", "customresourcedefinitions.apiextensions.k8s.io", False),
    ],
)
def test_the_operator_may_do_what_it_needs_and_no_more(
    served: Cluster, verb: str, resource: str, allowed: bool
) -> None:
    assert may(served, ACCOUNT, verb, resource) is allowed


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("watch", "apikeys.bud.studio", True),
        ("watch", "endpointslices.discovery.k8s.io", True),
        ("patch", "apikeys.bud.studio/status", False),
        ("get", "secrets", False),  # but in the namespaces of Projects
        ("list", "pods", False),
    ],
)
def test_the_gateway_only_reads(served: Cluster, verb: str, resource: str, allowed: bool) -> None:
    assert may(served, f"{ACCOUNT}-gateway", verb, resource) is allowed


def may(cluster: Cluster, user: str, verb: str, resource: str) -> bool:
    """Whether a service account may do something in the namespace `default`."""
    kind, _, subresource = resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
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
    answer = json.loads(run(cluster, "kubectl", "create", "-o=json", "--filename=-", stdin=json.dumps(review)))
    allowed: bool = answer["status"]["allowed"]
    return allowed


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


@pytest.fixture
def operator(served: Cluster, tmp_path: Path) -> Iterator[OperatorProcess]:
    kubeconfig = account(served, tmp_path)
    with operator_process(kubeconfig, tmp_path / "log", "--lease-namespace", SYSTEM) as process:
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
