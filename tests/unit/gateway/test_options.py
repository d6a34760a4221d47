"""`bud-gateway` and wrong input: one line that names the option and what to do, and no traceback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from bud.gateway import __main__ as command
from bud.gateway.listen import listen
from tests.integration.gateway.certificates import issue


@pytest.fixture(autouse=True)
def _serves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def served(*_: Any) -> None:
        raise AssertionError("what is wrong was taken")

    monkeypatch.setattr(command, "_serve_files", served)
    monkeypatch.setattr(command, "_serve_cluster", served)
    monkeypatch.setattr(command, "configure", lambda **_: None)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner(env={"COLUMNS": "250"}).invoke(command.app, list(arguments))
    assert isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


NUMBERS = {
    "--port": ("-1", "65536", "1e3", "nan"),
    "--metrics-port": ("-1", "65536"),
    "--drain-delay": ("-1", "inf", "nan", "1e30"),
    "--drain-limit": ("-1", "0", "inf", "nan", "1e400"),
    "--max-stale-keys": ("-1", "5", "inf", "nan"),
    "--max-connections": ("0", "inf"),
    "--replicas": ("0", "1.5"),
    "--redis-timeout": ("0", "inf", "nan"),
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option in NUMBERS for value in NUMBERS[option]])
def test_a_number_that_cannot_be_meant_is_refused_by_its_option(tmp_path: Path, option: str, value: str) -> None:
    status, output = run("--from", str(tmp_path), f"{option}={value}")
    assert (status, option in output) == (2, True), output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--from=/nowhere",), "--from': dir '/nowhere' does not exist"),
        ((f"--from={__file__}",), "is a file"),
        (("--from=",), "--from': it is empty: name a folder"),
        (("--from=.", "--tls-cert=/nowhere"), "--tls-cert' (env var: 'BUD_GATEWAY_TLS_CERT'): file '/nowhere' does not exist"),
        (("--from=.", f"--tls-key={__file__}"), "--tls-key needs --tls-cert: name the file of the certificate, too"),
        (("--from=.", f"--tls-cert={__file__}"), "test_options.py are no certificate with its private key, in PEM"),
        (("--from=.", "--port=5001", "--metrics-port=5001"), "--metrics-port 5001 is --port, too: name another one, or leave it out"),
        (("--from=.", f"--kubeconfig={__file__}", "--context=c"), "--kubeconfig, --context: of a cluster, which --from is not: leave out one or the other"),
        (("--from=.", "--namespace=n"), "--namespace: of a cluster"),
        (("--from=.", "--home-namespace=n"), "--home-namespace: of a cluster"),
        (("--from=.", "--max-stale-keys=20"), "--max-stale-keys: of a cluster"),
        (("--namespace=Team_A",), "--namespace: 'Team_A' is no name in Kubernetes: at most 63 small letters"),
        (("--home-namespace=a.b",), "--home-namespace: 'a.b' is no name in Kubernetes"),
        (("--from=.", "--redis-url=redis.example.com"), "--redis-url must read redis://HOST:PORT/NUMBER"),
        (("--from=.", "--allow-upstream=1.2.3"), "--allow-upstream 1.2.3: neither loopback"),
        (("--from=.", "--cors-origin=x"), "--cors-origin x: neither * nor an origin"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], told: str
) -> None:
    async def made(settings: Any, _: object, observer: Any) -> None:
        command._gateway(settings, observer)

    monkeypatch.setattr(command, "_serve_files", made)
    status, output = run(*options)
    assert status in (1, 2) and told in output


def test_a_certificate_and_the_key_of_another_are_refused_and_so_is_a_key_with_a_passphrase(tmp_path: Path) -> None:
    issue(tmp_path, "one")
    key, locked = ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"secret")
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    for name, lock, told in (
        ("other.key", serialization.NoEncryption(), "are no certificate with its private key, in PEM (KEY_VALUES_MISMATCH)"),
        ("locked.key", locked, "has a passphrase: take it off"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(key.private_bytes(pem, form, lock))
        options = (f"--from={tmp_path}", f"--tls-cert={tmp_path / 'tls.crt'}", f"--tls-key={tmp_path / name}")
        status, output = run(*options)
        assert status == 1 and "--tls-key" in output and told in output


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_told_by_its_option(taken: int) -> None:
    told = f"--metrics-port {taken}: 127.0.0.1: another program listens there: end it, or name another port"
    with pytest.raises(OSError, match=told):
        listen("--metrics-port", "127.0.0.1", taken)


@pytest.mark.parametrize("host", ["host.invalid", "192.0.2.1", "a..b"])
def test_a_host_that_is_not_this_machine_is_told(host: str) -> None:
    with pytest.raises(OSError, match=f"--host {host}: .*: name an address of this machine"):
        listen("--port", host, 0)


def test_a_free_port_is_the_same_at_all_addresses() -> None:
    made = listen("--port", "", 0)
    assert len({one.getsockname()[1] for one in made}) == 1
    for one in made:
        one.close()
