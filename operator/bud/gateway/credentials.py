"""The Secrets that Providers refer to: read by their names, off the path of requests, and again every minute.

The gateway may only get Secrets, in the namespaces of Projects; it can neither list nor watch them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from bud.errors import ApiForbidden, ApiRefused, BudError
from bud.gateway.parsed import parsed
from bud.kube.client import Client
from bud.kube.kinds import SECRETS

Ref = tuple[str, str]
"""Namespace and name."""

_EVERY = 60.0
_FIRST_PAUSE = 0.5
"""Seconds until it is tried again. The right to read comes a moment after a Project."""


@dataclass(slots=True)
class _State:
    due: float
    pause: float = _FIRST_PAUSE
    tried: bool = False
    trouble: str = ""


class Credentials:
    """Reads what is wanted; `take` is given the values of a Secret, or None for one that is not there.

    `after_read` is called after each that was tried.
    """

    def __init__(
        self,
        client: Client,
        take: Callable[[str, str, Mapping[str, str] | None], None],
        after_read: Callable[[], object],
    ) -> None:
        self._client = client
        self._take = take
        self._after_read = after_read
        self._states: dict[Ref, _State] = {}
        self._wake = asyncio.Event()

    def want(self, refs: Iterable[Ref]) -> None:
        """These and no others are read."""
        wanted = set(refs)
        for ref in self._states.keys() - wanted:
            del self._states[ref]
            self._take(*ref, None)
        for ref in wanted - self._states.keys():
            self._states[ref] = _State(due=0.0)
            self._wake.set()

    def read_now(self, ref: Ref) -> None:
        """Does not wait for the next minute with this one, if it is wanted at all."""
        if ref in self._states:
            self._states[ref] = _State(due=0.0, tried=self._states[ref].tried)
            self._wake.set()

    @property
    def tried(self) -> bool:
        """Whether each was asked for once."""
        return all(state.tried for state in self._states.values())

    def troubles(self) -> list[tuple[str, str]]:
        """Secrets, and why they are not read."""
        found = sorted((ref, state.trouble) for ref, state in self._states.items() if state.trouble)
        return [(f"Secret {namespace}/{name}", trouble) for (namespace, name), trouble in found]

    async def run(self) -> None:
        """For as long as the gateway lives."""
        clock = asyncio.get_running_loop().time
        while True:
            self._wake.clear()
            due = [(ref, state) for ref, state in self._states.items() if state.due <= clock()]
            await asyncio.gather(*(self._read(ref, state) for ref, state in due))
            pause = min((state.due for state in self._states.values()), default=clock() + _EVERY) - clock()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, pause)):
                    await self._wake.wait()

    async def _read(self, ref: Ref, state: _State) -> None:
        namespace, name = ref
        found: Mapping[str, str] | None = None
        try:
            item = parsed("Secret", await self._client.get(SECRETS, namespace=namespace, name=name))
        except BudError as error:
            trouble, is_gone = _why(error), isinstance(error, ApiRefused) and error.status == 404
        else:
            trouble, is_gone = "; ".join(item.troubles), False
            found = item.what if isinstance(item.what, Mapping) else {}
        if self._states.get(ref) is not state:
            return  # wanted anew in the meantime, or no longer
        # What is known stays while it cannot be read: only its absence is a word on it.
        state.pause = min(state.pause * 2, _EVERY) if found is None else _FIRST_PAUSE
        state.due = asyncio.get_running_loop().time() + (_EVERY if found is not None else state.pause)
        state.tried, state.trouble = True, trouble
        if found is not None or is_gone:
            self._take(namespace, name, found)
        self._after_read()


def _why(error: BudError) -> str:
    if isinstance(error, ApiForbidden):
        return f"it may not be read, which the operator sees to in the namespace of a Project: {error}"
    return f"it cannot be read: {error}"
