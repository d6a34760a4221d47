"""A real Redis that speaks TLS alone, with a certificate of an authority of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bud.gateway.shared import Shared
from tests.cluster.pki import Authority
from tests.integration.gateway.test_shared_limits import SAME, joined, kept, key
from tests.redis_server import PASSWORD, RedisServer, running_redis


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis"), Authority()) as started:
        yield started


async def test_limits_and_answers_are_shared_over_tls(server: RedisServer) -> None:
    assert server.url.startswith("rediss://")
    async with joined(server, 2) as (one, other):
        day = key(requests_per_day=5)
        served = await asyncio.gather(*(replica.take(day) for replica in (one, other) * 5))
        assert sum(served) == 5
        begun, _ = await one.once.begin("alice", b"k", SAME, now=0.0)
        await one.once.end("alice", b"k", kept(begun))
        told, is_new = await other.once.begin("alice", b"k", SAME, now=0.0)
        assert (told.whole(), is_new) == (b"hello", False)


@pytest.mark.parametrize("ca", ["another", "none"])
async def test_a_certificate_that_is_not_trusted_is_told_and_each_keeps_its_share(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, ca: str
) -> None:
    good, file = server.url, tmp_path / "ca.pem"
    file.write_bytes(Authority().certificate)
    server.url = good.partition("?")[0] + (f"?ssl_ca_certs={file}" if ca == "another" else "")
    try:
        async with joined(server, 1) as (one,):
            assert [await one.take(key(requests_per_day=2), now=1.0) for _ in range(2)] == [True, False]
    finally:
        server.url = good
    assert "Redis is away" in caplog.text and "certificate verify failed" in caplog.text
    assert PASSWORD not in caplog.text


def test_a_file_that_is_not_there_is_named(server: RedisServer, tmp_path: Path) -> None:
    url = f"{server.url.partition('?')[0]}?ssl_ca_certs={tmp_path}/ca.pem"
    with pytest.raises(ValueError, match=rf"^--redis-url names a file .* ssl_ca_certs={tmp_path}/ca.pem$"):
        Shared(url, replicas=1, told=lambda _: None)
