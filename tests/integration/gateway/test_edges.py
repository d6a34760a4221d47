"""What the gateway shows to browsers and over TLS."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from bud.gateway.cors import origins
from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.certificates import issue
from tests.integration.gateway.upstream import Upstream, completion, running
from tests.waiting import contains, eventually

MESSAGES: Any = [{"role": "user", "content": "hi"}]
PAGE = "https://app.example.com"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    async def answer(_: web.Request, body: dict[str, Any]) -> web.Response:
        return completion(body)

    with running(answer) as made:
        yield made


class SecureProcess(GatewayProcess):
    """A gateway that speaks HTTPS by its own certificate."""

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", verify=self.trusted(), timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder.parent / "tls.crt"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[SecureProcess]:
    """With CORS for one page."""
    folder = tmp_path_factory.mktemp("edges")
    issue(folder, "first")
    (folder / "objects").mkdir()
    options = (f"--tls-cert={folder / 'tls.crt'}", f"--tls-key={folder / 'tls.key'}", f"--cors-origin={PAGE}")
    made = SecureProcess(folder / "objects", options=options)
    made.url = f"https://localhost:{made.port}"
    limits = {"requestsPerDay": 1000, "tokensPerDay": 1_000_000}
    made.write(project(), key(limits=limits), provider("p", upstream.url, "m"))
    made.start()
    yield made
    made.stop()


def test_the_sdk_speaks_https(secure: SecureProcess) -> None:
    with (
        openai.DefaultHttpxClient(verify=secure.trusted()) as transport,
        openai.OpenAI(api_key=KEY, base_url=f"{secure.url}/v1", http_client=transport, max_retries=0) as client,
    ):
        assert client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content == "hi"
    assert f"listening on https://127.0.0.1:{secure.port}\n" in secure.log


@pytest.mark.parametrize(
    ("version", "is_spoken"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)]
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_no_version_of_tls_before_1_2_is_spoken(
    secure: SecureProcess, version: ssl.TLSVersion, is_spoken: bool
) -> None:
    context = secure.trusted()
    # Else this side would refuse it first.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with httpx.Client(verify=context) as client:
        if is_spoken:
            assert client.get(f"{secure.url}/healthz").status_code == 200
        else:
            with pytest.raises(httpx.ConnectError):
                client.get(f"{secure.url}/healthz")


def test_a_renewed_certificate_is_taken_up_and_half_of_one_changes_nothing(secure: SecureProcess) -> None:
    folder = secure.folder.parent
    former = secure.trusted()
    right = (folder / "tls.key").read_bytes()
    (folder / "tls.key").write_bytes(right[: len(right) // 2])
    eventually(lambda: contains(secure.log, "the certificate is not read anew"), within=20)
    assert httpx.get(f"{secure.url}/healthz", verify=former).status_code == 200
    issue(folder, "second")

    def is_new() -> None:
        try:
            assert httpx.get(f"{secure.url}/healthz", verify=secure.trusted()).status_code == 200
        except httpx.ConnectError as error:
            raise AssertionError from error

    eventually(is_new, within=20)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{secure.url}/healthz", verify=former)


def test_a_page_may_ask_what_it_may_ask_without_a_key(secure: SecureProcess) -> None:
    asked = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    found = httpx.options(f"{secure.url}/v1/chat/completions", headers=asked, verify=secure.trusted())
    assert (found.status_code, found.content) == (204, b"")
    told = {name: value for name, value in found.headers.items() if name.startswith("access-control")}
    assert told == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "authorization,content-type,x-stainless-lang",
        "access-control-max-age": "600",
    }
    assert found.headers["vary"] == "Origin"


@pytest.mark.parametrize(("secret", "status"), [(KEY, 200), ("bud_other", 401)])
def test_a_page_reads_answers_refusals_and_their_headers(secure: SecureProcess, secret: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {secret}", "Origin": PAGE}
    body = {"model": "m", "messages": MESSAGES}
    found = httpx.post(f"{secure.url}/v1/chat/completions", headers=headers, json=body, verify=secure.trusted())
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (status, PAGE)
    assert "access-control-allow-credentials" not in found.headers
    exposed = set(found.headers["access-control-expose-headers"].split(", "))
    told = {name for name in found.headers if name.startswith(("x-", "retry-after"))}
    assert told <= exposed and "x-request-id" in told
    assert (status != 200) or "x-ratelimit-remaining-requests" in told


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"]
)
def test_another_page_may_not(secure: SecureProcess, origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    found = httpx.options(f"{secure.url}/v1/chat/completions", headers=asked, verify=secure.trusted())
    assert found.status_code == 401
    assert not any(name.startswith("access-control") for name in found.headers)


def test_without_the_flag_no_page_may(tmp_path: Path, upstream: Upstream) -> None:
    with running_gateway(tmp_path / "objects", project(), key(), provider("p", upstream.url, "m")) as gateway:
        headers = {"Authorization": f"Bearer {KEY}", "Origin": PAGE, "Access-Control-Request-Method": "POST"}
        for method, status in (("GET", 200), ("OPTIONS", 405)):
            found = httpx.request(method, f"{gateway.url}/v1/models", headers=headers)
            assert found.status_code == status
            assert not any(name.startswith("access-control") for name in found.headers)


@pytest.mark.parametrize(
    ("option", "told"),
    [("--tls-cert", "a.yaml are no certificate with its private key"), ("--tls-key", "--tls-key needs --tls-cert")],
)
def test_a_certificate_that_is_none_is_told_at_the_start(tmp_path: Path, option: str, told: str) -> None:
    (tmp_path / "a.yaml").write_text("")
    command = [
        sys.executable,
        "-m",
        "bud.gateway",
        "--from",
        str(tmp_path),
        "--port",
        "0",
        f"{option}={tmp_path / 'a.yaml'}",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, told in found.stderr) == (1, True), found.stderr


@pytest.mark.parametrize(
    "text", ["app.example.com", "https://a.example/path", "https://*.example", "", "https://a@b", "a b"]
)
def test_an_origin_that_is_none_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="--cors-origin"):
        origins([text])
