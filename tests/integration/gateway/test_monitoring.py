"""The dashboards and alerts of the chart, seen by a real Prometheus that scrapes a real gateway."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml
from aiohttp import web

from bud.metrics import Metrics
from tests import fetched
from tests.gateway_process import KEY, key, project, provider, running_gateway
from tests.integration.gateway.upstream import USAGE, completion, failing, running
from tests.tiny_engine import free_port
from tests.waiting import eventually

CHART = Path(__file__).parents[3] / "charts/bud-operator"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}
ALERTS = CHART / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
QUERIES = [
    (name, panel["title"], target["expr"])
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for target in panel.get("targets", ())
]
VARIABLES = [
    (name, one["name"], one["query"]["query"])
    for name, dashboard in DASHBOARDS.items()
    for one in dashboard["templating"]["list"]
    if one["type"] == "query"
]
WITHOUT_DATA = {"Age of the oldest catalog"}
"""Known to a gateway that watches a cluster."""


@dataclass
class Prometheus:
    """A server that scrapes a gateway, at its port `inside`, and what an operator tells."""

    url: str
    callers: str
    inside: str

    def get(self, path: str, **parameters: str) -> Any:
        """What the API answers; see https://prometheus.io/docs/prometheus/latest/querying/api/."""
        told = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert told["status"] == "success", told
        return told["data"]

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.get("query", query=expression)["result"]
        return found


async def _answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if request.method == "GET" or body["model"] == "fails":
        return failing(503)
    if not body.get("stream"):
        return completion(body)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    word = {"model": "m", "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
    for chunk in (word, {"model": "m", "choices": [], "usage": USAGE}):
        await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        await asyncio.sleep(0.01)
    await response.write(b"data: [DONE]\n\n")
    return response


@pytest.fixture(scope="module")
def operator() -> Iterator[str]:
    """The metrics of an operator that leads and has written something."""
    metrics = Metrics()
    metrics.leading.set(1)
    metrics.objects.labels("Model", "Available").set(1)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            metrics.reconciles.labels("Model", "done").inc()
            metrics.duration.labels("Model").observe(0.01)
            metrics.writes.labels("apply", "Model").inc()
            metrics.downloaded.inc(1000)
            metrics.time_to_active.observe(30)
            text = metrics.render()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, operator: str) -> Iterator[Prometheus]:
    program, folder, port = (
        fetched.unpacked("prometheus", "prometheus"),
        tmp_path_factory.mktemp("p"),
        free_port(),
    )
    with running(_answer) as upstream:
        offers = [{"name": "m", "pricing": {"inputTokensPer1k": 1, "outputTokensPer1k": 2}}]
        objects = (
            project(), key(), key("bounded", "bud_bounded", limits={"requestsPerDay": 1}),
            provider("p", upstream.url, models=offers), provider("q", f"{upstream.url}/other", "fails"),
        )  # fmt: skip
        inside = free_port()
        with running_gateway(folder / "objects", *objects, options=("--metrics-port", str(inside))) as gateway:
            scraped = [
                {"job_name": name, "scrape_interval": "1s", "static_configs": [{"targets": [at]}]}
                for name, at in (("gateway", f"127.0.0.1:{inside}"), ("operator", operator))
            ]
            configuration = {
                "rule_files": [str(ALERTS)],
                "global": {"evaluation_interval": "1s"},
                "scrape_configs": scraped,
            }
            (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
            command: list[str | Path] = [
                program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
            ]  # fmt: skip
            with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
                try:
                    seen = Prometheus(f"http://127.0.0.1:{port}", gateway.url, f"http://127.0.0.1:{inside}")
                    for count in (1, 2):
                        _use(gateway.url)
                        eventually(partial(_has_seen, seen, count), within=30)
                    yield seen
                finally:
                    process.terminate()


def _use(url: str) -> None:
    """A few requests of each kind. Twice, with a scrape between: what grows has a rate from its second value on."""
    for model, stream, secret in (
        ("m", False, KEY), ("m", True, KEY), ("fails", False, KEY),
        ("m", False, "bud_bounded"), ("m", False, "bud_bounded"),
    ):  # fmt: skip
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {secret}"}, timeout=30)


def _has_seen(prometheus: Prometheus, count: int) -> None:
    try:
        found = prometheus.query('bud_gateway_requests_total{http_response_status_code="503"}')
        two = prometheus.query("count_over_time(bud_reconciles_total[1m]) >= 2")
    except httpx.TransportError as error:
        raise AssertionError from error
    assert [int(one["value"][1]) for one in found] == [count]
    assert two


def test_prometheus_reads_all_that_it_scrapes(prometheus: Prometheus) -> None:
    assert {one["health"] for one in prometheus.get("targets")["activeTargets"]} == {"up"}


def test_callers_are_shown_health_but_no_metrics(prometheus: Prometheus) -> None:
    def seen(url: str, secret: str = "") -> dict[str, int]:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        paths = ("healthz", "readyz", "metrics", "docs", "v1/models")
        return {path: httpx.get(f"{url}/{path}", headers=headers).status_code for path in paths}

    health = {"healthz": 200, "readyz": 200}
    assert seen(prometheus.callers) == health | {"metrics": 401, "docs": 200, "v1/models": 401}
    assert seen(prometheus.callers, KEY) == health | {"metrics": 404, "docs": 200, "v1/models": 200}
    assert seen(prometheus.inside, KEY) == health | {"metrics": 200, "docs": 404, "v1/models": 404}


@pytest.mark.parametrize(("dashboard", "panel", "expression"), QUERIES)
def test_each_panel_shows_something(prometheus: Prometheus, dashboard: str, panel: str, expression: str) -> None:
    for variable, value in {"$__rate_interval": "1m", "$project": ".*", "$model": ".*"}.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    found = prometheus.query(expression)
    assert bool(found) == (panel not in WITHOUT_DATA)
    assert "NaN" not in [one["value"][1] for one in found]
    if panel == "Requests by status":
        assert {one["metric"]["http_response_status_code"] for one in found} == {"200", "429", "503"}


@pytest.mark.parametrize(("dashboard", "variable", "query"), VARIABLES)
def test_each_variable_has_values(prometheus: Prometheus, dashboard: str, variable: str, query: str) -> None:
    parts = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
    assert parts is not None
    assert any(prometheus.get(f"label/{parts[2]}/values", **{"match[]": parts[1]}))


def test_the_legend_of_each_panel_names_labels_that_it_has(prometheus: Prometheus) -> None:
    for dashboard in DASHBOARDS.values():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                    assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


def test_the_rules_are_evaluated_and_the_upstream_that_fails_is_found(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == {rule["alert"]: "ok" for rule in RULES}
    assert {rule["name"] for rule in rules if rule["state"] != "inactive"} == {
        "BudGatewayErrors",
        "BudGatewayUpstreamDown",
    }


# For each alert: series that fire it, labels that it then has, and series that do not, over 30 minutes.
# The notation is that of https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/#series.
_WHO = 'bud_project="team",gen_ai_request_model="m"'
_REQUESTS = f"bud_gateway_requests_total{{{_WHO},http_response_status_code="
_FIRST = f"gen_ai_server_time_to_first_token_seconds_bucket{{{_WHO},le="
_OPEN = 'bud_gateway_upstream_circuit_open{bud_namespace="n",bud_target="t"}'
_SEEN = 'bud_gateway_catalog_seen_timestamp_seconds{instance="i"}'
_FAILING = 'bud_gateway_ledger_failing_seconds{instance="i",bud_project="team"}'
_SIZE = 'bud_gateway_ledger_bytes{instance="i",bud_project="team"}'
CASES: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "BudGatewayErrors": (
        {f'{_REQUESTS}"503"}}': "0+6x30", f'{_REQUESTS}"200"}}': "0+94x30"},
        {"bud_project": "team", "gen_ai_request_model": "m"},
        {f'{_REQUESTS}"503"}}': "0+4x30", f'{_REQUESTS}"429"}}': "0+50x30", f'{_REQUESTS}"200"}}': "0+46x30"},
    ),
    "BudGatewaySlow": (
        {f'{_FIRST}"5.0"}}': "0+90x30", f'{_FIRST}"10.0"}}': "0+100x30", f'{_FIRST}"+Inf"}}': "0+100x30"},
        {"bud_project": "team", "gen_ai_request_model": "m"},
        {f'{_FIRST}"5.0"}}': "0+96x30", f'{_FIRST}"10.0"}}': "0+100x30", f'{_FIRST}"+Inf"}}': "0+100x30"},
    ),
    "BudGatewayUpstreamDown": ({_OPEN: "1x30"}, {"bud_namespace": "n", "bud_target": "t"}, {_OPEN: "1x3 0x3 1x3 0x21"}),
    "BudGatewayStale": ({_SEEN: "0x30"}, {"instance": "i"}, {_SEEN: "0+60x30"}),
    "BudGatewayLedgerFailing": (
        {_FAILING: "0+60x30"}, {"instance": "i", "bud_project": "team"}, {_FAILING: "0 60 110 0 60 0x26"},
    ),
    "BudGatewayLedgerFull": ({_SIZE: "900000x30"}, {"bud_project": "team"}, {_SIZE: "800000x30"}),
    "BudOperatorNotLeading": (
        {'bud_leading{pod="a"}': "1x10 0x20", 'bud_leading{pod="b"}': "0x30"}, {},
        {'bud_leading{pod="a"}': "1x10 0x20", 'bud_leading{pod="b"}': "0x12 1x18"},
    ),
}  # fmt: skip
LEADS = {"bud_leading": "1x30"}


def test_each_alert_fires_in_its_case_and_not_otherwise(tmp_path: Path) -> None:
    assert set(CASES) == {rule["alert"] for rule in RULES}
    tests = [_case(name, fires, labels) for name, (fires, labels, _) in CASES.items()]
    tests += [_case(name, quiet, None) for name, (_, _, quiet) in CASES.items()]
    tests.append(_case("BudOperatorNotLeading", {}, {}))
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    promtool = fetched.unpacked("promtool", "prometheus")
    for command in (["check", "rules", str(ALERTS)], ["test", "rules", str(tmp_path / "tests.yaml")]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def _case(name: str, series: dict[str, str], labels: dict[str, str] | None) -> dict[str, Any]:
    """After half an hour the alert fires with these labels, or with None does not; and no other does."""
    others = {} if name == "BudOperatorNotLeading" else LEADS
    rules = {rule["alert"]: rule for rule in RULES}
    alerts = []
    for other, rule in rules.items():
        wanted: dict[str, Any] = {"eval_time": "30m", "alertname": other}
        if other == name and labels is not None:
            wanted["exp_alerts"] = [
                {"exp_labels": {**rule["labels"], **labels}, "exp_annotations": _texts(name, labels)}
            ]
        alerts.append(wanted)
    given = [{"series": one, "values": values} for one, values in {**series, **others}.items()]
    return {"interval": "1m", "input_series": given, "alert_rule_test": alerts}


def _texts(name: str, labels: dict[str, str]) -> dict[str, str]:
    """The alert's annotations with what stands for its labels and its value filled in."""
    values = {
        "BudGatewayErrors": "6%",
        "BudGatewaySlow": "7.5s",
        "BudGatewayUpstreamDown": "1",
        "BudGatewayStale": "30m 0s",
        "BudGatewayLedgerFailing": "30m 0s",
        "BudGatewayLedgerFull": "878.9ki",
    }
    annotations = next(rule["annotations"] for rule in RULES if rule["alert"] == name)

    def fill(found: re.Match[str]) -> str:
        return values[name] if found[1].startswith("$value") else labels[found[1].removeprefix("$labels.")]

    return {key: re.sub(r"{{ (\S+)(?: \| \w+)? }}", fill, text) for key, text in annotations.items()}
