"""`python tests/told_ledger.py FILE …`: a gateway that writes its ledger, which is in memory, to a file as well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bud.gateway import __main__ as command
from bud.gateway import app
from bud.gateway.ledgers import MemoryLedger
from bud.ledger import Book, render


def main() -> None:
    file = Path(sys.argv.pop(1))

    class Told(MemoryLedger):
        async def write(self, project: str, book: Book, version: str) -> None:
            await super().write(project, book, version)
            fresh = file.with_suffix(".new")
            fresh.write_text(render(book))
            os.replace(fresh, file)

    vars(app)["MemoryLedger"] = Told
    command.main()


if __name__ == "__main__":
    main()
