"""The reference, line by line: a gateway before one strict upstream that answers as the documents say.

Documents: `chat` is Chat Completions, `concepts` is API Integration Concepts, `core` is Core APIs Overview, `facts` are
the facts from the product's other public pages. A row of a table names one of them and a line in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.upstream import USAGE, Upstream, completion, failing, running
from tests.tiny_engine import free_port

Json = dict[str, Any]
HI: list[Json] = [{"role": "user", "content": "Hello"}]
LIMITS = {"requestsPerDay": 1000, "tokensPerDay": 100_000}
STATUSES = (400, 404, 429, 500, 501, 503)
DOCUMENT: Json = {
    "id": "doc_1", "object": "document", "created": 1, "document_id": "1",
    "pages": [{"page_number": 1, "markdown": "# A"}], "document": {"md_content": "# A", "text_content": "A"},
    "usage_info": {"pages_processed": 1, "size_bytes": 9, "filename": "a.pdf"},
}  # fmt: skip
CLASSIFIED: Json = {
    "id": "classify-1", "object": "classification", "created": 1,
    "results": [{"category": "joy", "score": 0.9}, {"category": "anger", "score": 0.1}],
}  # fmt: skip
EMBEDDED: Json = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "usage": USAGE}
STREAM = (
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1677652288,"model":"%s","choices":'
    b'[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}\n\n'
    b'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1677652288,"model":"%s","choices":'
    b'[{"index":0,"delta":{"content":" there"},"finish_reason":null}]}\n\n'
    b"data: [DONE]\n\n"
)
"""Core, lines 203-207."""
DATED = {"gpt-4": "gpt-4-0613", "gpt-3.5-turbo": "gpt-3.5-turbo-0125", "adapted": "/mnt/adapted"}
"""What answers calls itself otherwise: core, line 428."""
ANSWERS: dict[str, Json] = {
    "completions": {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [{"index": 0, "text": "x"}],
        "usage": USAGE,
    },
    "embeddings": EMBEDDED,
    "classify": CLASSIFIED,
    "rerank": {"results": [{"index": 0, "relevance_score": 0.5}]},
    "images/generations": {"created": 1, "data": [{"url": "https://example.com/a.png"}]},
    "audio/transcriptions": {"text": "hello"},
    "audio/translations": {"text": "hello"},
    "documents": DOCUMENT,
    "responses": {"id": "resp_1", "object": "response"},
}


async def read(request: web.Request) -> Json:
    """JSON as it is, forms as their fields."""
    if request.content_type == "multipart/form-data":
        return dict(await request.post())
    found: Json = orjson.loads(await request.read())
    return found


async def answer(request: web.Request, body: Json) -> web.StreamResponse:
    """As the documents say, and nothing that they do not name. A model `status-N` fails with N.

    Some models answer by another name than they are asked by.
    """
    path = request.path.removeprefix("/v1/")
    model: Any = DATED.get(body["model"], body["model"])
    if isinstance(model, str) and model.startswith("status-"):
        return failing(int(model.removeprefix("status-")), "because")
    if path == "audio/speech":
        return web.Response(body=b"sound", content_type="audio/mpeg")
    if path == "chat/completions" and body.get("stream"):
        text = STREAM.replace(b"%s", model.encode())
        return web.Response(body=text, content_type="text/event-stream")
    if path == "chat/completions" and "functions" in body and body.get("function_call") != "none":
        called = {"name": "get_current_weather", "arguments": '{"location": "Boston, MA"}'}
        message = {"role": "assistant", "content": None, "function_call": called}
        choice = {"index": 0, "message": message, "finish_reason": "function_call"}
        return completion(body, model=model, choices=[choice])
    if path == "chat/completions":
        return completion(body, model=model)
    return web.json_response(ANSWERS[path] | {"model": model})


@dataclass(frozen=True)
class Reference:
    """The gateway and what stands behind it."""

    gateway: GatewayProcess
    upstream: Upstream
    client: httpx.Client

    def ask(self, path: str, body: Any = None, *, secret: str | None = KEY, **headers: str) -> httpx.Response:
        """POSTs JSON, or GETs where there is no body. Header names are written with underscores."""
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if secret is not None:
            told["Authorization"] = f"Bearer {secret}"
        if body is None:
            return self.client.get(path, headers=told)
        return self.client.post(path, json=body, headers=told)

    def chat(self, model: str = "gpt-4", *, secret: str = KEY, **more: Any) -> httpx.Response:
        return self.ask("/v1/chat/completions", {"model": model, "messages": HI, **more}, secret=secret)

    @property
    def last(self) -> Mapping[str, Any]:
        """The body that the upstream saw last."""
        return self.upstream.asked[-1][2]


@contextmanager
def running_reference(folder: Path) -> Iterator[Reference]:
    """The gateway with what the documents name: `gpt-4` of OpenAI, a deployment, limits, and scopes."""
    with running(answer, read=read) as upstream:
        known = {
            "name": "gpt-4",
            "capabilities": ["chat", "function_calling"],
            "contextLength": 8192,
            "maxOutputTokens": 4096,
            "pricing": {"inputTokensPer1k": "0.03", "outputTokensPer1k": "0.06"},
        }
        deployment = {
            "apiVersion": "bud.studio/v1alpha1", "kind": "Deployment", "metadata": {"name": "llama-3.2-1b"},
            "spec": {"modelRef": {"name": "m"}, "adapters": [{"name": "adapted", "modelRef": {"name": "a"}}]}, "status": {"endpointURL": upstream.url, "readyReplicas": 1},
        }  # fmt: skip
        once = {"targets": [{"providerRef": {"name": "failing", "model": "status-500"}}], "retries": 0}
        routed = {"targets": [{"providerRef": {"name": "openai", "model": "gpt-4"}}]}
        objects = (
            project(),
            key(),
            key("limited", "bud_limited", limits=LIMITS),
            key("spent", "condt_spent", limits={"requestsPerDay": 1}),
            key("narrow", "bud_narrow", scopes={"endpoints": ["embeddings", "models"], "models": ["gpt-4*"]}),
            deployment,
            made("Route", "once", once),
            made("Route", "routed", routed),
            provider("openai", upstream.url, kind="OpenAI", models=[known, {"name": "gpt-3.5-turbo"}]),
            provider("failing", upstream.url, *(f"status-{status}" for status in STATUSES)),
            provider("dead", f"http://127.0.0.1:{free_port()}/v1", "backed-up", "dead", priority=9),
            provider("backup", upstream.url, "backed-up"),
        )
        with (
            running_gateway(folder, *objects) as gateway,
            httpx.Client(base_url=gateway.url, timeout=30) as client,
        ):
            yield Reference(gateway, upstream, client)
