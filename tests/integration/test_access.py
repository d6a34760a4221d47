"""Projects, keys, Providers and Routes, by an operator that has the chart's rights and no others."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from bud.access.key import identity
from bud.kube.kinds import OWNER_NAME, ledger_name
from bud.ledger import DATA, LABEL, PROJECT, Account, Book, render
from tests.cluster.handle import Cluster
from tests.integration.chart import ROOT, documents, of_kind, permitted, rendered
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually, is_equal
from tests.world import World


@pytest.fixture(scope="module")
def team(kinds: Cluster, shared_operator: OperatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A namespace that only an operator of its own serves."""
    if shared_operator.running:
        shared_operator.stop()
    folder, made = tmp_path_factory.mktemp("access"), World.create(kinds)
    home = made.namespace
    text = rendered({"namespaces": [home], "rbac": {"aggregate": False}}, namespace=home)
    arguments = next(
        item["spec"]["template"]["spec"]["containers"][0]["args"]
        for item in of_kind("Deployment", text)
        if item["metadata"]["name"] == "bud-operator"
    )
    bindings = [text for text in arguments if text.startswith("--project-binding=")]
    assert bindings
    kubeconfig = permitted(kinds, folder, text, namespace=home)
    with operator_process(kubeconfig, folder / "log", f"--namespace={home}", f"--gateway-namespace={home}", *bindings):
        yield made
        kinds.kubectl("delete", "bproj", "--all")
        made.kubectl("delete", "bkey,bprov,broute", "--all")
        made.clear()


def ours(kind: str, name: str, /, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "bud.studio/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def project(team: World) -> str:
    name = f"p-{team.namespace}"
    team.cluster.apply(ours("Project", name, namespace=team.namespace))
    team.await_reason("bproj", name, "Active")
    return name


def secret_key(team: World, name: str) -> str:
    return base64.b64decode(team.get("secret", name)["data"]["key"]).decode()


def hashes(team: World, name: str) -> list[str]:
    return [one["hash"] for one in team.get("bkey", name)["status"]["hashes"]]


def patch(team: World, name: str, spec: str) -> None:
    team.kubectl("patch", "bkey", name, "--type=merge", "-p", f'{{"spec": {spec}}}')


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_a_key_waits_for_a_project_and_is_made_once_it_is_there(team: World) -> None:
    team.kubectl("delete", "bproj", "--all")
    team.apply({"apiVersion": "bud.studio/v1alpha1", "kind": "APIKey", "metadata": {"name": "early"}})
    assert "create a Project with spec.namespace" in team.await_reason("bkey", "early", "ProjectMissing")["message"]
    assert team.find("secret") == []
    team.cluster.apply(ours("Project", f"p-{team.namespace}", namespace=team.namespace))
    team.await_reason("bkey", "early", "Active")
    key = secret_key(team, "early")
    assert key.startswith("bud_")
    assert len(key) == 47
    assert hashes(team, "early") == [digest(key)]
    status = team.get("bkey", "early")["status"]
    assert (status["phase"], status["secretName"], status["hint"]) == ("Active", "early", f"{key[:8]}…")
    assert key not in team.kubectl("get", "bkey,events", "-o", "yaml")


@pytest.mark.usefixtures("project")
def test_a_key_is_replaced_healed_and_revoked_and_its_secret_is_its_own(team: World) -> None:
    team.apply(ours("APIKey", "alice", prefix="condt_"))
    team.await_reason("bkey", "alice", "Active")
    first = secret_key(team, "alice")
    assert first.startswith("condt_")
    # Nobody need say what the other fields were.
    patch(team, "alice", '{"rotation": {"serial": 1}}')
    second = eventually(lambda: _other(secret_key(team, "alice"), first))
    eventually(lambda: is_equal(hashes(team, "alice"), [digest(second), digest(first)]))
    # A status that a restore dropped comes back from the Secret.
    team.kubectl("patch", "bkey", "alice", "--subresource=status", "--type=merge", "-p", '{"status": {"hashes": null}}')
    eventually(lambda: is_equal(hashes(team, "alice"), [digest(second), digest(first)]))
    patch(team, "alice", '{"revoked": true}')
    team.await_phase("bkey", "alice", "Revoked")
    owner = team.get("secret", "alice")["metadata"]["ownerReferences"][0]
    assert owner["uid"] == team.get("bkey", "alice")["metadata"]["uid"]


@pytest.mark.usefixtures("project")
def test_a_key_goes_on_when_its_secret_is_edited_or_gone_until_a_new_one_is_asked_for(team: World) -> None:
    team.apply(ours("APIKey", "lost"))
    team.await_reason("bkey", "lost", "Active")
    first = digest(secret_key(team, "lost"))
    team.kubectl("patch", "secret", "lost", "--type=merge", "-p", '{"stringData": {"key": "bud_mine"}}')
    patch(team, "lost", '{"limits": {"requestsPerMinute": 5}}')
    assert "no longer holds" in team.await_reason("bkey", "lost", "SecretChanged")["message"]
    assert hashes(team, "lost") == [first]
    team.kubectl("delete", "secret", "lost")
    patch(team, "lost", '{"limits": {"requestsPerMinute": 6}}')
    told = team.await_reason("bkey", "lost", "SecretMissing")
    assert "set spec.rotation.serial to 1" in told["message"]
    status = team.get("bkey", "lost")["status"]
    assert (status["phase"], told["status"], hashes(team, "lost")) == ("Active", "True", [first])
    assert team.kubectl("get", "secret", "lost", "--ignore-not-found") == ""
    eventually(lambda: is_equal("SecretMissing" in team.kubectl("get", "events"), True))
    patch(team, "lost", '{"rotation": {"serial": 1}}')
    team.await_reason("bkey", "lost", "Active")
    assert hashes(team, "lost") == [digest(secret_key(team, "lost")), first]
    status = team.get("bkey", "lost")["status"]
    assert (status["serial"], status["secretName"]) == (1, "lost")
    assert status["hashes"][1]["expiresAt"]


@pytest.mark.usefixtures("project")
def test_a_secret_of_somebody_else_is_never_touched(team: World) -> None:
    team.kubectl("create", "secret", "generic", "mine", "--from-literal=key=precious")
    team.apply(ours("APIKey", "mine"))
    assert "spec.hash" in team.await_reason("bkey", "mine", "NameConflict")["message"]
    assert secret_key(team, "mine") == "precious"
    team.apply(ours("APIKey", "mine", hash="a" * 64))
    team.await_reason("bkey", "mine", "Active")
    assert hashes(team, "mine") == ["a" * 64]


@pytest.mark.usefixtures("project")
def test_a_key_expires_by_itself(team: World) -> None:
    team.apply(ours("APIKey", "short", expiresAt=_in(5)))
    team.await_phase("bkey", "short", "Active")
    team.await_phase("bkey", "short", "Expired")


def test_of_two_projects_the_older_has_the_namespace(team: World, project: str) -> None:
    later = f"q-{team.namespace}"
    team.cluster.apply(ours("Project", later, namespace=team.namespace))
    assert project in team.await_reason("bproj", later, "NamespaceTaken")["message"]
    team.cluster.kubectl("delete", "bproj", project)
    team.await_reason("bproj", later, "Active")
    team.cluster.kubectl("delete", "bproj", later)


def test_what_a_ledger_says_stands_in_the_status(team: World, project: str) -> None:
    book = Book.new(time.time())
    book.accounts[PROJECT] = Account(9, 90, 45, {"Month": Decimal("7.25")})
    ledger = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ledger_name(project), "labels": {LABEL: "true"}},
        "data": {DATA: render(book)},
    }
    team.apply(ledger)
    usage = eventually(lambda: _usage(team, project))
    assert (usage["requests"], usage["inputTokens"], usage["outputTokens"], usage["cost"]) == (9, 90, 45, "7.25")
    assert "7.25" in team.kubectl("get", "bproj", project)


@pytest.mark.usefixtures("project")
def test_providers_tell_of_credentials_and_routes_of_targets(team: World) -> None:
    team.apply(
        ours("Provider", "openai", kind="OpenAI", credentialsSecretRef={"name": "creds"}, models=[{"name": "gpt-4"}]),
        ours("Route", "chat", targets=[{"providerRef": {"name": "later", "model": "m"}}]),
    )
    assert "create it" in team.await_reason("bprov", "openai", "CredentialsMissing")["message"]
    assert team.get("bprov", "openai")["status"]["phase"] == "Unhealthy"
    assert "Provider later" in team.await_reason("broute", "chat", "TargetMissing")["message"]
    team.kubectl("create", "secret", "generic", "creds", "--from-literal=apiKey=k")
    team.apply(ours("Provider", "later", kind="OpenAICompatible", baseURL="http://x/v1", models=[{"name": "m"}]))
    team.await_reason("broute", "chat", "Configured")
    team.await_reason("bprov", "openai", "Configured")
    assert team.get("bprov", "openai")["status"]["phase"] == "Configured"


@pytest.mark.usefixtures("project")
def test_a_key_that_was_backed_up_is_the_same_key_after_a_restore(team: World) -> None:
    key = ours("APIKey", "kept")
    team.apply(key)
    team.await_phase("bkey", "kept", "Active")
    before = team.get("bkey", "kept")["status"]["hashes"]
    guide = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"jq '(.*)' > keys.json", guide)
    assert found
    (secret,) = team.find_by(f"{OWNER_NAME}={identity(team.namespace, 'kept')}", "secrets")
    for field in re.findall(r'"(\w+)"', found[1]):
        del secret["metadata"][field]
    team.kubectl("delete", "bkey", "kept")
    team.kubectl("delete", "secret", "kept", "--ignore-not-found")
    team.apply(secret)
    team.apply(key)
    team.await_phase("bkey", "kept", "Active")
    assert team.get("bkey", "kept")["status"]["hashes"] == before
    assert (
        team.get("secret", "kept")["metadata"]["ownerReferences"][0]["uid"]
        == team.get("bkey", "kept")["metadata"]["uid"]
    )


@pytest.mark.usefixtures("project")
def test_the_examples_of_the_gateway_are_ready_once_what_they_name_is_there(team: World) -> None:
    team.kubectl("delete", "bkey,bprov,broute", "--all")
    found = [
        item for path in sorted((ROOT / "examples/gateway").glob("*.yaml")) for item in documents(path.read_text())
    ]
    team.kubectl("create", "secret", "generic", "openai", "--from-literal=apiKey=k")
    team.apply(*(item for item in found if item["kind"] != "Project"))
    team.kubectl("apply", "-f", str(ROOT / "examples/chat.yaml"))
    options = ("--for=condition=Ready", "bkey/alice", "bprov/openai", "broute/assistant", "--timeout=60s")
    team.kubectl("wait", *options)


def _usage(team: World, project: str) -> dict[str, Any]:
    status = team.get("bproj", project)["status"]
    assert "usage" in status
    found: dict[str, Any] = status["usage"]
    return found


def _in(seconds: float) -> str:
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _other(found: str, before: str) -> str:
    assert found != before
    return found
