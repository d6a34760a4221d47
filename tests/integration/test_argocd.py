"""Argo CD's reading of our kinds' health, by its own program, over objects as the operator leaves them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bud.api.base import Status
from bud.errors import InvalidError, WaitingError
from tests import world
from tests.cluster import tools
from tests.unit.deployment import test_status as deployments
from tests.unit.deployment.views import app
from tests.unit.deployment.views import view as deployment
from tests.unit.model import test_status as models
from tests.unit.model.views import RESULT
from tests.unit.model.views import view as model
from tools import generate

SETTINGS = generate.ARGOCD / "argocd-cm.yaml"
NEW_GENERATION = 2


def health(item: dict[str, object], folder: Path) -> tuple[str, str]:
    """Argo CD's word and message for an object."""
    file = folder / "object.json"
    file.write_text(json.dumps(item))
    command = [str(tools.path("argocd")), "admin", "settings", "resource-overrides", "health", str(file)]
    command += ["--argocd-cm-path", str(SETTINGS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    return said["STATUS"], said["MESSAGE"]


@pytest.mark.parametrize(
    ("status", "expected", "message"),
    [
        pytest.param(models.look(model()), "Progressing", "the weights are being fetched", id="Downloading"),
        pytest.param(models.look(model(result=RESULT)), "Healthy", "3 files, 2.3Gi", id="Available"),
        pytest.param(
            models.look(model(), error=WaitingError("no claim x", reason="ClaimNotFound")),
            "Progressing",
            "no claim x",
            id="Error that may heal",
        ),
        pytest.param(
            models.look(model(), error=InvalidError("not allowed", reason="HostPathNotAllowed")),
            "Degraded",
            "not allowed",
            id="Error",
        ),
        pytest.param(
            models.look(model(result=RESULT, deleting=True, users=("chat",))),
            "Progressing",
            "now used by chat",
            id="Deleting",
        ),
        pytest.param(
            deployments.look(deployment(), error=WaitingError("Model x is missing", reason="ModelNotFound")),
            "Progressing",
            "Model x is missing",
            id="Pending",
        ),
        pytest.param(deployments.look(deployment()), "Progressing", "being created", id="Deploying"),
        pytest.param(deployments.ACTIVE, "Healthy", "1 of 1 replicas answer", id="Active"),
        pytest.param(
            deployments.look(
                deployment(deployments.SCALED, app=app(wanted=3, replicas=3, updated=3, available=1)),
                previous=deployments.ACTIVE_SCALED,
            ),
            "Healthy",
            "1 of 3 replicas answer",
            id="Scaling by the autoscaler",
        ),
        pytest.param(
            deployments.look(deployment(app=app(available=0)), deployments.pod(deployments.CRASHED)),
            "Degraded",
            "no such file",
            id="Failed by a crash",
        ),
        pytest.param(
            deployments.look(deployment(), error=InvalidError("no Runtime x", reason="NoRuntime")),
            "Degraded",
            "no Runtime x",
            id="Failed by the spec",
        ),
        pytest.param(
            deployments.look(deployment({"stopped": True}, app=app(wanted=0, replicas=0, updated=0, available=0))),
            "Healthy",
            "as asked",
            id="Stopped",
        ),
    ],
)
def test_argo_cd_reads_every_phase(status: Status, expected: str, message: str, tmp_path: Path) -> None:
    item = world.model("x") if type(status).__name__ == "ModelStatus" else world.deployment("x", "y")
    item["metadata"]["generation"] = 1
    item["status"] = status.model_dump(by_alias=True, mode="json", exclude_defaults=True) | {"observedGeneration": 1}
    found, told = health(item, tmp_path)
    assert found == expected
    assert message in told


def test_what_the_operator_has_not_looked_at_is_never_healthy(tmp_path: Path) -> None:
    item = world.deployment("x", "y")
    item["metadata"]["generation"] = NEW_GENERATION
    assert health(item, tmp_path)[0] == "Progressing"
    item["status"] = deployments.ACTIVE.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    assert health(item, tmp_path) == ("Progressing", "the operator has not looked at it yet")
