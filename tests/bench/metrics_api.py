"""The metrics API for pods that KWOK plays: each uses a changing part of the CPU it asked for, so that autoscalers live.

The API server proxies to it through a Service of type ExternalName, as it would to a metrics server.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from bud.engines.pod import ENGINE
from bud.kube.kinds import CHILD_SELECTOR, OWNER_NAME, PODS
from tests.bench.stage import NAMESPACE, Stage
from tests.cluster import pki
from tests.fleet import Object, listed

_GROUP = "metrics.k8s.io"
_VERSION = f"{_GROUP}/v1beta1"
_ROOT = f"/apis/{_VERSION}"
_SERVICE = "metrics"


@asynccontextmanager
async def metrics_api(stage: Stage) -> AsyncIterator[None]:
    """Serves for as long as the block runs, for the pods that are there now."""
    found = await listed(stage.client, PODS, namespace=NAMESPACE, selector=CHILD_SELECTOR)
    pods = {pod["metadata"]["labels"][OWNER_NAME]: pod["metadata"]["name"] for pod in found}
    app = web.Application()
    app.router.add_get(_ROOT, _discovery)

    async def figures(request: web.Request) -> web.Response:
        labels = dict(part.partition("=")[::2] for part in request.query.get("labelSelector", "").split(","))
        name = pods.get(labels.get(OWNER_NAME, ""))
        items = [_pod_metrics(name, labels)] if name else []
        return web.json_response({"kind": "PodMetricsList", "apiVersion": _VERSION, "metadata": {}, "items": items})

    app.router.add_get(f"{_ROOT}/namespaces/{NAMESPACE}/pods", figures)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_tls())
        await site.start()
        port: int = runner.addresses[0][1]
        await asyncio.to_thread(_register, stage, port)
        yield
    finally:
        await runner.cleanup()


async def _discovery(_: web.Request) -> web.Response:
    resource = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}
    return web.json_response(
        {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": _VERSION, "resources": [resource]}
    )


def _pod_metrics(name: str, labels: dict[str, str]) -> Object:
    usage = {"cpu": f"{random.randrange(50, 80)}m", "memory": f"{random.randrange(50, 100)}Mi"}
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "timestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "window": "15s",
        "containers": [{"name": ENGINE, "usage": usage}],
    }


def _register(stage: Stage, port: int) -> None:
    cluster = stage.own.cluster
    cluster.apply(*_registration(port))
    cluster.kubectl("wait", "--for=condition=Available", f"apiservice/v1beta1.{_GROUP}", "--timeout=50s")


def _registration(port: int) -> tuple[Object, Object]:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _SERVICE, "namespace": "kube-system"},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    api = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"v1beta1.{_GROUP}"},
        "spec": {
            "group": _GROUP,
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": _SERVICE, "namespace": "kube-system", "port": port},
        },
    }
    return service, api


def _tls() -> ssl.SSLContext:
    pair = pki.Authority().server(["localhost"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "crt"), Path(folder, "key")
        certificate.write_bytes(pair.certificate)
        pki.write_private(key, pair.key)
        context.load_cert_chain(certificate, key)
    return context
