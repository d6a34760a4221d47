"""What the API server says of a child, in the words of the spec."""

from __future__ import annotations

import pytest

from bud.deployment.refusals import in_words_of_the_spec
from bud.errors import ApiRefused

HEAD = 'Deployment.apps "chat-1234" is invalid: '


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("spec.template.spec.nodeSelector: Invalid value: x", "spec.nodeSelector: Invalid value: x"),
        ("spec.template.spec.tolerations[1].key: Invalid", "spec.tolerations[1].key: Invalid"),
        ("spec.template.spec.containers[0].env[7].name: Invalid", "spec.env.name: Invalid"),
        ("spec.template.spec.containers[0].resources.limits[memory]: Invalid", "spec.resources[memory]: Invalid"),
        ("spec.template.spec.containers[0].image: Invalid", "spec.image: Invalid"),
        ("spec.template.labels: Invalid", "spec.template.metadata.labels: Invalid"),
        ("spec.template.metadata.annotations: Invalid", "spec.template.metadata.annotations: Invalid"),
        (
            "spec.template.spec.affinity.nodeAffinity.requiredDuring[0].values[0]: Invalid",
            "spec.resources.gpuType: Invalid",
        ),
    ],
)
def test_a_field_of_the_pods_is_named_as_in_the_spec(said: str, expected: str) -> None:
    told = in_words_of_the_spec(ApiRefused(HEAD + said, status=422))
    assert str(told) == f"the API server refuses the pods: {expected}; correct that field"
    assert told.status == 422


def test_what_concerns_no_field_of_the_spec_is_told_as_it_is() -> None:
    refused = ApiRefused("the server could not find the requested resource", status=404)
    assert in_words_of_the_spec(refused) is refused
