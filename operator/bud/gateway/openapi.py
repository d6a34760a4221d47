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
    "schema": {"type": "string", "maxLength": 128},
    "description": "Taken for the request's id, in the answer, in logs and upstream.",
}
_ONCE = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "The same key and body gives the same answer, for a day.",
}


def document(version: str) -> Object:
    """The whole description."""
    asks = {**ASKS, **FORMS}
    _, schemas = models_json_schema([(ask, "validation") for ask in asks.values()], ref_template=_REF)
    paths: Object = {f"/v1/{endpoint}": {"post": _sends(endpoint, ask)} for endpoint, ask in asks.items()}
    for path in ("/v1/realtime", "/v1/realtime/connect"):
        paths[path] = {"get": _joins(path)}
    paths["/v1/models"] = {"get": _shows("Models that the key may name", "list_models")}
    one = _shows("One model", "retrieve_model")
    one["parameters"].append(
        {"name": "model", "in": "path", "required": True, "schema": _TEXT, "description": "It may hold slashes."}
    )
    one["responses"]["404"] = _refused(UnknownModel)
    paths["/v1/models/{model}"] = {"get": one}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bud gateway", "version": version, "description": "OpenAI's API for everything served."},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {**schemas["$defs"], "Error": _ERROR},
        },
    }


def _sends(endpoint: str, ask: type[BaseModel]) -> Object:
    given = "multipart/form-data" if endpoint in FORMS else "application/json"
    content: Object = {"application/json": {"schema": {}}}
    if "stream" in ask.model_fields:
        content["text/event-stream"] = {"schema": _TEXT}
    if endpoint == "audio/speech":
        content = {"audio/*": {"schema": {"type": "string", "format": "binary"}}}
    kinds: tuple[type[Refusal], ...] = (Invalid, Unauthenticated, NotAllowed, UnknownModel, Limited, Unavailable)
    return {
        "summary": (ask.__doc__ or "").strip(" .`"),
        "operationId": endpoint.replace("/", "_"),
        "parameters": [_ID, _ONCE],
        "requestBody": {
            "required": True,
            "content": {given: {"schema": {"$ref": _REF.format(model=ask.__name__)}}},
        },
        "responses": {"200": {"description": "The model's answer.", "content": content}, **_refusals(*kinds)},
    }


def _joins(path: str) -> Object:
    model = {"name": "model", "in": "query", "required": True, "schema": _TEXT}
    return {
        "summary": "A WebSocket, joined with the model's",
        "operationId": path.removeprefix("/v1/").replace("/", "_"),
        "parameters": [model, _ID],
        "responses": {
            "101": {"description": "The WebSocket."},
            **_refusals(Invalid, Unauthenticated, NotAllowed, UnknownModel, Limited, Unavailable),
        },
    }


def _shows(summary: str, name: str) -> Object:
    return {
        "summary": summary,
        "operationId": name,
        "parameters": [_ID],
        "responses": {
            "200": {"description": summary, "content": {"application/json": {"schema": {"type": "object"}}}},
            **_refusals(Unauthenticated, NotAllowed),
        },
    }


def _refusals(*kinds: type[Refusal]) -> Object:
    told = {str(kind.status): _refused(kind) for kind in kinds}
    return told | {"default": {**_refused(Refusal), "description": "Any other fault."}}


def _refused(kind: type[Refusal]) -> Object:
    content = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    return {"description": (kind.__doc__ or "").strip().splitlines()[0], "content": content}


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
