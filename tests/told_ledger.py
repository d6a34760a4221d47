"""`python tests/told_ledger.py FOLDER …`: a gateway that writes the parts of its ledger, which is in memory, to files, too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bud.gateway import __main__ as command
from bud.gateway import app
from bud.gateway.ledgers import MemoryLedger
from bud.ledger import Book, Part, render


def main() -> None:
    folder = Path(sys.argv.pop(1))

    class Told(MemoryLedger):
        async def write(self, part: Part, book: Book, version: str) -> int:
            fresh = folder / f"{part.number}.new"
            fresh.write_text(render(book))
            os.replace(fresh, fresh.with_suffix(".json"))
            return await super().write(part, book, version)

    vars(app)["MemoryLedger"] = Told
    command.main()


if __name__ == "__main__":
    main()
