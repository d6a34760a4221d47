"""Where ledgers are kept: in this process' memory, or elsewhere. What they say, `bud.ledger` knows.

Whoever changes a ledger says which version of it was read; if it has another one by then, nothing is changed.
"""

from __future__ import annotations

from typing import Protocol

from bud.ledger import Book


class Changed(Exception):
    """The ledger is no longer what was read."""


class Ledger(Protocol):
    """Ledgers by project."""

    async def read(self, project: str, *, now: float) -> tuple[Book, str]:
        """A book of the reader's own, and its version; a new one where there is none.

        Raises `ValueError` for one that cannot be read, and `BudError` where it cannot be reached.
        """

    async def write(self, project: str, book: Book, version: str) -> None:
        """Takes the place of that version. Raises `Changed` and `BudError`; the latter may have changed it."""


class MemoryLedger:
    """Ledgers of one process, which end with it. Nobody else writes them, so readers get the very book that is kept."""

    def __init__(self) -> None:
        self._books: dict[str, Book] = {}

    async def read(self, project: str, *, now: float) -> tuple[Book, str]:
        return self._books.setdefault(project, Book.new(now)), ""

    async def write(self, project: str, book: Book, version: str) -> None:
        self._books[project] = book
