"""What is counted, and under which labels, as Prometheus' own client reads it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families

from bud.gateway import metrics
from bud.gateway.catalog import Catalog, Served
from bud.gateway.metrics import Facts, Metrics
from bud.gateway.usage import Usage

CHAT = Facts("chat/completions", "team", "m", "openai", 200, 100.5, Usage(30, 11), 0.25)
WHO = {
    "bud_project": "team",
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "openai",
    "gen_ai_request_model": "m",
}


def told(counted: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = asyncio.run(counted.render()).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "a sample stands there twice"
    return found


def count(*facts: Facts, began: float = 100.0, now: float = 101.5) -> Metrics:
    counted = Metrics()
    for one in facts:
        counted.ended(one, began=began, now=now)
    return counted


def at(found: dict[Any, float], name: str, **labels: str) -> float | None:
    return found.get((name, frozenset((WHO | labels).items())))


def test_a_request_is_counted_by_the_names_of_the_conventions() -> None:
    found = told(count(CHAT, CHAT))
    assert at(found, "bud_gateway_requests_total", http_response_status_code="200") == 2
    assert at(found, "bud_gateway_cost_dollars_total") == 0.5
    for name, total in {
        "gen_ai_server_request_duration_seconds": 3.0,
        "gen_ai_server_time_to_first_token_seconds": 1.0,
        "gen_ai_server_time_per_output_token_seconds": pytest.approx(0.2),
    }.items():
        assert (at(found, f"{name}_sum"), at(found, f"{name}_count")) == (total, 2)
    for kind, tokens in (("input", 60), ("output", 22)):
        assert at(found, "gen_ai_client_token_usage_sum", gen_ai_token_type=kind) == tokens


@pytest.mark.parametrize(
    ("name", "value", "before", "within"),
    [
        ("gen_ai_server_request_duration_seconds", 0.64, "0.32", "0.64"),
        ("gen_ai_server_request_duration_seconds", 0.65, "0.64", "1.28"),
        ("gen_ai_server_request_duration_seconds", 100.0, "81.92", "+Inf"),
    ],
)
def test_a_bucket_holds_what_is_no_more_than_its_bound(name: str, value: float, before: str, within: str) -> None:
    found = told(count(CHAT, began=0.0, now=value))
    assert [at(found, f"{name}_bucket", le=bound) for bound in (before, within, "+Inf")] == [0, 1, 1]


def test_what_failed_has_its_type_and_no_time_to_the_first_token() -> None:
    broken = Facts("chat/completions", "team", "m", "openai", 503, 100.5, Usage(30, 11), None)
    found = told(count(broken))
    assert at(found, "gen_ai_server_request_duration_seconds_count", error_type="503") == 1
    assert not [name for name, _ in found if "first_token" in name or "per_output" in name or "cost" in name]


def test_what_reached_no_model_is_a_request_and_nothing_else() -> None:
    found = told(count(Facts("chat/completions", "team", status=404), Facts(status=401)))
    requests = {labels: value for (name, labels), value in found.items() if name == "bud_gateway_requests_total"}
    assert sum(requests.values()) == 2
    assert not [name for name, _ in found if name.startswith("gen_ai")]


@pytest.mark.parametrize(
    ("label", "named"),
    [
        ("azure", "azure.ai.openai"),
        ("bedrock", "aws.bedrock"),
        ("google", "gcp.gemini"),
        ("xai", "x_ai"),
        ("bud", "bud"),
    ],
)
def test_providers_have_the_names_that_are_listed(label: str, named: str) -> None:
    found = told(count(Facts("embeddings", "team", "m", label, 200, None, Usage(3, 0))))
    assert at(
        found, "gen_ai_server_request_duration_seconds_count", gen_ai_operation_name="embeddings", gen_ai_provider_name=named
    ) == 1  # fmt: skip


def test_values_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    found = told(count(Facts("rerank", "team", odd, "bud", 200)))
    assert at(
        found, "bud_gateway_requests_total", http_response_status_code="200",
        gen_ai_operation_name="rerank", gen_ai_provider_name="bud", gen_ai_request_model=odd,
    ) == 1  # fmt: skip


def test_there_is_an_end_to_what_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_MOST_COUNTS", 3)
    monkeypatch.setattr(metrics, "_MOST_WORKS", 2)
    found = told(count(*(Facts("rerank", "team", f"m{number}", "bud", 200, None, Usage(1, 0)) for number in range(9))))
    requests = {
        dict(labels)["gen_ai_request_model"]: n
        for (name, labels), n in found.items()
        if name.endswith("requests_total")
    }
    assert requests == {"m0": 1, "m1": 1, "m2": 1, "other": 6}
    tokens = {
        dict(labels)["gen_ai_request_model"]: n
        for (name, labels), n in found.items()
        if name.endswith("usage_sum") and ("gen_ai_token_type", "input") in labels
    }
    assert tokens == {"m0": 1, "m1": 1, "other": 7}


def test_what_others_tell_stands_there_too() -> None:
    counted = count(CHAT)
    counted.more.append(lambda: iter(["more 1\n"]))
    Gauge("few", "Of another part.", registry=counted.registry).set(2)
    found = {name: value for (name, labels), value in told(counted).items() if not labels}
    assert (found["more"], found["few"]) == (1, 2)


def test_limits_catalog_and_requests_in_flight_are_told() -> None:
    counted = count(Facts("chat/completions", "team", status=429, limit="tokens_per_day"))
    counted.in_flight = 3
    assert ("bud_gateway_catalog_seen_timestamp_seconds", frozenset()) not in told(counted)
    counted.seen_at = 12.5
    counted.took(Catalog(names={"a": {"m": Served("m", ())}, "b": {"m": Served("m", ())}}), troubles=4)
    found = {name: value for (name, labels), value in told(counted).items() if not labels - {("kind", "names")}}
    assert found == {
        "bud_gateway_catalog_objects": 2,
        "bud_gateway_catalog_seen_timestamp_seconds": 12.5,
        "bud_gateway_catalog_troubles": 4,
        "bud_gateway_requests_in_flight": 3,
    }
    limited = frozenset({("bud_project", "team"), ("limit", "tokens_per_day")})
    assert told(counted)["bud_gateway_limited_requests_total", limited] == 1
