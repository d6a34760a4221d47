"""Which addresses a download may reach."""

from __future__ import annotations

import pytest

from bud.weights.errors import Permanent
from bud.weights.guard import ALLOWED, Guard

IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254",
        "168.63.129.16",
        "10.96.0.1",
    ],
)
def test_addresses_of_the_pod_its_link_and_the_api_server_are_refused(address: str) -> None:
    with pytest.raises(Permanent, match=r"correct spec\.source") as caught:
        Guard(IN_CLUSTER).check(address)
    assert caught.value.reason == "AddressRefused"


@pytest.mark.parametrize("address", ["10.96.0.2", "93.184.216.34", "2606:2800::1", "192.168.1.1", "a-name"])
def test_other_addresses_are_not(address: str) -> None:
    Guard(IN_CLUSTER).check(address)


def test_a_network_may_be_allowed() -> None:
    Guard({ALLOWED: "127.0.0.0/8, 169.254.1.0/24"}).check("127.0.0.1")
    with pytest.raises(Permanent):
        Guard({ALLOWED: "127.0.0.0/8"}).check("169.254.169.254")


@pytest.mark.parametrize("url", ["http://localhost:1/x", "http://127.0.0.1/x", "https://[::1]:8/x"])
def test_a_host_is_judged_by_its_addresses(url: str) -> None:
    with pytest.raises(Permanent):
        Guard({}).check_host(url)
