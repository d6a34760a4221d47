"""A Service of a test cluster under an address of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import tools
from tests.cluster.failure import Failed
from tests.cluster.handle import Cluster

SCRIPTS = Path(sys.executable).parent


@contextmanager
def port_forward(cluster: Cluster, service: str, *, namespace: str = "default") -> Iterator[str]:
    """The base URL under which a Service answers here, by `kubectl port-forward`; Failed when it does not."""
    command = [str(tools.path("kubectl")), "port-forward", "--namespace", namespace, f"service/{service}", ":80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=cluster.environment(), text=True) as process:
        assert process.stdout
        try:
            line = process.stdout.readline()
            if "127.0.0.1:" not in line:
                raise Failed(f"kubectl port-forward to {service} does not work")
            yield "http://127.0.0.1:" + line.partition("127.0.0.1:")[2].split()[0]
        finally:
            process.kill()
