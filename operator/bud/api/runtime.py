"""Runtime: an engine as data, so that a user adds one with a YAML file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bud.api.base import AGE, Column, Kind, Resource, Text, atomic, list_map, rule, rules
from bud.api.deployment import OWN_ENV_RULE, EnvName
from bud.api.model import Format, Task

HttpPath = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^/")]
GpuVendor = Literal["NVIDIA", "AMD", "Intel"]

_ENV = list_map("name") | rules(OWN_ENV_RULE)


class RuntimeEnvVar(Resource):
    """One environment variable of the engine."""

    name: EnvName = Field(description="Name of the variable.")
    value: Text = Field("", description="Value; may refer to $(BUD_…) variables.")


class AnswerCheck(Resource):
    """The one real request that proves that an engine answers, before its pod is ready."""

    enabled: bool = Field(
        True, description="False for an engine whose own health path generates, or that no request can prove."
    )
    path: HttpPath | None = Field(None, description="Path of the request. Default: by the task.")


class AdapterSelection(Resource):
    """How a request tells the engine which adapter it is for, where `model` does not."""

    field: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        description="Field of the request's body."
    )
    value: Literal["Name", "Scales"] = Field(
        description="`Name`: the adapter's name. `Scales`: a list with `id` and `scale` of every adapter, numbered in "
        "the order of the arguments, as llama.cpp's server has it."
    )


class RuntimeAdapters(Resource):
    """How the engine loads adapters (LoRA) beside the model.

    The arguments may refer to BUD_ADAPTER_COUNT; `each`, also to BUD_ADAPTER_NAME, BUD_ADAPTER_PATH (the folder) and
    BUD_ADAPTER_FILE (the main file).
    """

    args: Annotated[tuple[Text, ...], Field(max_length=64, json_schema_extra=atomic())] = Field(
        (), description="Arguments that turn it on, after the Runtime's own."
    )
    each: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="The argument that names one adapter; there is one for each, after `args`."
    )
    separator: Annotated[str, Field(min_length=1, max_length=8)] | None = Field(
        None, description="Joins the arguments of all adapters into one."
    )
    select: AdapterSelection | None = Field(
        None,
        description="For engines that do not know an adapter by the `model` of a request: a relay beside the engine "
        "then sets this field of it. Default: the engine knows it.",
    )


class RuntimeSpec(Resource):
    """An inference engine.

    Arguments and variables use Kubernetes' own `$(NAME)` expansion over the variables that the operator sets:
    BUD_MODEL_PATH, BUD_MODEL_FILE, BUD_MODEL_NAME, BUD_PORT, BUD_GPU_COUNT and BUD_CPU_COUNT.
    """

    description: Annotated[str, Field(max_length=1024)] = Field("", description="What the engine is, for people.")
    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^\S+$")] | None = Field(
        None, description="Image of the engine. Default: the operator's own image."
    )
    command: Annotated[tuple[Text, ...], Field(max_length=64, json_schema_extra=atomic())] = Field(
        (), description="Command. Default: the image's own entry point."
    )
    args: Annotated[tuple[Text, ...], Field(max_length=256, json_schema_extra=atomic())] = Field(
        (), description="Arguments; a Deployment's args come after them."
    )
    env: Annotated[tuple[RuntimeEnvVar, ...], Field(max_length=128, json_schema_extra=_ENV)] = Field(
        (), description="Environment of the engine."
    )
    port: int = Field(
        8000,
        ge=1024,
        le=65535,
        description="Port of the engine's HTTP API.",
        json_schema_extra=rules(
            rule(
                "self != 9901 && self != 9902",
                "ports 9901 and 9902 are those of the answer check and the relay: choose another",
            )
        ),
    )
    formats: Annotated[tuple[Format, ...], Field(min_length=1, max_length=16, json_schema_extra=atomic())] = Field(
        description="Formats of weights that it loads."
    )
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=16, json_schema_extra=atomic())] = Field(
        description="Tasks that it serves."
    )
    accelerator: Literal["GPU", "CPU", "Any"] = Field(
        "Any", description="Whether it needs GPUs, none, or takes either."
    )
    gpu_vendors: Annotated[tuple[GpuVendor, ...], Field(min_length=1, max_length=3, json_schema_extra=atomic())] = (
        Field(("NVIDIA",), description="Vendors whose GPUs it runs on; images are built for one as a rule.")
    )
    priority: int = Field(0, ge=-1000, le=1000, description="Of several that fit a model, the highest is chosen.")
    health_path: HttpPath = Field("/health", description="Answers 2xx when the engine has loaded its model.")
    metrics_path: HttpPath | None = Field(None, description="Prometheus metrics of the engine.")
    answer_check: AnswerCheck = Field(AnswerCheck(), description="How it is proven that the engine answers.")
    startup_seconds: int = Field(
        600,
        ge=1,
        le=86400,
        description="Longest time that a start may take, in seconds; 1 s is added for each 100 MB of weights.",
    )
    drain_seconds: int = Field(
        120,
        ge=0,
        le=3600,
        description="Longest time that requests under way may take when a pod is to end, in seconds.",
    )
    writable_paths: Annotated[tuple[HttpPath, ...], Field(max_length=16, json_schema_extra=atomic())] = Field(
        ("/tmp",), description="Folders that the engine writes; the rest of its file system is read-only."
    )
    adapters: RuntimeAdapters | None = Field(None, description="How it loads adapters (LoRA). Default: it cannot.")
    shared_memory: bool = Field(False, description="Whether /dev/shm is a volume in memory, as multi-GPU engines need.")


RUNTIME = Kind(
    kind="Runtime",
    plural="runtimes",
    short="brt",
    namespaced=False,
    spec=RuntimeSpec,
    status=None,
    description="An inference engine that Deployments may use.",
    columns=(
        Column("Formats", ".spec.formats", description="Formats that it loads."),
        Column("Accelerator", ".spec.accelerator", description="GPU, CPU or Any."),
        Column("Priority", ".spec.priority", type="integer", description="The highest that fits is chosen."),
        AGE,
        Column("Tasks", ".spec.tasks", priority=1),
        Column("Image", ".spec.image", priority=1),
    ),
)
