"""Credentials, certificates and proxies on the way to plain addresses."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.weights import programs
from tests.integration.weights.programs import MEBI, Origin, Weights, content

CREDENTIALS = [
    ({"token": "a-token"}, "", "Bearer a-token"),
    ({"username": "me", "password": "a-password"}, "", "Basic bWU6YS1wYXNzd29yZA=="),
    ({}, "me:a-password@", "Basic bWU6YS1wYXNzd29yZA=="),
    ({}, "me:p%40ss@", "Basic " + base64.b64encode(b"me:p@ss").decode()),
    ({"token": "a-token"}, "me:a-password@", "Bearer a-token"),
]


@pytest.mark.parametrize("case", CREDENTIALS, ids=str)
def test_credentials_are_sent_and_never_told(
    origin: Origin, weights: Weights, case: tuple[dict[str, str], str, str]
) -> None:
    secret, userinfo, wanted = case
    environment: dict[str, Any] = {f"BUD_CREDENTIAL_{key}": value for key, value in secret.items()}
    data = origin.put("m.bin", content(1000))
    origin.faults({"/m.bin": {"authorization": wanted}})
    source = {"url": {"url": f"{origin.url}/m.bin?sig=a-signature".replace("http://", f"http://{userinfo}")}}

    good = weights.run(source, **environment)
    assert good.code == 0, good.output
    assert weights.files() == {"m.bin": data}
    (weights.target / "m.bin").unlink()
    origin.faults({"/m.bin": {"status": 503}})
    bad = weights.run(source, **environment)

    assert bad.code == 1
    assert origin.log("/m.bin")[0]["query"] == "sig=a-signature"
    notes = "".join(path.read_text() for path in weights.target.glob(".bud/**/*.json"))
    for told in (good.output, bad.output, str(good.message), str(bad.message), notes):
        for secret_text in ("a-token", "a-password", "p@ss", "p%40ss", "a-signature", wanted.split()[1]):
            assert secret_text not in told


def test_credentials_do_not_follow_a_redirect_to_another_host(origin: Origin, weights: Weights) -> None:
    data = origin.put("elsewhere.bin", content(1000))
    origin.faults({"/m.bin": {"status": 302, "headers": {"Location": f"{origin.second}/elsewhere.bin"}}})

    done = weights.run({"url": {"url": f"{origin.url}/m.bin"}}, BUD_CREDENTIAL_token="a-token")

    assert done.code == 0, done.output
    assert weights.files() == {"m.bin": data}
    assert {row["Authorization"] for row in origin.log("/m.bin")} == {"Bearer a-token"}
    followed = origin.log("/elsewhere.bin")
    assert followed
    assert {row["Authorization"] for row in followed} == {None}


def test_a_certificate_that_nobody_vouches_for_is_refused_and_a_trusted_one_accepted(
    tmp_path: Path, weights: Weights
) -> None:
    certificate = tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(tmp_path / "key.pem")]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + (tmp_path / "key.pem").read_text())
    (tmp_path / "m.bin").write_bytes(content(2 * MEBI))

    with programs.origin(tmp_path, certificate=both) as server:
        stranger = weights.run({"url": {"url": f"{server.url}/m.bin"}})
        trusted = weights.run({"url": {"url": f"{server.url}/m.bin"}}, SSL_CERT_FILE=str(certificate))

    assert (stranger.code, stranger.reason) == (10, "CertificateRefused"), stranger.output
    assert trusted.code == 0, trusted.output
    assert weights.files() == {"m.bin": content(2 * MEBI)}


def test_a_proxy_is_used_but_not_for_hosts_that_are_excepted(origin: Origin, weights: Weights) -> None:
    data = origin.put("m.bin", content(1000))
    proxy: dict[str, Any] = {"HTTP_PROXY": origin.url, "http_proxy": origin.url}

    through = weights.run({"url": {"url": "http://weights.invalid/m.bin"}}, **proxy)
    around: dict[str, Any] = {**proxy, "no_proxy": "weights.invalid", "BUD_WEIGHTS_TRIES": "1"}
    direct = weights.run({"url": {"url": "http://weights.invalid/m.bin"}}, **around)

    assert through.code == 0, through.output
    assert weights.files() == {"m.bin": data}
    assert (direct.code, direct.reason) == (1, "ConnectionFailed")
