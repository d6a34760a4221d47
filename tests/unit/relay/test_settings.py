"""What the relay is told by its environment."""

from __future__ import annotations

import pytest

from bud.relay.__main__ import read_settings

GOOD = {
    "BUD_RELAY_ENGINE": "http://127.0.0.1:8080",
    "BUD_RELAY_MODEL": "chat",
    "BUD_RELAY_FIELDS": '{"chat": {}, "pirate": {"lora_path": "pirate"}}',
}


def test_the_routes_are_read() -> None:
    routes, port = read_settings(GOOD)
    assert (routes.engine, routes.base, port) == ("http://127.0.0.1:8080", "chat", 9902)
    assert routes.adapters == ("pirate",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"BUD_RELAY_ENGINE": ""}, "BUD_RELAY_ENGINE is not set"),
        ({"BUD_RELAY_ENGINE": "ftp://x"}, "BUD_RELAY_ENGINE"),
        ({"BUD_RELAY_MODEL": ""}, "BUD_RELAY_MODEL is not set"),
        ({"BUD_RELAY_FIELDS": "{"}, "BUD_RELAY_FIELDS"),
        ({"BUD_RELAY_FIELDS": "[]"}, "BUD_RELAY_FIELDS"),
        ({"BUD_RELAY_FIELDS": '{"pirate": {}}'}, "'chat' among them"),
        ({"BUD_RELAY_FIELDS": '{"chat": 1}'}, "BUD_RELAY_FIELDS"),
        ({"BUD_RELAY_PORT": "0"}, "BUD_RELAY_PORT"),
        ({"BUD_RELAY_PORT": "http"}, "BUD_RELAY_PORT"),
    ],
)
def test_what_is_missing_or_wrong_is_named(changed: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_settings(GOOD | changed)
