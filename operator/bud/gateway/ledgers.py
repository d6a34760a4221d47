"""Where ledgers are kept: in this process' memory, or elsewhere. What they say, `bud.ledger` knows.

Whoever changes a part of a ledger says which version of it was read; if it has another one by then, nothing is changed.
"""

from __future__ import annotations

from typing import Protocol

from bud.ledger import Book, Part


class Changed(Exception):
    """The part of a ledger is no longer what was read."""


class Ledger(Protocol):
    """Ledgers by project, in their parts."""

    async def read(self, part: Part, *, now: float) -> tuple[Book, str]:
        """A book of the reader's own, and its version; a new one where there is none.

        Raises `ValueError` for one that cannot be read, and `BudError` where it cannot be reached.
        """

    async def write(self, part: Part, book: Book, version: str) -> int:
        """Takes the place of that version; gives its size in bytes.

        Raises `Changed`, and `BudError`, after which it may have been changed all the same.
        """


class MemoryLedger:
    """Ledgers of one process, which end with it. Nobody else writes them, so readers get the very book that is kept."""

    def __init__(self) -> None:
        self._books: dict[Part, Book] = {}

    async def read(self, part: Part, *, now: float) -> tuple[Book, str]:
        return self._books.setdefault(part, Book.new(now)), ""

    async def write(self, part: Part, book: Book, version: str) -> int:
        self._books[part] = book
        return 0
