"""Counting requests and tokens by the clock."""

from __future__ import annotations

import pytest

from bud.api.limits import Limits
from bud.gateway.catalog import meters
from bud.gateway.limits import Counters, headers
from bud.gateway.refusal import Limited

KEY = meters("key/a", "this key", Limits(requests_per_minute=2, tokens_per_minute=100))
TEAM = meters("project/p", "project p", Limits(requests_per_minute=3))


def test_the_limit_is_the_last_that_is_served_and_the_next_minute_begins_anew() -> None:
    counters = Counters()
    for _ in range(2):
        counters.take(KEY, tokens=1, now=30.0)
    with pytest.raises(Limited) as refused:
        counters.take(KEY, tokens=1, now=59.2)
    assert refused.value.headers["retry-after"] == "1"
    assert "this key may use 2 requests a minute" in refused.value.message
    counters.take(KEY, tokens=1, now=60.0)


def test_a_project_is_limited_whatever_key_is_used() -> None:
    counters = Counters()
    for name in "abc":
        counters.take((*meters(f"key/{name}", "this key", Limits(requests_per_minute=2)), *TEAM), tokens=0, now=0.0)
    with pytest.raises(Limited, match="project p may use 3 requests"):
        counters.take(TEAM, tokens=0, now=1.0)


def test_a_request_that_is_refused_takes_nothing() -> None:
    counters = Counters()
    with pytest.raises(Limited, match="lower max_tokens"):
        counters.take(KEY, tokens=101, now=0.0)
    assert [state.remaining for state in counters.look(KEY, now=0.0)] == [2, 100]


def test_what_was_used_takes_the_place_of_what_was_reserved() -> None:
    counters = Counters()
    grant = counters.take(KEY, tokens=80, now=0.0)
    with pytest.raises(Limited):
        counters.take(KEY, tokens=21, now=0.0)
    counters.settle(grant, tokens=10, now=1.0)
    assert counters.look(KEY, now=1.0)[1].remaining == 90


def test_a_debt_is_paid_off_by_the_next_minutes() -> None:
    counters = Counters()
    grant = counters.take(KEY, tokens=10, now=0.0)
    counters.settle(grant, tokens=250, now=10.0)
    assert [counters.look(KEY, now=float(at))[1].remaining for at in (10, 60, 120)] == [0, 0, 50]


@pytest.mark.parametrize(("used", "remaining"), [(10, 20), (130, 0)], ids=["given back", "a debt"])
def test_what_was_reserved_in_a_minute_that_is_over_is_not_given_back_in_the_next(used: int, remaining: int) -> None:
    counters = Counters()
    early = counters.take(KEY, tokens=80, now=59.0)
    counters.take(KEY, tokens=80, now=61.0)
    counters.settle(early, tokens=used, now=62.0)
    assert counters.look(KEY, now=62.0)[1].remaining == remaining


def test_a_share_counts_for_all_replicas_and_is_at_least_one_request() -> None:
    counters = Counters()
    counters.take(KEY, tokens=60, now=0.0, times=3)
    with pytest.raises(Limited):
        counters.take(KEY, tokens=1, now=1.0, times=3)


def test_the_headers_tell_of_the_meter_that_is_nearest_to_its_end() -> None:
    both = meters("key/a", "this key", Limits(requests_per_minute=10, requests_per_day=3))
    grant = Counters().take(both, tokens=0, now=90_000.0)
    assert dict(headers(grant.states)) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"172800",
    }
