"""What the API server refuses of an engine's pods, in the words of the spec that asked for it: pure."""

from __future__ import annotations

import re

from bud.errors import ApiRefused

_OURS = (
    (r"spec\.template\.spec\.containers\[0\]\.resources(\.limits|\.requests)?", "spec.resources"),
    (r"spec\.template\.spec\.containers\[0\]\.env\[\d+\]", "spec.env"),
    (r"spec\.template\.spec\.containers\[0\]\.(args|image)", r"spec.\1"),
    (r"spec\.template\.spec\.(nodeSelector|tolerations|priorityClassName)", r"spec.\1"),
    (r"spec\.template\.spec\.affinity\.nodeAffinity\.[^:\s]*", "spec.resources.gpuType"),
    (r"spec\.template\.(metadata\.)?(labels|annotations)", r"spec.template.metadata.\2"),
    (r"spec\.strategy\.rollingUpdate", "spec.rollout"),
)
"""Fields of the apps/v1 Deployment, and the fields of ours that they are made of."""


def in_words_of_the_spec(refused: ApiRefused) -> ApiRefused:
    """The refusal of an apps/v1 Deployment with each field named as in our spec; any other refusal as it is."""
    child, _, causes = str(refused).partition(" is invalid: ")
    if not causes or not child.startswith("Deployment.apps"):
        return refused
    for theirs, ours in _OURS:
        causes = re.sub(theirs, ours, causes)
    return ApiRefused(f"the API server refuses the pods: {causes}; correct that field", status=refused.status)
