"""Adapters (LoRA) beside a model: the engine's arguments for them, their mounts, and the relay where one is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from bud.api.runtime import AdapterSelection, RuntimeAdapters
from bud.engines.pod import CONTAINER_SECURITY, RELAY, RELAY_PORT, Adapter, Beside, Document, Engine, volume_source
from bud.engines.select import references_of
from bud.errors import InvalidError, WaitingError

FOLDER = "/adapters"


def beside(adapters: tuple[Adapter, ...], *, engine: Engine, model_name: str) -> Beside:
    """What the adapters add to a pod. Raises `InvalidError` and `WaitingError` for those that the Runtime cannot load.

    `model_name` is that of the model itself, which a request may ask for too.
    """
    if not adapters:
        return Beside()
    how = engine.runtime.adapters
    if how is None:
        raise InvalidError(
            f"Runtime {engine.runtime_name} loads no adapters: name another in spec.runtimeRef or remove spec.adapters",
            reason="AdaptersNotSupported",
        )
    for adapter in adapters:
        _check(adapter, engine, how)
    return Beside(
        args=_args(adapters, how),
        volumes=tuple({"name": f"adapter-{n}", **volume_source(a.weights)} for n, a in enumerate(adapters)),
        mounts=tuple(
            {"mountPath": f"{FOLDER}/{a.name}", "name": f"adapter-{n}", "readOnly": True}
            for n, a in enumerate(adapters)
        ),
        names=tuple(adapter.name for adapter in adapters),
        relay=_relay(adapters, how.select, engine, model_name) if how.select is not None else None,
        bytes=sum(adapter.weights.bytes for adapter in adapters),
    )


def _check(adapter: Adapter, engine: Engine, how: RuntimeAdapters) -> None:
    name, runtime, weights = engine.runtime_name, engine.runtime, adapter.weights
    if weights.format not in runtime.formats:
        raise InvalidError(
            f"adapter {adapter.name} (Model {adapter.model}) is {weights.format}, and Runtime {name} loads "
            f"{', '.join(runtime.formats)}; give it in that format, or name another Runtime in spec.runtimeRef",
            reason="FormatNotSupported",
        )
    if "BUD_ADAPTER_FILE" in references_of((how.each,)) and not weights.file:
        raise WaitingError(
            f"Runtime {name} loads an adapter from one file, and Model {adapter.model} has several of which none is "
            "the main one; narrow the Model's source, as with allowPatterns",
            reason="ModelFileUnknown",
        )


def _args(adapters: tuple[Adapter, ...], how: RuntimeAdapters) -> tuple[str, ...]:
    count = {"BUD_ADAPTER_COUNT": str(len(adapters))}
    once = [_filled(arg, count) for arg in how.args]
    each = [_filled(how.each, count | _values(adapter)) for adapter in adapters]
    return (*once, *(each if how.separator is None else [how.separator.join(each)]))


def _values(adapter: Adapter) -> dict[str, str]:
    folder, weights = f"{FOLDER}/{adapter.name}", adapter.weights
    path = "/".join(part for part in (folder, weights.directory) if part)
    file = f"{folder}/{weights.file}" if weights.file else path
    return {"BUD_ADAPTER_NAME": adapter.name, "BUD_ADAPTER_PATH": path, "BUD_ADAPTER_FILE": file}


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Kubernetes expands variables of the whole container only, so those of one adapter are put in here."""
    for name, value in values.items():
        text = text.replace(f"$({name})", value.replace("$", "$$"))
    return text


def _relay(adapters: Iterable[Adapter], select: AdapterSelection, engine: Engine, model_name: str) -> Document:
    names = [adapter.name for adapter in adapters]
    fields = {name: {select.field: _value(select, names, name)} for name in names}
    # An engine that takes scales keeps those of the request before where one says nothing.
    fields[model_name] = {select.field: _value(select, names, "")} if select.value == "Scales" else {}
    values = {
        "BUD_RELAY_ENGINE": f"http://127.0.0.1:{engine.runtime.port}",
        "BUD_RELAY_MODEL": model_name,
        "BUD_RELAY_FIELDS": orjson.dumps(fields, option=orjson.OPT_SORT_KEYS).decode(),
        "BUD_RELAY_PORT": str(RELAY_PORT),
    }
    return {
        "command": ["bud-relay"],
        "env": [{"name": name, "value": value} for name, value in values.items()],
        "image": engine.operator_image,
        "livenessProbe": {
            "failureThreshold": 6,
            "periodSeconds": 10,
            "tcpSocket": {"port": RELAY_PORT},
            "timeoutSeconds": 5,
        },
        "name": RELAY,
        "readinessProbe": {
            "failureThreshold": 3,
            "httpGet": {"path": engine.runtime.health_path, "port": RELAY_PORT, "scheme": "HTTP"},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
        },
        "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "20m", "memory": "64Mi"}},
        "restartPolicy": "Always",
        "securityContext": CONTAINER_SECURITY,
    }


def _value(select: AdapterSelection, names: list[str], wanted: str) -> Any:
    if select.value == "Name":
        return wanted
    return [{"id": number, "scale": int(name == wanted)} for number, name in enumerate(names)]
