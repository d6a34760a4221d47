"""The weights of a Deployment: those of its Model and of its adapters, as far as they are there."""

from __future__ import annotations

import re
from dataclasses import replace

from bud.api.conditions import READY, find
from bud.api.deployment import Adapter as Wanted
from bud.deployment.started import Started
from bud.deployment.view import ModelSeen, View
from bud.engines.node_cache import NodeCache, node_cache
from bud.engines.pod import Adapter, Weights, is_below
from bud.errors import InvalidError, WaitingError


def model_weights(view: View) -> Weights:
    """The weights of the Model itself.

    Raises `WaitingError` while they are not there, and `InvalidError` when they are an adapter or on a forbidden path.
    """
    name = view.spec.model_ref.name
    weights = _copy(view, name, view.model, field="spec.modelRef.name")
    if view.model is not None and view.model.status.adapter is not None:
        base = view.model.status.adapter.base or "the model that it was made for"
        raise InvalidError(
            f"Model {name} is an adapter: name {base} in spec.modelRef, and this one in spec.adapters",
            reason="ModelIsAdapter",
        )
    return weights


def adapters(view: View, started: Started | None) -> tuple[tuple[Adapter, ...], tuple[str, ...]]:
    """The adapters to load, and why others are not loaded yet.

    While pods run, one whose weights are missing is left out, or as it was before, so that they go on serving. Raises
    `WaitingError` when there are none yet, and `InvalidError` for an adapter that cannot work.
    """
    loaded: list[Adapter] = []
    lacking: list[str] = []
    before = {(adapter.name, adapter.model): adapter for adapter in started.adapters} if started is not None else {}
    for wanted in view.spec.adapters:
        _check_name(view, wanted)
        model = wanted.model_ref.name
        try:
            weights = _adapter_weights(view, wanted)
        except WaitingError as error:
            text = f"adapter {wanted.name}: {error}"
            if started is None:
                raise WaitingError(text, reason=error.reason) from error
            lacking.append(text)
            loaded += [before[key] for key in ((wanted.name, model),) if key in before]
        else:
            loaded.append(Adapter(wanted.name, model, weights))
    return tuple(loaded), tuple(lacking)


def as_started(weights: Weights, started: Weights) -> Weights:
    """The same copy in a cache that the administrator has since moved or sized otherwise restarts nobody."""
    now, then = weights.node_cache, started.node_cache
    same = now is not None and then is not None and (now.folder, now.digest) == (then.folder, then.digest)
    return replace(weights, node_cache=then) if same else weights


def check_path(view: View, name: str, weights: Weights) -> None:
    """Raises `InvalidError` for weights on a path of the node that the operator does not allow."""
    if weights.host_path and not is_below(weights.host_path, view.host_path_prefixes):
        raise InvalidError(f"hostPath {weights.host_path} of Model {name} is not allowed", reason="HostPathNotAllowed")


def _check_name(view: View, wanted: Wanted) -> None:
    if wanted.name == view.name:
        raise InvalidError(
            f"adapter {wanted.name} has the Deployment's own name, by which the model itself is called: rename it in "
            "spec.adapters",
            reason="AdapterNameTaken",
        )


def _adapter_weights(view: View, wanted: Wanted) -> Weights:
    name = wanted.model_ref.name
    seen = view.adapter_models.get(name)
    weights = _copy(view, name, seen, field=f"modelRef.name of adapter {wanted.name} in spec.adapters")
    check_path(view, name, weights)
    if weights.node_cache is not None:
        raise InvalidError(
            f"Model {name} of adapter {wanted.name} has spec.storage.mode PerNode, in which adapters cannot be kept: "
            "set it to Shared; the model itself may stay on the nodes",
            reason="AdapterStorageNotSupported",
        )
    found = seen.status.adapter if seen is not None else None
    if seen is None or found is None:
        raise InvalidError(
            f"Model {name} of adapter {wanted.name} is no adapter but a whole model: name the Model of a LoRA in "
            "spec.adapters, or serve this one by a Deployment of its own",
            reason="NotAnAdapter",
        )
    if found.type != "lora":
        raise InvalidError(
            f"Model {name} of adapter {wanted.name} is an adapter of type {found.type}; only lora can be loaded",
            reason="AdapterTypeNotSupported",
        )
    _check_base(view, wanted, seen)
    return weights


def _check_base(view: View, wanted: Wanted, adapter: ModelSeen) -> None:
    """Refuses only what is surely wrong: files name their base in many ways, and some do not."""
    base = view.model
    told = adapter.status.adapter.base if adapter.status.adapter is not None else ""
    if base is None or not base.current:
        return
    of, on = adapter.status.architecture, base.status.architecture
    if adapter.status.format == base.status.format == "gguf" and of and on and of != on:
        what, have = f"a {of} model", f"a {on} model"
    elif base.repo and not may_be_same(told, base.repo):
        what, have = told, base.repo
    else:
        return
    raise InvalidError(
        f"adapter {wanted.name} (Model {wanted.model_ref.name}) was made for {what}, and Model "
        f"{view.spec.model_ref.name} is {have}; name the adapter's own base in spec.modelRef, or another adapter",
        reason="AdapterBaseMismatch",
    )


def may_be_same(told: str, repo: str) -> bool:
    """Whether what an adapter's files call their base may be the repository `repo` of a hub.

    Owners differ between mirrors, and names by what was done to the weights (`-GGUF`, `-bnb-4bit`): the words of one
    name must stand in the other. A path of the machine that trained the adapter tells nothing.
    """
    address = re.fullmatch(r"https?://[^/]+/(.+?)/?", told)
    name = address[1] if address else told
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        return True
    words, others = _words(name), _words(repo)
    return _stand_in(words, others) or _stand_in(others, words)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.rpartition("/")[2].lower())


def _stand_in(part: list[str], words: list[str]) -> bool:
    return any(words[at : at + len(part)] == part for at in range(len(words) - len(part) + 1))


def _copy(view: View, name: str, model: ModelSeen | None, *, field: str) -> Weights:
    if model is None:
        raise WaitingError(
            f"no Model {name} in namespace {view.namespace}; create it or correct {field}", reason="ModelNotFound"
        )
    status = model.status
    # A Model that waits for its users to go still has its weights.
    whole = status.phase in ("Available", "Deleting") and model.current
    if not whole or not status.copies:
        if status.phase == "Error":
            raise WaitingError(f"Model {name} failed; see kubectl describe bmodel {name}", reason="ModelFailed")
        raise WaitingError(f"Model {name} is {_progress(model)}", reason="ModelNotReady")
    copy = status.copies[0]
    cache = _node_cache(view, name, model, copy.path)
    return Weights(
        claim_name=copy.claim_name,
        host_path=model.host_path,
        directory="" if cache is not None else copy.path,
        file=status.file,
        bytes=status.bytes or 0,
        format=status.format,
        task=status.task,
        node_cache=cache,
    )


def _node_cache(view: View, name: str, model: ModelSeen, folder: str) -> NodeCache | None:
    if model.spec is None or model.spec.storage.mode != "PerNode":
        return None
    if view.node_storage is None:
        raise WaitingError(
            f"Model {name} has spec.storage.mode PerNode, which this operator was not started for; "
            "ask the administrator for --node-cache-path and --node-cache-size, or set the mode to Shared",
            reason="NodeCacheNotEnabled",
        )
    return node_cache(model.spec, model.status, view.node_storage, folder=folder)


def _progress(model: ModelSeen) -> str:
    if not model.current or model.status.phase is None:
        return "not looked at yet"
    ready = find(model.status.conditions, READY)
    why = f" ({ready.reason})" if ready is not None and ready.reason != model.status.phase else ""
    return model.status.phase + why
