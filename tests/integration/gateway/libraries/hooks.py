"""For schemathesis: most generated requests name a model that is there, so that they go all the way."""

from __future__ import annotations

from typing import Any

import schemathesis

_LONGEST = 512
"""Characters of a model's name; a longer one must be refused."""


@schemathesis.hook  # type: ignore[untyped-decorator]  # none of the development environment's
def map_body(_: Any, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 3:
        body["model"] = "gpt-4" if len(body["model"]) <= _LONGEST else body["model"]
    return body
