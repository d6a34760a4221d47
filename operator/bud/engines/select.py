"""Which Runtime serves a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bud.api.runtime import RuntimeSpec
from bud.errors import InvalidError

VARIABLES = frozenset(
    {"BUD_MODEL_PATH", "BUD_MODEL_FILE", "BUD_MODEL_NAME", "BUD_PORT", "BUD_GPU_COUNT", "BUD_CPU_COUNT"}
)
"""What a Runtime's arguments may refer to, besides its own env."""
ADAPTER_VARIABLES = frozenset({"BUD_ADAPTER_COUNT", "BUD_ADAPTER_NAME", "BUD_ADAPTER_PATH", "BUD_ADAPTER_FILE"})
"""What the argument for one adapter may refer to, too."""


@dataclass(frozen=True, slots=True)
class Wants:
    """What a Deployment asks of a Runtime: the format of the weights, the task, the number of GPUs and their vendor,
    and whether adapters are to be loaded."""

    format: str
    task: str
    gpu: int
    vendor: str = "NVIDIA"
    adapters: bool = False


def choose(runtimes: Mapping[str, RuntimeSpec], wants: Wants) -> str:
    """Name of the Runtime that loads the format, serves the task and fits the accelerator: one that loads adapters
    where they are wanted, then the highest priority, then the first by name.

    Raises `InvalidError` that says what was looked for and what there is.
    """
    fits = [
        (wants.adapters and spec.adapters is None, -spec.priority, name)
        for name, spec in runtimes.items()
        if wants.format in spec.formats and wants.task in spec.tasks and accepts(spec, wants)
    ]
    if fits:
        return min(fits)[2]
    have = ", ".join(sorted(runtimes)) or "none"
    where = f"with {wants.gpu} {wants.vendor} GPUs" if wants.gpu else "on CPU"
    raise InvalidError(
        f"no Runtime loads {wants.format} weights for {wants.task} {where} (Runtimes: {have}); "
        "set spec.runtimeRef, the Model's format or task, or change spec.resources.gpu, or add a Runtime",
        reason="NoRuntime",
    )


def accepts(spec: RuntimeSpec, wants: Wants) -> bool:
    """Whether the Runtime runs with this many GPUs of this vendor."""
    if wants.gpu and wants.vendor not in spec.gpu_vendors:
        return False
    return spec.accelerator == "Any" or (spec.accelerator == "GPU") == (wants.gpu > 0)


def check(name: str, spec: RuntimeSpec, wants: Wants) -> None:
    """Raises `InvalidError` when a Runtime that was named cannot serve the model."""
    if wants.format not in spec.formats:
        raise InvalidError(
            f"Runtime {name} loads {', '.join(spec.formats)}, not {wants.format}; name another in spec.runtimeRef",
            reason="FormatNotSupported",
        )
    if wants.task not in spec.tasks:
        raise InvalidError(
            f"Runtime {name} serves {', '.join(spec.tasks)}, not {wants.task}; "
            "name another in spec.runtimeRef or set the Model's task",
            reason="TaskNotSupported",
        )
    if not accepts(spec, wants):
        need = _need(spec, wants)
        raise InvalidError(
            f"Runtime {name} {need}, or name another in spec.runtimeRef", reason="AcceleratorNotSupported"
        )
    own = VARIABLES | {variable.name for variable in spec.env}
    unknown = sorted((references(spec) - own) | _unknown_of_adapters(spec, own))
    if unknown:
        raise InvalidError(
            f"Runtime {name} refers to unknown variables {', '.join(unknown)}; "
            f"known are {', '.join(sorted(VARIABLES))}",
            reason="InvalidRuntime",
        )


def _unknown_of_adapters(spec: RuntimeSpec, known: frozenset[str]) -> frozenset[str]:
    if spec.adapters is None:
        return frozenset()
    once = references_of(spec.adapters.args) - known - {"BUD_ADAPTER_COUNT"}
    return once | (references_of((spec.adapters.each,)) - known - ADAPTER_VARIABLES)


def _need(spec: RuntimeSpec, wants: Wants) -> str:
    if not wants.gpu:
        return "needs GPUs: set spec.resources.gpu"
    if spec.accelerator == "CPU":
        return "takes no GPUs: remove spec.resources.gpu"
    return f"runs on GPUs of {', '.join(spec.gpu_vendors)}, not {wants.vendor}: change spec.resources.gpuType"


def references(spec: RuntimeSpec) -> frozenset[str]:
    """Names in `$(NAME)` of the command and arguments; `$$(NAME)` is literal text."""
    return references_of((*spec.command, *spec.args, *(variable.value for variable in spec.env)))


def references_of(texts: Iterable[str]) -> frozenset[str]:
    """Names in `$(NAME)` of the texts."""
    return frozenset(name for text in texts for name in re.findall(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_]*)\)", text))
