"""Where a path leads, and who may go there."""

from __future__ import annotations

import pytest

from bud.api.limits import Limits
from bud.gateway.catalog import Key, Project
from bud.gateway.paths import Place, place
from bud.gateway.refusal import NotAllowed

KEY = Key("u", "k", Project("team", "ns", Limits()), "0" * 64)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/chat/completions", Place("chat/completions")),
        ("/v1/models", Place("models")),
        ("/v1/models/meta-llama/Llama-3", Place("models/meta-llama/Llama-3")),
        ("/projects/team/v1/embeddings", Place("embeddings", "team")),
        ("/projects/team/deployments/chat/v1/chat/completions", Place("chat/completions", "team", "chat")),
        ("/v1/audio/translations", Place("audio/translations")),
        ("/v1/realtime", Place("realtime")),
        ("/projects/team/v1/realtime/connect", Place("realtime", "team")),
        ("/v1/nothing", None),
        ("/v1", None),
        ("/", None),
        ("/projects/team", None),
        ("/projects/team/deployments/chat", None),
        ("/v2/chat/completions", None),
    ],
)
def test_a_path_leads_to_an_endpoint_or_nowhere(path: str, found: Place | None) -> None:
    assert place(path) == found


def test_a_key_goes_where_its_project_and_its_scopes_allow() -> None:
    narrow = Key("u", "k", KEY.project, "0" * 64, endpoints=frozenset({"models"}))
    Place("chat/completions", "team").check(KEY)
    Place("models/a").check(narrow)
    with pytest.raises(NotAllowed, match="not one of project 'other'"):
        Place("models", "other").check(KEY)
    with pytest.raises(NotAllowed, match="may not use /v1/embeddings"):
        Place("embeddings").check(narrow)
