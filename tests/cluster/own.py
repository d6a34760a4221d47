"""A control plane that the calling process keeps itself: its programs can be killed, measured and set otherwise."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.audit import Audit
from tests.cluster import layout, sources, tools
from tests.cluster.cache import Say
from tests.cluster.handle import Cluster


@dataclass(frozen=True)
class Own:
    """A running control plane with fake nodes and an audit log: the cluster, and what runs it."""

    cluster: Cluster
    control: sources.Control

    @property
    def audit(self) -> Audit:
        """Every call to the API server."""
        return Audit(self.cluster.state / "audit.log")


@contextmanager
def control_plane(name: str, *, say: Say, options: Mapping[str, Mapping[str, object]] | None = None) -> Iterator[Own]:
    """One for as long as the block runs; should this process be killed, the kernel ends the programs.

    It is always of programs of this machine, whatever BUD_TEST_KUBECONFIG names. `options` are options by program, in
    place of the usual ones. Raises Failed when it does not come up.
    """
    layout.reap()
    folder, lock = layout.claim(name)
    source = sources.Control(name, folder, audit=True, say=say, options=options)
    record = layout.Record(name=name, tier="control", source=source.kind, keeper=os.getpid(), audit=True, ready=True)
    try:
        source.start()
        layout.write(folder, record)
        yield Own(Cluster(record=record, state=folder, kubectl_path=tools.path("kubectl")), source)
    finally:
        source.stop()
        with layout.lock():
            layout.remove(folder)
        os.close(lock)
