"""Names of children: valid everywhere, and unique to their owner."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud.kube.kinds import APPS, NODES, SERVICES, child_name, slug


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("llama-3.2-1b", "llama-3-2-1b"),
        ("Meta_Llama", "meta-llama"),
        ("3b", "x-3b"),
        ("a" * 253, "a" * 50),
        ("...", "x"),
    ],
)
def test_a_slug_is_a_readable_start_of_a_label(given_name: str, expected: str) -> None:
    assert slug(given_name) == expected


@given(st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", fullmatch=True))
def test_every_object_name_gives_a_valid_service_name(name: str) -> None:
    child = child_name("Deployment", "ns", name)
    assert len(child) <= 63
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", child)


def test_names_that_share_a_slug_do_not_share_a_child() -> None:
    names = {child_name("Deployment", "ns", name) for name in ("a.b", "a-b", "a" * 60, "a" * 61)}
    names |= {child_name("Deployment", "other", "a-b"), child_name("Model", "ns", "a-b")}
    assert len(names) == 6


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (APPS.path("ns", "x"), "apis/apps/v1/namespaces/ns/deployments/x"),
        (SERVICES.path(), "api/v1/services"),
        (NODES.path(None, "n", "status"), "api/v1/nodes/n/status"),
    ],
)
def test_the_path_of_a_resource(path: str, expected: str) -> None:
    assert path == expected
