"""What `bud-probe` reads from its environment."""

import pytest

from bud.probe.__main__ import read_settings
from bud.probe.watch import Target
from bud.probe.wire import Address

LEAST = {"BUD_PROBE_ENGINE": "http://127.0.0.1:8000", "BUD_PROBE_MODEL": "m"}


def test_the_least_settings_have_sensible_defaults() -> None:
    target = Target(Address("127.0.0.1", 8000, ""), "/health", "text-generation", "m", "")
    assert read_settings(LEAST) == (target, 9901, 120.0)


def test_every_setting_is_read() -> None:
    more = {
        "BUD_PROBE_HEALTH_PATH": "ready",
        "BUD_PROBE_TASK": "text-ranking",
        "BUD_PROBE_PATH": "rerank",
        "BUD_PROBE_PORT": "1234",
        "BUD_PROBE_DRAIN": "7",
        "BUD_PROBE_ADAPTERS": "a,b",
        "BUD_PROBE_ASK": "http://127.0.0.1:9902",
    }
    engine, relay = Address("127.0.0.1", 8000, ""), Address("127.0.0.1", 9902, "")
    target = Target(engine, "/ready", "text-ranking", "m", "/rerank", ("a", "b"), relay)
    assert read_settings({**LEAST, **more}) == (target, 1234, 7.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUD_PROBE_ENGINE", ""),
        ("BUD_PROBE_ENGINE", "127.0.0.1:8000"),
        ("BUD_PROBE_MODEL", ""),
        ("BUD_PROBE_ASK", "127.0.0.1:9902"),
        ("BUD_PROBE_PORT", "no"),
        ("BUD_PROBE_PORT", "0"),
        ("BUD_PROBE_PORT", "65536"),
        ("BUD_PROBE_DRAIN", "long"),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=value or name):
        read_settings({**LEAST, name: value})
