"""What the gateway knows: projects, keys, and what each project's callers may name. Pure, and held in memory.

Built from the custom resources (`bud.gateway.build`), replaced as a whole or by namespace; a request only looks up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from bud.api.limits import Limits
from bud.gateway.prices import Published

if TYPE_CHECKING:
    from bud.gateway.translate.wire import Translator

Strategy = Literal["Weighted", "LeastRequests", "PrefixAffinity"]


@dataclass(frozen=True, slots=True)
class Spending:
    """How many US dollars may be spent in a period."""

    amount: Decimal
    period: Literal["Day", "Month", "Total"]


@dataclass(frozen=True, slots=True)
class Meter:
    """One limit: `limit` units in each `span` seconds of the clock; `whose` says for a person who is limited."""

    id: str
    unit: Literal["requests", "tokens"]
    span: Literal[60, 86400]
    limit: int
    whose: str


def meters(owner: str, whose: str, limits: Limits) -> tuple[Meter, ...]:
    """The limits that are set, for an owner whose counts are its own."""
    found: list[Meter] = []
    if limits.requests_per_minute is not None:
        found.append(Meter(f"{owner}/rm", "requests", 60, limits.requests_per_minute, whose))
    if limits.requests_per_day is not None:
        found.append(Meter(f"{owner}/rd", "requests", 86400, limits.requests_per_day, whose))
    if limits.tokens_per_minute is not None:
        found.append(Meter(f"{owner}/tm", "tokens", 60, limits.tokens_per_minute, whose))
    if limits.tokens_per_day is not None:
        found.append(Meter(f"{owner}/td", "tokens", 86400, limits.tokens_per_day, whose))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Project:
    """A team; `response_metadata` says whether answers tell of their provider and cost."""

    name: str
    namespace: str
    limits: Limits
    budget: Spending | None = None
    response_metadata: bool = True


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is accepted; `endpoints` and `models` are empty where all are allowed; `ends` is in epoch seconds."""

    uid: str
    name: str
    project: Project
    hash: str
    endpoints: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()
    ends: float | None = None
    budget: Spending | None = None
    meters: tuple[Meter, ...] = ()
    """Of the key and of its project."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for 1,000 tokens, for each request, and for an hour of an address."""

    input: Decimal | None = None
    output: Decimal | None = None
    request: Decimal = Decimal(0)
    hour: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Nap:
    """A Deployment that sleeps after so many seconds without a request: `id` is the name of its children."""

    id: str
    seconds: float


OWN = "bud"
"""The provider of what the operator runs."""


@dataclass(frozen=True, slots=True)
class Target:
    """What answers: where, under which name, and with which headers.

    `urls` are base URLs up to and including `/v1`, one for each pod where pods are known. `provider` is what
    `conduit_metadata` tells. `headers` hold the gateway's own credentials. `query` ends every address, with its `?`.
    `translator` is None for those that speak OpenAI's format; `most` is their name for the most tokens of a chat's
    answer, and `functions` whether they know the older functions. `own` is for what the operator runs, or the
    administrator allows by name: its addresses are not checked. `namespace` is its project's. After `first_byte`
    seconds without any of an answer another is asked. `nap` is set where it may sleep. `secrets` are what no answer may
    repeat.
    """

    id: str
    provider: str
    model: str
    urls: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    price: Price | Published | None = None
    weight: int = 1
    capabilities: tuple[str, ...] = ()
    context_length: int | None = None
    max_output_tokens: int | None = None
    timeout: float = 600.0
    first_byte: float | None = None
    created: int = 0
    ready: bool = True
    query: str = ""
    translator: Translator | None = None
    most: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    functions: bool = False
    own: bool = False
    namespace: str = ""
    nap: Nap | None = None
    secrets: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Served:
    """A name that callers use, and what answers to it: `targets` by `strategy`, then `fallbacks` one after another.

    `first_byte` goes before the targets' own.
    """

    name: str
    targets: tuple[Target, ...]
    fallbacks: tuple[Target, ...] = ()
    strategy: Strategy = "Weighted"
    retries: int = 2
    timeout: float = 600.0
    first_byte: float | None = None
    price: Price | None = None


@dataclass(frozen=True)
class Catalog:
    """Keys by the SHA-256 of the key; names by namespace. A `fault` says why it cannot tell who calls.

    `known` gives the uids of all keys of a project, accepted or not; None while not all can be read.
    """

    keys: Mapping[str, Key] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, Served]] = field(default_factory=dict)
    fault: str = ""
    known: Callable[[str], Set[str] | None] = field(default=lambda _: None, compare=False)

    def served(self, namespace: str, name: str) -> Served | None:
        """What answers to a name in a project's namespace."""
        return self.names.get(namespace, {}).get(name)
