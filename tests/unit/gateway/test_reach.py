"""Which addresses Providers may lead to."""

from __future__ import annotations

import socket
from collections.abc import Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from bud.addresses import read
from bud.gateway.reach import Reach, Refused

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
PUBLIC_API_SERVER = {"KUBERNETES_SERVICE_HOST": "203.0.114.7"}


def is_allowed(reach: Reach, address: str) -> bool:
    found = read(address)
    assert found is not None
    return reach.refusal(found) is None


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.0.9", "::1", "0.0.0.0", "0.1.2.3", "::", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1",
        "169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "2002:a9fe:a9fe::", "fd00:ec2::254", "fd20:ce::254",
        "100.100.100.200", "168.63.129.16", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
        "fc00::1", "fdff::1", "fec0::1", "10.96.0.1", "::ffff:10.96.0.1", "203.0.114.7", "224.0.0.1", "239.1.1.1",
        "ff02::1", "ff0e::1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.0.0.192", "2001:db8::1",
        "64:ff9b:1::a00:1", "100::1",
    ],
)  # fmt: skip
def test_nothing_but_the_internet_is_reached_unless_it_is_allowed(address: str) -> None:
    assert not is_allowed(Reach.of((), PUBLIC_API_SERVER), address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "104.18.7.192", "2606:4700::6812:7c0", "64:ff9b::8.8.8.8", "172.32.0.1"]
)
def test_the_internet_is(address: str) -> None:
    assert is_allowed(Reach.of((), IN_CLUSTER), address)


@pytest.mark.parametrize(
    ("entries", "opened", "closed"),
    [
        ("loopback", "127.0.0.1 ::1 ::ffff:127.0.0.1", "10.0.0.1 0.0.0.0 169.254.169.254"),
        ("private", "10.0.0.1 172.16.0.1 192.168.0.1 100.64.0.1 fd12::1", "127.0.0.1 10.96.0.1 169.254.169.254 fd00:ec2::254 100.100.100.200"),
        ("PRIVATE Loopback", "10.0.0.1 127.0.0.1", "10.96.0.1"),
        ("10.1.0.0/16", "10.1.2.3", "10.2.0.1 10.96.0.1"),
        ("10.0.0.0/8", "10.96.0.2", "10.96.0.1"),
        ("10.96.0.1", "10.96.0.1", "10.96.0.2"),
        ("0.0.0.0/0 ::/0", "127.0.0.1 10.0.0.1 224.0.0.1 fc00::1", "169.254.169.254 fe80::1 fd00:ec2::254 168.63.129.16 10.96.0.1"),
        ("169.254.169.254 fd00:ec2::254", "169.254.169.254 fd00:ec2::254", "169.254.169.253 fe80::1"),
        ("169.254.0.0/16", "169.254.1.1 ::ffff:169.254.1.1", "fe80::1"),
        ("a.lan localhost", "8.8.8.8", "10.0.0.1 127.0.0.1"),
    ],
)  # fmt: skip
def test_the_flag_opens_what_it_names_and_no_more(entries: str, opened: str, closed: str) -> None:
    reach = Reach.of(entries.split(), IN_CLUSTER)
    assert [address for address in opened.split() if not is_allowed(reach, address)] == []
    assert [address for address in closed.split() if is_allowed(reach, address)] == []


def test_what_is_learned_of_the_api_server_is_opened_by_its_own_name_alone() -> None:
    reach = Reach.of(["private", "10.0.9.2", "203.0.114.0/24"], IN_CLUSTER)
    reach.guard(["10.0.9.1", "10.0.9.2", "203.0.114.7", "fd12::1", "no address"])
    refused = ["10.0.9.1", "203.0.114.7", "fd12::1", "::ffff:10.0.9.1", "10.96.0.1"]
    assert [one for one in refused if is_allowed(reach, one)] == []
    assert is_allowed(reach, "10.0.9.2") and is_allowed(reach, "10.0.9.3")
    reach.guard(["10.0.9.3"])
    assert is_allowed(reach, "10.0.9.1") and not is_allowed(reach, "10.0.9.3")


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0.0/33", "http://a", "a b", "", "*", "a/b", "127.1", "a..*"])
def test_an_entry_that_cannot_be_meant_is_told(entry: str) -> None:
    with pytest.raises(ValueError, match="--allow-upstream"):
        Reach.of([entry], {})


@pytest.mark.parametrize(
    ("url", "is_open", "told"),
    [
        ("http://vllm.lan:8000/v1", True, None),
        ("http://VLLM.lan./v1", True, None),
        ("http://other.lan/v1", False, None),
        ("http://vllm.lan.evil.com/v1", False, None),
        ("http://a.b.svc/v1", True, None),
        ("http://svc/v1", False, None),
        ("http://evilsvc/v1", False, None),
        ("http://vllm.lan@127.0.0.1/v1", False, "127.0.0.1"),
        ("http://127.0.0.1:8080/v1", False, "127.0.0.1"),
        ("http://localhost/v1", False, "127.0.0.1"),
        ("http://2130706433/v1", False, "127.0.0.1"),
        ("http://0x7f.1/v1", False, "127.0.0.1"),
        ("http://[::ffff:169.254.169.254]/v1", False, "169.254.169.254"),
        ("http://[fe80::1%25eth0]/v1", False, "fe80::1"),
        ("http://169.254.169.254./latest", False, "169.254.169.254"),
        ("https://api.openai.com/v1", False, None),
    ],
)
def test_a_url_is_judged_by_its_host(url: str, is_open: bool, told: str | None) -> None:
    opened, why = Reach.of(["vllm.lan", "*.svc"], {}).judge(url)
    assert (opened, why is None) == (is_open, told is None)
    assert why is None or (why.startswith(f"{told} ") and "--allow-upstream" in why)


class Rebinding(AbstractResolver):
    """Gives another address each time it is asked, as a name does whose owner lies."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=one,
                port=port,
                family=socket.AF_INET6 if ":" in one else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for one in found
        ]

    async def close(self) -> None:
        return


async def asked(resolver: Rebinding, reach: Reach, times: int) -> tuple[int, list[Exception]]:
    """How often a server on loopback was reached through such names, and what went wrong."""
    count = 0

    async def hear(_: web.Request) -> web.Response:
        nonlocal count
        count += 1
        return web.Response(headers={"connection": "close"})

    app = web.Application()
    app.router.add_get("/", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    faults = list[Exception]()
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, socket_factory=reach.socket)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(sock_connect=2)) as session:
        for _ in range(times):
            try:
                (await session.get(f"http://a-name:{port}/")).release()
            except aiohttp.ClientError as error:
                faults.append(error)
    await runner.cleanup()
    return count, faults


@pytest.mark.parametrize(
    "answers",
    [(["127.0.0.1"],), (["127.0.0.1", "::1"],), (["::ffff:127.0.0.1"],), (["::1"], ["127.0.0.1"], ["127.0.0.1"])],
    ids=["one", "two at once", "mapped", "another each time"],
)
async def test_a_name_is_judged_by_the_address_that_is_connected_to(answers: tuple[list[str], ...]) -> None:
    count, faults = await asked(Rebinding(*answers), Reach(), 3)
    assert (count, len(faults)) == (0, 3)
    assert "--allow-upstream" in str(faults[0])
    assert isinstance(faults[0], aiohttp.ClientConnectorError) and isinstance(faults[0].os_error, PermissionError)


async def test_of_a_names_addresses_only_those_that_are_allowed_are_connected_to() -> None:
    made: list[str] = []
    reach = Reach.of(["127.0.0.1"], {})

    class Seen(Reach):
        def socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
            made.append(str(info[4][0]))
            return reach.socket(info)

    assert await asked(Rebinding(["127.0.0.9", "127.0.0.1"]), Seen(), 1) == (1, [])
    assert made == ["127.0.0.9", "127.0.0.1"]


def test_what_is_no_address_gets_no_socket() -> None:
    make: Callable[[aiohttp.AddrInfoType], socket.socket] = Reach.of(["0.0.0.0/0"], {}).socket
    with pytest.raises(Refused, match="a-name is no address"):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("a-name", 80)))
