"""Providers lead to no address that the administrator did not allow, however it is written; Deployments are the operator's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.upstream import Upstream, completion, running

Json = dict[str, Any]
MESSAGES = [{"role": "user", "content": "hi"}]
REFUSED = {
    "by-number": "http://127.0.0.1:{port}/v1",
    "by-name": "http://localhost.localdomain:{port}/v1",
    "decimal": "http://2130706433:{port}/v1",
    "octal": "http://0177.0.0.1:{port}/v1",
    "short": "http://127.1:{port}/v1",
    "hexadecimal": "http://0x7f000001:{port}/v1",
    "dot": "http://127.0.0.1.:{port}/v1",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/v1",
    "unspecified": "http://0.0.0.0:{port}/v1",
    "metadata": "http://169.254.169.254/v1",
    "link": "http://[fe80::1]/v1",
}


async def answer(request: web.Request, body: Json) -> web.Response:
    if body.get("redirect"):
        raise web.HTTPTemporaryRedirect(f"http://127.0.0.1:{request.url.port}/v1/elsewhere")
    return completion(body)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running(answer) as started:
        yield started


@pytest.fixture(scope="module")
def sixth() -> Iterator[Upstream]:
    """One that is reached by IPv6 alone."""
    with running(answer, address="::1") as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, sixth: Upstream) -> Iterator[GatewayProcess]:
    """It listens on all addresses, and allows one name and one number, which is of IPv6."""
    port = urlsplit(upstream.url).port
    providers = [provider(f"p-{name}", url.format(port=port), name) for name, url in REFUSED.items()]
    deployment = {
        "apiVersion": "bud.studio/v1alpha1", "kind": "Deployment", "metadata": {"name": "own"},
        "spec": {"modelRef": {"name": "m"}}, "status": {"endpointURL": upstream.url, "readyReplicas": 1},
    }  # fmt: skip
    objects = (
        *providers,
        deployment,
        provider("named", f"http://localhost:{port}/v1", "named", "chained"),
        provider("first", upstream.url, "chained", priority=9),
        provider("sixth", sixth.url, "sixth"),
    )
    folder = tmp_path_factory.mktemp("reach") / "objects"
    with running_gateway(folder, project(), key(), *objects, options=("--host=",), allow=("localhost", "::1")) as made:
        yield made


def ask(gateway: GatewayProcess, model: str, **more: Any) -> httpx.Response:
    body = orjson.dumps({"model": model, "messages": MESSAGES, **more})
    url, headers = f"{gateway.url}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
    return httpx.post(url, content=body, headers=headers, timeout=30)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_address_is_not_connected_to_and_not_told(
    gateway: GatewayProcess, upstream: Upstream, name: str
) -> None:
    before = len(upstream.asked)
    found = ask(gateway, name)
    error = found.json()["error"]
    assert (found.status_code, error["type"], len(upstream.asked)) == (503, "overloaded_error", before)
    assert not any(word in found.text for word in ("127", "169", "localhost", "allow-upstream"))
    if name not in ("by-name", "decimal", "octal", "short", "hexadecimal", "dot"):
        # Of the others some are not even looked up.
        assert error["code"] == "upstream_not_allowed"


def test_the_log_names_the_provider_the_address_and_the_flag(gateway: GatewayProcess) -> None:
    ask(gateway, "by-number")
    lines = gateway.log.splitlines()
    told = "127.0.0.1 is no address of the internet; to allow it, set --allow-upstream loopback"
    assert any("Provider default/p-decimal: " + told in line for line in lines), "when it is loaded"
    assert any("Provider default/p-link: fe80::1 is no address of the internet" in line for line in lines)
    tried = [line for line in lines if "p-by-number/by-number cannot be reached" in line]
    assert tried and all(told in line for line in tried), "when it is tried"


def test_it_is_tried_once(gateway: GatewayProcess) -> None:
    before = gateway.log.count("p-metadata/metadata cannot be reached")
    ask(gateway, "metadata")
    assert gateway.log.count("p-metadata/metadata cannot be reached") == before + 1


def test_a_name_that_is_allowed_may_lead_anywhere_and_so_may_a_deployment(gateway: GatewayProcess) -> None:
    assert ask(gateway, "named").status_code == 200
    assert ask(gateway, "own").status_code == 200


def test_the_next_in_the_chain_answers_for_a_refused_address(gateway: GatewayProcess) -> None:
    assert ask(gateway, "chained").status_code == 200


def test_a_redirect_is_not_followed(gateway: GatewayProcess, upstream: Upstream) -> None:
    found = ask(gateway, "named", redirect=True)
    assert (found.status_code, found.json()["error"]["code"]) == (503, "upstream_redirect")
    assert upstream.asked[-1][0] == "/v1/chat/completions"


def test_the_realtime_endpoint_is_bound_in_the_same_way(gateway: GatewayProcess, upstream: Upstream) -> None:
    before = len(upstream.asked)
    head = (
        f"GET /v1/realtime?model=by-number HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as caller:
        caller.sendall(head.encode())
        told = caller.makefile("rb").read()
    assert told.startswith(b"HTTP/1.1 503") and b"upstream_not_allowed" in told
    assert len(upstream.asked) == before


def test_callers_and_upstreams_of_ipv6(gateway: GatewayProcess, sixth: Upstream) -> None:
    body = {"model": "sixth", "messages": MESSAGES}
    url, headers = f"http://[::1]:{gateway.port}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(url, json=body, headers=headers, timeout=30).json()["model"] == "sixth"
    (asked,) = sixth.asked
    assert asked[1]["host"] == sixth.url.removeprefix("http://").removesuffix("/v1")
