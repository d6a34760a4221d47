"""For schemathesis: most generated requests name a model that is there, so that they go all the way."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook  # type: ignore[untyped-decorator]  # none of the development environment's
def map_body(_: Any, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 3:
        body["model"] = "gpt-4"
    return body
