"""`make demo`: from nothing to a completion by a real engine, through the gateway, on a real Kubernetes, in a few minutes.

What it starts it also stops, however it ends; with KEEP=1 the cluster stays and its use is printed.
"""

import base64
import functools
import hashlib
import http.server
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import image
from tests.cluster import running, tools
from tests.cluster.failure import Failed
from tests.cluster.handle import Cluster
from tests.forwarding import port_forward
from tests.tiny_model import write_tiny_model

_ROOT = Path(__file__).parents[1]
_NAME = "demo"
_MODEL_MB = 80
_BYTES_PER_SECOND = 7_000_000
_PATIENCE_SECONDS = 180
_TROUBLE_SECONDS = 20

_OBJECTS = """\
apiVersion: bud.studio/v1alpha1
kind: Model
metadata: {name: tiny-llama}
spec:
  source: {url: {url: "http://HOST/tiny-llama.gguf"}}
  sha256: {tiny-llama.gguf: SHA256}
  storage: {size: 100Mi}
---
apiVersion: bud.studio/v1alpha1
kind: Deployment
metadata: {name: tiny-llama}
spec:
  modelRef: {name: tiny-llama}
  runtimeRef: {name: tiny}
  resources: {cpu: 200m, memory: 512Mi}
  autoScaling: {minReplicas: 1, maxReplicas: 2, targetCPU: 80}
"""

_TEAM = """\
apiVersion: bud.studio/v1alpha1
kind: Project
metadata: {name: demo}
spec: {namespace: default}
---
apiVersion: bud.studio/v1alpha1
kind: APIKey
metadata: {name: alice}
spec:
  limits: {requestsPerMinute: 60}
"""

_KEPT = """\
done; the cluster stays, with its kubeconfig in the next line. Try:
         kubectl get bud
         kubectl describe mdep tiny-llama
         .venv/bin/python -m tests.cluster down --name demo    (takes it down)"""


_QUESTION: dict[str, Any] = {
    "model": "tiny-llama",
    "messages": [{"role": "user", "content": "What does an untrained model say?"}],
    "max_tokens": 24,
    # Random weights say noise; llama.cpp is told to keep to letters, for the terminal's sake.
    "grammar": "root ::= [a-z ]+",
}


class Screen:
    """What the demo prints: a line for each step, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def step(self, text: str) -> None:
        """Say that something is so, or begins."""
        print(f"{time.monotonic() - self._start:6.1f}s  {text}", flush=True)

    def detail(self, text: str) -> None:
        """Print lines that belong to the step before."""
        for line in text.rstrip().splitlines():
            print(f"         {line}", flush=True)

    def run(self, cluster: Cluster, command: str, *, stdin: str | None = None) -> None:
        """Print a command line, run it against the cluster, print what it says; Failed when it fails."""
        self.step(f"$ {command}")
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [tools.path(program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=_ROOT,
            env=cluster.environment(),
            check=False,
        )
        if done.returncode:
            raise Failed(f"{command}: {done.stderr.strip()}")
        self.detail(done.stdout)


class _SlowFiles(http.server.SimpleHTTPRequestHandler):
    """Serves files no faster than a fair internet connection would, so that there is progress to be seen."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with suppress(ConnectionError):
            while piece := source.read(_BYTES_PER_SECOND // 10):
                outputfile.write(piece)
                time.sleep(0.1)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


@contextmanager
def _web_server(folder: Path, address: str) -> Iterator[str]:
    """`folder` over HTTP at `address`, and at no other; gives host and port."""
    handler = functools.partial(_SlowFiles, directory=str(folder))
    with http.server.ThreadingHTTPServer((address, 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"{address}:{server.server_address[1]}"
        finally:
            server.shutdown()


def _install(screen: Screen, cluster: Cluster, built: image.Image) -> None:
    cluster.load_image(built.archive)
    screen.step(f"its image is on the node: {built.archive.stat().st_size / 1e6:.0f} MB")
    screen.run(
        cluster,
        "helm install bud-operator charts/bud-operator --namespace bud-system --create-namespace "
        f"--set image.repository={image.REPOSITORY},image.tag={built.tag} --wait --hide-notes",
    )


def _serve(screen: Screen, cluster: Cluster) -> None:
    with tempfile.TemporaryDirectory(prefix="bud-demo-") as folder:
        weights = write_tiny_model(Path(folder, "tiny-llama.gguf"), size_mb=_MODEL_MB)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        screen.step(f"a real model to download: random weights, {weights.stat().st_size / 1e6:.0f} MB of GGUF")
        with _web_server(Path(folder), cluster.host_address) as host:
            objects = _OBJECTS.replace("HOST", host).replace("SHA256", digest)
            screen.run(cluster, "kubectl apply -f -", stdin=objects)
            _follow(screen, cluster)


def _follow(screen: Screen, cluster: Cluster) -> None:
    """Print every change of the Model and the Deployment until the Deployment is Active."""
    shown: dict[str, str] = {}
    changed = time.monotonic()
    while True:
        for item in cluster.get("bmodel,mdep")["items"]:
            kind, line = item["kind"], _line(item)
            if shown.get(kind) != line:
                screen.step(f"{kind:<10} {line}")
                shown[kind], changed = line, time.monotonic()
        if shown.get("Deployment", "").startswith("Active"):
            return
        broken = any(line.startswith(("Error", "Failed")) for line in shown.values())
        if time.monotonic() - changed > (_TROUBLE_SECONDS if broken else _PATIENCE_SECONDS):
            log = cluster.kubectl("logs", "--namespace=bud-system", "deployment/bud-operator", "--tail=20")
            raise Failed(f"it does not become Active\n{cluster.kubectl('describe', 'bmodel,mdep')}\n{log}")
        time.sleep(0.25)


def _line(item: dict[str, Any]) -> str:
    status = item.get("status", {})
    ready: dict[str, Any] = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
    progress = status.get("progress", {}).get("percent", "")
    return f"{status.get('phase', 'new'):<12} {progress:<4} {ready.get('message', '')}".rstrip()


def _ask(screen: Screen, cluster: Cluster) -> None:
    service, question = _service(cluster), _QUESTION
    with port_forward(cluster, service) as base:
        screen.step(f"POST {base}/v1/chat/completions   (kubectl port-forward service/{service})")
        screen.detail(json.dumps(question))
        answer = _post(f"{base}/v1/chat/completions", question)
        shown = {key: answer[key] for key in ("object", "model", "choices", "usage")}
        screen.step("200 OK")
        screen.detail(json.dumps(shown, indent=2))
        _scale(screen, cluster, f"{base}/v1/chat/completions", question)


def _ask_gateway(screen: Screen, cluster: Cluster, service: str) -> None:
    """A Project, a key that the operator makes for it, and a question with that key."""
    screen.step("one address for all that is served: a project and a key of it")
    screen.run(cluster, "kubectl apply -f -", stdin=_TEAM)
    screen.run(cluster, "kubectl wait bkey/alice --for=jsonpath={.status.phase}=Active --timeout=60s")
    screen.run(cluster, "kubectl get bproj,bkey")
    screen.step("$ KEY=$(kubectl get secret alice -o jsonpath={.data.key} | base64 -d)")
    key = base64.b64decode(cluster.get("secret/alice")["data"]["key"]).decode()
    screen.detail(f"{key[:8]}… ({len(key)} characters)")
    with port_forward(cluster, service, namespace="bud-system") as base:
        screen.step(f"$ curl {base}/v1/chat/completions -H \"Authorization: Bearer $KEY\" -d '{json.dumps(_QUESTION)}'")
        screen.detail(f"(kubectl port-forward --namespace bud-system service/{service})")
        answer = _post(f"{base}/v1/chat/completions", _QUESTION, key=key)
        shown = {name: answer[name] for name in ("model", "choices", "usage", "conduit_metadata")}
        screen.detail(json.dumps(shown, indent=2))


def _service(cluster: Cluster) -> str:
    url: str = cluster.get("mdep/tiny-llama")["status"]["endpointURL"]
    return url.removeprefix("http://").partition(".")[0]


def _post(url: str, body: dict[str, Any], *, key: str = "") -> dict[str, Any]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def _scale(screen: Screen, cluster: Cluster, url: str, question: dict[str, Any]) -> None:
    screen.step("now with load, until the autoscaler adds a replica")
    enough = threading.Event()

    def load() -> None:
        while not enough.is_set():
            with suppress(OSError):
                _post(url, {**question, "max_tokens": 256})

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while cluster.get("mdep/tiny-llama")["status"].get("ready") != "2/2":
            if time.monotonic() > deadline:
                raise Failed(cluster.kubectl("describe", "hpa"))
            time.sleep(0.25)
        screen.run(cluster, "kubectl get bud,hpa,pods")
    finally:
        enough.set()
        thread.join()


def main() -> int:
    """Run the demo; its exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    screen = Screen()
    kept = bool(os.environ.get("KEEP"))
    try:
        screen.step("the operator's image, from the Dockerfile")
        built = image.image(say=screen.detail)
        screen.step("a Kubernetes of its own: control plane, a node, DNS, metrics")
        with running.cluster(_NAME, "node", kept=kept, say=screen.detail) as cluster:
            _install(screen, cluster, built)
            _serve(screen, cluster)
            _ask(screen, cluster)
            _ask_gateway(screen, cluster, "bud-operator-gateway")
            screen.step(_KEPT if kept else "done; everything is taken down again (KEEP=1 leaves it up)")
    except KeyboardInterrupt:
        print("\ninterrupted; what was started is stopped", file=sys.stderr)
        return 130
    except Failed as failure:
        print(f"\nthe demo failed: {failure}", file=sys.stderr)
        return 1
    if not kept:
        screen.step("all gone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
