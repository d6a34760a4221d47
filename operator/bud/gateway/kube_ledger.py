"""Ledgers in ConfigMaps, one for each part of a project's, for all gateways that use their namespace."""

from __future__ import annotations

import asyncio

from bud.errors import ApiConflict, ApiRefused
from bud.gateway.ledgers import Changed
from bud.kube.client import Client, Object
from bud.kube.kinds import CONFIG_MAPS, FULL_NAME, GATEWAY_MANAGER, ledger_name
from bud.ledger import DATA, LABEL, Book, Part, parse, render


class KubeLedger:
    """Ledgers in ConfigMaps of one namespace; each writing says which version it takes the place of."""

    def __init__(self, client: Client, *, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def read(self, part: Part, *, now: float) -> tuple[Book, str]:
        try:
            found = await self._client.get(CONFIG_MAPS, namespace=self._namespace, name=ledger_name(*part))
        except ApiRefused as error:
            if error.status != 404:
                raise
            return Book.new(now), ""
        text = (found.get("data") or {}).get(DATA)
        # A ledger may hold thousands of keys.
        book = await asyncio.to_thread(parse, text) if text else Book.new(now)
        return book, found["metadata"]["resourceVersion"]

    async def write(self, part: Part, book: Book, version: str) -> int:
        name, text = ledger_name(*part), await asyncio.to_thread(render, book)
        try:
            if version:
                patch: Object = {"metadata": {"resourceVersion": version}, "data": {DATA: text}}
                await self._client.merge(
                    patch, CONFIG_MAPS, namespace=self._namespace, name=name, manager=GATEWAY_MANAGER
                )
                return len(text)
            labels = {LABEL: "keys" if part.number else "true"}
            metadata = {"name": name, "labels": labels, "annotations": {FULL_NAME: part.project}}
            document: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {DATA: text}}
            await self._client.create(document, CONFIG_MAPS, namespace=self._namespace)
            return len(text)
        except ApiConflict as error:
            raise Changed from error
        except ApiRefused as error:
            if version and error.status == 404:
                raise Changed from error
            raise
