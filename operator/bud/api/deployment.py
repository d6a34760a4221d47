"""Deployment: which model is served, by which engine, with what resources and scaling."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from bud.api.base import (
    AGE,
    MESSAGE,
    REASON,
    Column,
    Conditions,
    Kind,
    Label,
    NameRef,
    ObjectName,
    Quantity,
    Resource,
    ShortText,
    Status,
    Text,
    at_least_1mi,
    atomic,
    list_map,
    rule,
    rules,
)
from bud.api.limits import Capabilities, OwnPricing, Tokens

DeploymentPhase = Literal["Pending", "Deploying", "Active", "Scaling", "Failed", "Stopped"]

EnvName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
CountOrPercent = Annotated[
    str | int,
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [
                rule(
                    "type(self) == int ? (self >= 0 && self <= 1000) "
                    ": (self.size() <= 4 && self.matches('^(100|[1-9]?[0-9])%$'))",
                    'must be a number such as 1, or a percentage such as "25%"',
                )
            ],
        }
    ),
]
OWN_ENV_RULE = rule(
    "self.all(v, !v.name.startsWith('BUD_'))",
    "variables that begin with BUD_ are set by the operator: choose another name (see docs/runtimes.md)",
)
AdapterName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
_QUALIFIED = r"^(([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"
"""A label's key: a name, and a domain before it or none; both may be absent."""
_KEYS = rules(
    rule(
        f"self.all(k, k.size() > 0 && k.size() <= 317 && k.matches('{_QUALIFIED}'))",
        "keys are a name of at most 63 letters, digits, '-', '_' and '.', with or without a domain and '/' before it",
    )
)


class KeyRef(Resource):
    """One key of a Secret or ConfigMap of the same namespace."""

    name: ObjectName = Field(description="Name of the object.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z0-9]+$")] = Field(
        description="Key in it."
    )


class EnvSource(Resource):
    """Where the value of a variable comes from."""

    secret_key_ref: KeyRef | None = Field(None, description="A key of a Secret.")
    config_map_key_ref: KeyRef | None = Field(None, description="A key of a ConfigMap.")


class EnvVar(Resource):
    """One environment variable of the engine."""

    name: EnvName = Field(description="Name of the variable.")
    value: Text | None = Field(None, description="Value of the variable.")
    value_from: EnvSource | None = Field(
        None,
        description="Where the value comes from.",
        json_schema_extra=rules(
            rule(
                "has(self.secretKeyRef) != has(self.configMapKeyRef)",
                "set exactly one of secretKeyRef or configMapKeyRef",
            )
        ),
    )


_ENV = list_map("name") | rules(
    rule(
        "self.all(v, !(has(v.value) && has(v.valueFrom)))", "a variable has value or valueFrom: remove one of the two"
    ),
    OWN_ENV_RULE,
)


_TOLERATION = rules(
    rule(
        "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
        "a toleration without key needs operator: Exists",
    ),
    rule(
        "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
        "a toleration with operator: Exists takes no value: remove value, or set operator: Equal",
    ),
    rule(
        "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
        "tolerationSeconds needs effect: NoExecute: set it, or remove tolerationSeconds",
    ),
)


class Toleration(Resource):
    """A toleration of the pod, as in the Kubernetes API."""

    model_config = ConfigDict(json_schema_extra=_TOLERATION)

    key: Annotated[str, Field(max_length=317, pattern=_QUALIFIED)] | None = Field(
        None, description="Taint key; absent matches all."
    )
    operator: Literal["Exists", "Equal"] | None = Field(None, description="Default: Equal.")
    value: Label | None = Field(None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Absent matches all."
    )
    toleration_seconds: int | None = Field(None, description="How long NoExecute is tolerated, in seconds.")


class Resources(Resource):
    """What one replica of the engine gets."""

    cpu: Quantity | None = Field(None, description='CPU cores, as in "4" or 500m. Default: 1.')
    memory: Quantity | None = Field(
        None,
        description="Memory, as in 16Gi. Default: from the size of the weights.",
        json_schema_extra=rules(at_least_1mi("memory")),
    )
    gpu: int = Field(0, ge=0, le=64, description="Number of GPUs.")
    gpu_type: Annotated[str, Field(min_length=1, max_length=63)] | None = Field(
        None,
        description="GPU product, as in L4 or NVIDIA-A100-SXM4-80GB; matched to the labels of the nodes.",
    )


class AutoScaling(Resource):
    """Scaling by load."""

    enabled: bool = Field(True, description="Whether a HorizontalPodAutoscaler sets the number of replicas.")
    min_replicas: int = Field(
        1,
        ge=0,
        le=1000,
        description="Never fewer than this. 0: it sleeps when nobody asks, and a request through the gateway wakes "
        "it; where there is no gateway, as 1.",
    )
    idle_seconds: int = Field(
        600, ge=10, le=86400, description="With minReplicas 0: it sleeps after so long without a request."
    )
    max_replicas: int = Field(3, ge=1, le=1000, description="Never more than this.")
    target_cpu: int | None = Field(
        None,
        alias="targetCPU",
        ge=1,
        le=1000,
        description="Average CPU in percent of the request. Default: 80 when no target is set.",
    )
    target_memory: int | None = Field(None, ge=1, le=1000, description="Average memory in percent of the request.")


class Rollout(Resource):
    """How a change of the pods rolls out, as the RollingUpdate strategy of apps/v1."""

    max_surge: CountOrPercent | None = Field(
        None,
        description="How many pods, or percent of the replicas, may be there beyond the replicas. Default: 1, and 0 "
        "while no GPU is spare.",
    )
    max_unavailable: CountOrPercent | None = Field(
        None,
        description="How many replicas, or percent of them, may be missing meanwhile. Default: 0, and 1 where maxSurge "
        "is 0.",
    )


class TemplateMetadata(Resource):
    """Labels and annotations for the engine's pods."""

    labels: dict[LabelKey, Label] = Field(
        {}, max_length=64, description="Labels for the pods.", json_schema_extra=_KEYS
    )
    annotations: dict[LabelKey, Text] = Field(
        {}, max_length=64, description="Annotations for the pods.", json_schema_extra=_KEYS
    )


class Template(Resource):
    """What is added to the engine's pods."""

    metadata: TemplateMetadata = Field(TemplateMetadata(), description="Labels and annotations for the pods.")


class Adapter(Resource):
    """LoRA weights that are loaded beside the model and called by their own name."""

    name: AdapterName = Field(description="Value of `model` in the requests that it answers.")
    model_ref: NameRef = Field(description="The Model with the adapter's weights, of the same namespace.")


class DeploymentSpec(Resource):
    """Which model is served, by which engine, with what resources and scaling."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.pricing) || !has(self.pricing.perGPUHour) "
                "|| (has(self.resources) && self.resources.gpu > 0)",
                "pricing.perGPUHour needs resources.gpu: set it to the number of GPUs, or remove perGPUHour",
            )
        )
    )

    model_ref: NameRef = Field(description="The Model to serve, of the same namespace.")
    runtime_ref: NameRef | None = Field(
        None, description="The Runtime that serves it. Default: chosen by the model's format and task."
    )
    replicas: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Number of replicas; autoScaling, when enabled, sets it instead. Absent: one at first, and then "
        "what runs is kept, as when autoScaling is turned off.",
    )
    auto_scaling: AutoScaling | None = Field(
        None,
        description="Scaling by load.",
        json_schema_extra=rules(
            rule(
                "self.minReplicas <= self.maxReplicas",
                "minReplicas must not be greater than maxReplicas: lower minReplicas or raise maxReplicas",
            )
        ),
    )
    rollout: Rollout = Field(
        Rollout(),
        description="How a change of the pods rolls out.",
        json_schema_extra=rules(
            rule(
                "!has(self.maxSurge) || !has(self.maxUnavailable) "
                "|| !(string(self.maxSurge) in ['0', '0%'] && string(self.maxUnavailable) in ['0', '0%'])",
                "maxSurge and maxUnavailable are both zero, so that nothing could roll out: raise one of the two",
            )
        ),
    )
    resources: Resources = Field(
        Resources(),
        description="What one replica gets.",
        json_schema_extra=rules(
            rule(
                "!has(self.gpuType) || self.gpu > 0",
                "gpuType needs gpu: set gpu to the number of GPUs, or remove gpuType",
            )
        ),
    )
    adapters: Annotated[tuple[Adapter, ...], Field(max_length=16, json_schema_extra=list_map("name"))] = Field(
        (), description="Adapters (LoRA) to load beside the model, each called by its name."
    )
    args: Annotated[tuple[Text, ...], Field(max_length=256, json_schema_extra=atomic())] = Field(
        (), description="Arguments for the engine, after the Runtime's own."
    )
    env: Annotated[tuple[EnvVar, ...], Field(max_length=128, json_schema_extra=_ENV)] = Field(
        (), description="Environment of the engine; wins over the Runtime's."
    )
    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^\S+$")] | None = Field(
        None, description="Image of the engine, instead of the Runtime's."
    )
    node_selector: dict[LabelKey, Label] = Field(
        {}, max_length=64, description="Labels that a node must carry.", json_schema_extra=_KEYS
    )
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=64, json_schema_extra=atomic())] = Field(
        (), description="Taints that the pods tolerate."
    )
    priority_class_name: ObjectName | None = Field(None, description="PriorityClass of the pods.")
    pricing: OwnPricing | None = Field(None, description="What callers are charged. Default: nothing.")
    capabilities: Capabilities = Field(
        (), description="What the model can do, as told to callers. Default: by the Model's task."
    )
    context_length: Tokens | None = Field(
        None, description="Tokens that the model can take in all, as told to callers."
    )
    max_output_tokens: Tokens | None = Field(
        None, description="Tokens that an answer can have; who asks the gateway for more is refused."
    )
    stopped: bool = Field(False, description="True: no replicas, whatever else is set.")
    update_policy: Literal["OnChange", "Auto"] = Field(
        "OnChange",
        description="`OnChange`: pods keep the Runtime and operator image they started with until this spec changes; "
        "`Auto`: they follow at once.",
    )
    template: Template = Field(Template(), description="Metadata for the engine's pods.")
    selector: dict[str, Any] | None = Field(
        None,
        max_length=16,
        description="Ignored; accepted because Kustomize adds it.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )


class EffectiveResources(Status):
    """Resources of one replica, defaults filled in."""

    cpu: Annotated[str, Field(max_length=64)] = Field("", description="CPU request.")
    memory: Annotated[str, Field(max_length=64)] = Field("", description="Memory request and limit.")
    gpu: int = Field(0, ge=0, description="Number of GPUs.")


class DeploymentStatus(Status):
    """What is known of the served model."""

    observed_generation: int = Field(0, ge=-1, description="The generation of the spec that this status answers.")
    phase: DeploymentPhase | None = Field(None, description="Pending, Deploying, Active, Scaling, Failed or Stopped.")
    endpoint_url: Annotated[str, Field(max_length=1024)] = Field(
        "", alias="endpointURL", description="OpenAI-compatible base URL within the cluster."
    )
    model_name: ShortText = Field("", description="Value of `model` in requests to the endpoint.")
    runtime: ShortText = Field("", description="Runtime that serves the model.")
    task: Annotated[str, Field(max_length=64)] = Field("", description="Task of the model that is served.")
    adapters: Annotated[tuple[AdapterName, ...], Field(max_length=16, json_schema_extra=atomic())] = Field(
        (), description="Adapters that the pods are started with, each a value of `model` in requests too."
    )
    replicas: int = Field(0, ge=0, description="Replicas that exist.")
    ready_replicas: int = Field(0, ge=0, description="Replicas that answered a request and are ready.")
    updated_replicas: int = Field(0, ge=0, description="Replicas of the present spec.")
    desired_replicas: int = Field(0, ge=0, description="Replicas that are wanted, by the spec or the autoscaler.")
    ready: Annotated[str, Field(max_length=16)] = Field("", description="Ready and wanted replicas, as in `1/2`.")
    selector: Annotated[str, Field(max_length=512)] = Field(
        "", description="Label selector of the pods, for autoscalers."
    )
    resources: EffectiveResources | None = Field(None, description="Resources of one replica, defaults filled in.")
    conditions: Conditions = ()


DEPLOYMENT = Kind(
    kind="Deployment",
    plural="deployments",
    short="mdep",
    namespaced=True,
    spec=DeploymentSpec,
    status=DeploymentStatus,
    description="A model that is served: engine, resources, scaling and address.",
    rules=(
        rule(
            "!has(self.spec.adapters) || self.spec.adapters.all(a, a.name != self.metadata.name)",
            "an adapter in spec.adapters has the Deployment's own name, by which the model itself is called: rename it",
        ),
    ),
    scale={
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
    columns=(
        Column("Phase", ".status.phase", description="Pending, Deploying, Active, Scaling, Failed or Stopped."),
        Column("Ready", ".status.ready", description="Ready and wanted replicas."),
        Column("Model", ".spec.modelRef.name", description="Model that is served."),
        Column("Runtime", ".status.runtime", description="Engine that serves it."),
        REASON,
        AGE,
        Column("Endpoint", ".status.endpointURL", priority=1),
        MESSAGE,
    ),
)
