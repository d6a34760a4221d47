"""What the API server refuses of an engine's pods, in the words of the spec that asked for it: pure."""

from __future__ import annotations

import re

from bud.errors import ApiRefused

_OURS = (
    (r"spec\.template\.spec\.containers\[0\]\.resources(\.limits|\.requests)?", "spec.resources"),
    (r"spec\.template\.spec\.containers\[0\]\.env\[\d+\]", "spec.env"),
    (r"spec\.template\.spec\.containers\[0\]\.(args|image|command|livenessProbe|startupProbe)", r"spec.\1"),
    (r"spec\.template\.spec\.(nodeSelector|tolerations|priorityClassName)", r"spec.\1"),
    (r"spec\.template\.(metadata\.)?(labels|annotations)", r"spec.template.metadata.\2"),
    (r"spec\.strategy\.rollingUpdate", "spec.rollout"),
)
"""Fields of the apps/v1 Deployment, and the fields of ours that they are made of."""


def in_words_of_the_spec(refused: ApiRefused) -> ApiRefused:
    """The refusal of an apps/v1 Deployment with each field named as in our spec, and the remedy."""
    message = str(refused)
    for theirs, ours in _OURS:
        message = re.sub(theirs, ours, message)
    if message == str(refused):
        return refused
    _, _, causes = message.partition(" is invalid: ")
    return ApiRefused(
        f"the API server refuses the pods: {causes or message}; correct that field", status=refused.status
    )
