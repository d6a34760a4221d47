"""The API's own description: an OpenAPI 3.1 document out of what requests are checked by, and a page that shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bud.gateway.asks import ASKS, FORMS
from bud.gateway.refusal import (
    Invalid,
    Limited,
    NotAllowed,
    Refusal,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)

Object = dict[str, Any]

_REF = "#/components/schemas/{model}"
_TEXT = {"type": "string"}
_MAYBE = {"type": ["string", "null"]}
_ERROR: Object = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": _MAYBE, "code": _MAYBE},
        }
    },
}
_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "schema": _TEXT,
    "description": "The request's id, in the answer, in logs and upstream; a new one is made for any that is not "
    "printable ASCII of at most 128 characters.",
}
_ONCE = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "description": "The same key and body gives the same answer, for a day.",
}
_COUNT = {"schema": {"type": "integer", "minimum": 0}}
_HEADERS: Object = {
    "X-Request-ID": {"required": True, "schema": _TEXT},
    **{
        f"X-RateLimit-{what}-{unit}": {**_COUNT, "description": f"{text}; for keys with such a limit."}
        for unit in ("Requests", "Tokens")
        for what, text in (
            ("Limit", "The limit"),
            ("Remaining", "What is left"),
            ("Reset", "When it begins anew, in epoch seconds"),
        )
    },
}
_TOLD: Object = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}
"""Headers of every answer below /v1."""
_REFUSALS: tuple[type[Refusal], ...] = (
    Invalid,
    Unauthenticated,
    NotAllowed,
    UnknownModel,
    Limited,
    Unavailable,
    Refusal,
)
_PRICES = {"input_tokens_per_1k": {"type": "number"}, "output_tokens_per_1k": {"type": "number"}}
_FIELDS: Object = {
    "id": _TEXT,
    "object": {"const": "model"},
    "created": {"type": "integer"},
    "owned_by": _TEXT,
    "provider": _TEXT,
    "capabilities": {"type": ["array", "null"], "items": _TEXT},
    "context_length": {"type": ["integer", "null"]},
    "max_output_tokens": {"type": ["integer", "null"]},
    "pricing": {
        "type": ["object", "null"],
        "required": list(_PRICES),
        "properties": {**_PRICES, "per_request": {"type": "number"}, "per_replica_hour": {"type": "number"}},
        "additionalProperties": False,
        "description": "US dollars; the last two where they are set.",
    },
    "ready": {"type": "boolean", "description": "Whether anything that answers to it is known to work."},
}
_SHOWN: Object = {
    "Model": {"type": "object", "required": list(_FIELDS), "properties": _FIELDS, "additionalProperties": False},
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": _REF.format(model="Model")}},
        },
        "additionalProperties": False,
    },
}
_SERVERS = [
    {"url": "/"},
    {"url": "/projects/{project}", "variables": {"project": {"default": "default"}}},
    {
        "url": "/projects/{project}/deployments/{deployment}",
        "variables": {"project": {"default": "default"}, "deployment": {"default": "model"}},
        "description": "`model` may be left out.",
    },
]


def document(version: str, *, metrics: bool) -> Object:
    """The whole description; `metrics` tells whether callers are shown those."""
    asks = {**ASKS, **FORMS}
    _, schemas = models_json_schema([(ask, "validation") for ask in asks.values()], ref_template=_REF)
    paths: Object = {f"/v1/{endpoint}": {"post": _sends(endpoint, ask)} for endpoint, ask in asks.items()}
    for path in ("/v1/realtime", "/v1/realtime/connect"):
        paths[path] = {"get": _joins(path)}
    paths["/v1/models"] = {"get": _shows("Models that the key may name", "list_models", "Models")}
    one = _shows("One model", "retrieve_model", "Model")
    one["parameters"].append(
        {"name": "model", "in": "path", "required": True, "schema": _TEXT, "description": "It may hold slashes."}
    )
    one["responses"] |= _refusals(UnknownModel)
    paths["/v1/models/{model}"] = {"get": one}
    for path, summary in (("/healthz", "Whether it lives"), ("/readyz", "Whether it can serve")):
        paths[path] = {"get": _open(summary, "application/json")}
    if metrics:
        paths["/metrics"] = {"get": _open("Metrics for Prometheus", "text/plain")}
    for endpoint, form in FORMS.items():
        told = schemas["$defs"][form.__name__]
        told["properties"]["file"] = {"type": "string", "format": "binary", "description": "Sound, at most 200 MiB."}
        told["required"] = [*told["required"], "file"]
        paths[f"/v1/{endpoint}"]["post"]["parameters"].remove(_ONCE)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bud gateway", "version": version, "description": "OpenAI's API for everything served."},
        "servers": _SERVERS,
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {**schemas["$defs"], **_SHOWN, "Error": _ERROR},
            "headers": _HEADERS,
            "responses": {kind.__name__: _refused(kind) for kind in _REFUSALS},
        },
    }


def _sends(endpoint: str, ask: type[BaseModel]) -> Object:
    given = "multipart/form-data" if endpoint in FORMS else "application/json"
    content: Object = {"application/json": {"schema": {}}}
    if "stream" in ask.model_fields:
        content["text/event-stream"] = {"schema": {}}
    if endpoint == "audio/speech":
        content = {"audio/*": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "summary": (ask.__doc__ or "").strip(" .`"),
        "operationId": endpoint.replace("/", "_"),
        "parameters": [_ID, _ONCE],
        "requestBody": {
            "required": True,
            "content": {given: {"schema": {"$ref": _REF.format(model=ask.__name__)}}},
        },
        "responses": {
            "200": {"description": "The model's answer.", "headers": _TOLD, "content": content},
            **_refusals(*_REFUSALS[:-1]),
        },
    }


def _joins(path: str) -> Object:
    model = {"name": "model", "in": "query", "required": True, "schema": _TEXT}
    return {
        "summary": "A WebSocket, joined with the model's",
        "operationId": path.removeprefix("/v1/").replace("/", "_"),
        "parameters": [model, _ID],
        "responses": {
            "101": {"description": "The WebSocket."},
            **_refusals(*_REFUSALS[:-1]),
        },
    }


def _shows(summary: str, name: str, schema: str) -> Object:
    content = {"application/json": {"schema": {"$ref": _REF.format(model=schema)}}}
    return {
        "summary": summary,
        "operationId": name,
        "parameters": [_ID],
        "responses": {
            "200": {"description": summary, "headers": _TOLD, "content": content},
            **_refusals(Unauthenticated, NotAllowed),
        },
    }


def _open(summary: str, media: str) -> Object:
    """What is shown without a key, and at the root alone."""
    return {
        "summary": summary,
        "security": [],
        "servers": _SERVERS[:1],
        "responses": {"200": {"description": summary, "content": {media: {"schema": {}}}}},
    }


def _refusals(*kinds: type[Refusal]) -> Object:
    told = {str(kind.status): kind for kind in kinds} | {"default": Refusal}
    return {status: {"$ref": f"#/components/responses/{kind.__name__}"} for status, kind in told.items()}


def _refused(kind: type[Refusal]) -> Object:
    content = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    again = {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer", "minimum": 1}}}
    text = "Any other fault." if kind is Refusal else (kind.__doc__ or "").strip().splitlines()[0]
    return {"description": text, "headers": _TOLD | (again if kind is Limited else {}), "content": content}


def page(described: Mapping[str, Any]) -> str:
    """The description for people, in HTML that loads nothing."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(described['info']['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{escape(described['info']['title'])}</h1><p>{escape(described['info']['description'])} "
        "<a href=openapi.json>openapi.json</a></p>" + "".join(_sections(described)) + "</html>"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0}"
    "code{font:14px ui-monospace,monospace}h2{margin-top:2rem;border-top:1px solid #ccc;padding-top:1rem}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#111}a{color:#8cf}}"
)


def _sections(described: Mapping[str, Any]) -> Iterator[str]:
    schemas = described["components"]["schemas"]
    for path, methods in described["paths"].items():
        for method, told in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(told['summary'])}</p>"
            if "requestBody" in told:
                (content,) = told["requestBody"]["content"].values()
                reference = content["schema"]["$ref"]
                yield _table(schemas[reference.rpartition("/")[2]])
            codes = ", ".join(code for code in told["responses"] if code.isdigit())
            yield f"<p>Answers: {escape(codes)}</p>"


def _table(schema: Mapping[str, Any]) -> str:
    needed = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{'yes' if name in needed else ''}</td>"
        f"<td><code>{escape(_kind(field))}</code></td></tr>"
        for name, field in schema["properties"].items()
    )
    return f"<table><tr><th>Parameter</th><th>Required</th><th>Value</th></tr>{rows}</table>"


def _kind(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"] if one.get("type") != "null")
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    bounds = {"minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "maxItems": "at most"}
    limits = " ".join(f"{sign} {field[name]}" for name, sign in bounds.items() if name in field)
    inner = f" of {_kind(field['items'])}" if field.get("items") else ""
    return f"{field.get('type', 'anything')}{inner} {limits}".strip()
