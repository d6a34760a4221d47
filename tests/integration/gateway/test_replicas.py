"""Several gateways that share a Redis, as processes: what callers see of it, and what they see when it is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.forms import parts
from tests.integration.gateway.upstream import Upstream, completion, running, unread
from tests.redis_server import PASSWORD, RedisServer, running_redis
from tests.waiting import eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}


class Model:
    """Answers when it may: `hold` makes it wait."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0

    async def __call__(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        self.asked += 1
        if request.path.endswith("transcriptions"):
            heard = [len(data or b"") async for _, _, data in parts(request)]
            return web.json_response({"text": f"{sum(heard)} bytes, answer {self.asked}"})
        body = await request.json()
        assert await asyncio.to_thread(self.may_answer.wait, 30)
        return completion(body, number=self.asked)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def upstream(model: Model) -> Iterator[Upstream]:
    with running(model, read=unread) as started:
        yield started


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture(scope="module")
def gateways(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, redis: RedisServer
) -> Iterator[list[GatewayProcess]]:
    folder = tmp_path_factory.mktemp("replicas")
    limits = {"exact": {"requestsPerDay": 30}, "tokens": {"tokensPerDay": 1000}, "share": {"requestsPerDay": 8}}
    objects = (
        project(),
        key(),
        *(key(name, f"bud_{name}", limits=spec) for name, spec in limits.items()),
        provider("p", upstream.url, "m", "ears"),
    )
    # The time is not what is tested here, and a machine that is busy may answer late.
    options = ("--redis-url", redis.url, "--replicas", "2", "--redis-timeout", "1")
    with ExitStack() as stack:
        yield [stack.enter_context(running_gateway(folder / name, *objects, options=options)) for name in "ab"]


def ask(gateway: GatewayProcess, secret: str = KEY, body: Any = None, **headers: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}", **headers}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body or CHAT, headers=headers, timeout=30)


def hear(gateway: GatewayProcess, once: str, sound: bytes = b"RIFF") -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": once}
    return httpx.post(
        f"{gateway.url}/v1/audio/transcriptions",
        data={"model": "ears"},
        files={"file": ("a.wav", sound, "audio/wav")},
        headers=headers,
        timeout=30,
    )


def remaining(gateway: GatewayProcess, secret: str, unit: str) -> int:
    """What an answer that takes nothing says."""
    found = httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {secret}"}, timeout=30)
    return int(found.headers[f"x-ratelimit-remaining-{unit}"])


def has_redis(gateway: GatewayProcess) -> bool:
    return "bud_gateway_redis_up 1.0" in httpx.get(f"{gateway.url}/metrics", timeout=30).text


def test_a_limit_is_one_for_all(gateways: list[GatewayProcess]) -> None:
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda n: ask(gateways[n % 2], "bud_exact").status_code, range(48)))
    assert (found.count(200), found.count(429)) == (30, 18)
    assert remaining(gateways[1], "bud_exact", "requests") == 0


def test_what_one_used_the_others_know(gateways: list[GatewayProcess]) -> None:
    assert ask(gateways[0], "bud_tokens").status_code == 200

    def settled() -> None:
        assert remaining(gateways[1], "bud_tokens", "tokens") == 992

    eventually(settled)


def test_an_answer_is_told_again_by_another(gateways: list[GatewayProcess], model: Model) -> None:
    headers = {"Idempotency-Key": "again"}
    first, again = ask(gateways[0], **headers), ask(gateways[1], **headers)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    other = ask(gateways[1], body=CHAT | {"max_tokens": 3}, **headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_an_upload_is_told_again_by_another(gateways: list[GatewayProcess]) -> None:
    first, again = hear(gateways[0], "sound"), hear(gateways[1], "sound")
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert hear(gateways[1], "sound", b"RIFX").json()["error"]["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("how", ["killed", "hanging"])
def test_without_redis_requests_go_on(gateways: list[GatewayProcess], redis: RedisServer, how: str) -> None:
    told = [gateway.log.count("Redis is away") for gateway in gateways]
    redis.kill() if how == "killed" else redis.hang()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: ask(gateways[n % 2], **{"Idempotency-Key": f"{how}{n}"}), range(12)))
        assert {one.status_code for one in found} == {200}
    if how == "killed":
        shares = [[ask(gateway, "bud_share").status_code for _ in range(5)] for gateway in gateways]
        assert shares == [[200, 200, 200, 200, 429]] * 2
    assert ask(gateways[0], **{"Idempotency-Key": f"{how}0"}).content == found[0].content
    assert not any(map(has_redis, gateways))
    redis.start() if how == "killed" else redis.wake()

    def back() -> None:
        assert all(map(has_redis, gateways))

    eventually(back)
    assert [gateway.log.count("Redis is away") for gateway in gateways] == [count + 1 for count in told]
    if how == "killed":
        assert remaining(gateways[0], "bud_share", "requests") == 0


def test_a_key_is_busy_until_its_replica_dies(gateways: list[GatewayProcess], model: Model, redis: RedisServer) -> None:
    headers = {"Idempotency-Key": "busy"}
    model.may_answer.clear()
    before = model.asked
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(ask, gateways[1], **headers)

        def begun() -> None:
            assert model.asked > before

        eventually(begun)
        busy = ask(gateways[0], **headers)
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "idempotency_in_flight")
        gateways[1].kill()
        assert isinstance(lost.exception(timeout=30), httpx.TransportError)
    model.may_answer.set()
    with redis.client() as client:
        for mark in client.scan_iter("bud:answer:*"):
            if client.hexists(mark, "by"):
                client.pexpire(mark, 1)  # nobody renews it

    def free() -> None:
        assert ask(gateways[0], **headers).status_code == 200

    eventually(free)
    gateways[1].start()


def test_the_password_is_told_nowhere(gateways: list[GatewayProcess]) -> None:
    assert all("Redis is away" in gateway.log for gateway in gateways)
    assert not any(PASSWORD in gateway.log for gateway in gateways)
