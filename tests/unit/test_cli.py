"""`bud-operator` and wrong input: one plain sentence, and an exit status that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bud.api import KINDS
from bud.cli import app


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "200", "KUBECONFIG": "/nowhere"}).invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kubeconfig", "/nowhere/config"), "does not exist"),
        (("--workers", "0"), "greater than or equal to 1"),
        (("--log-level", "loud"), "'debug', 'info', 'warning', 'error'"),
        (("--default-volume-size", "10Zz"), "is not a Kubernetes quantity"),
        (("--allow-host-path", "models"), "is not an absolute path"),
        (("--node-cache-path", "models", "--node-cache-size", "1Gi"), "is not an absolute path"),
        (("--node-cache-path", "/", "--node-cache-size", "1Gi"), "is not an absolute path of a folder below /"),
        (("--node-cache-size", "many", "--node-cache-path", "/models"), "not a Kubernetes quantity"),
        (("--node-cache-size", "", "--node-cache-path", "/models"), "not a Kubernetes quantity"),
        (("--node-cache-size", "0", "--node-cache-path", "/models"), "is no size"),
    ],
)
def test_a_wrong_option_is_refused_by_name(arguments: tuple[str, ...], message: str) -> None:
    status, output = run("run", *arguments)
    assert status == 2
    assert message in output
    assert arguments[0] in output


@pytest.mark.parametrize("text", ["a: [b", "", "kind: Config"])
def test_a_kubeconfig_that_is_none_is_told_without_a_traceback(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    status, output = run("run", "--kubeconfig", str(path))
    assert status == 1
    assert "no usable connection to a cluster" in output
    assert "Traceback" not in output


def test_the_definitions_that_are_printed_are_all_kinds() -> None:
    status, output = run("crds")
    assert status == 0
    assert [document["spec"]["names"]["kind"] for document in yaml.safe_load_all(output)] == [
        kind.kind for kind in KINDS
    ]
