"""No source, and no redirect of one, leads a download to its own pod, its link or the API server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.weights.programs import Origin, Weights


def source(kind: str, address: str) -> dict[str, Any]:
    return {
        "url": {"url": {"url": f"{address}/m.bin"}},
        "hub": {"huggingFace": {"repo": "a/b", "endpoint": address}},
        "cloud": {"cloud": {"uri": "s3://a/b", "endpoint": address, "region": "r"}},
    }[kind]


@pytest.mark.parametrize("kind", ["url", "hub", "cloud"])
def test_an_address_of_the_pod_itself_is_refused_before_anything_is_asked(
    weights: Weights, origin: Origin, kind: str
) -> None:
    done = weights.run(source(kind, origin.url), BUD_WEIGHTS_ALLOWED_NETWORKS="")
    assert (done.code, done.reason) == (10, "AddressRefused")
    assert origin.log() == []


@pytest.mark.parametrize("kind", ["url", "hub"])
def test_a_redirect_to_a_refused_address_is_not_followed(weights: Weights, origin: Origin, kind: str) -> None:
    path = {"url": "/m.bin", "hub": "/api/models/a/b/revision/main"}[kind]
    location = {"Location": "http://169.254.169.254/latest/meta-data"}
    origin.faults({path: {"status": 302, "headers": location}})
    done = weights.run(source(kind, origin.url))
    assert (done.code, done.reason) == (10, "AddressRefused")
