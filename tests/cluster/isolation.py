"""Namespaces, a veth pair and cgroups of a cluster's own: all of it goes away with one process and a few folders.

One process holds a network, a mount and a PID namespace. Everything else of the cluster runs inside them, so killing
that process kills all of it, and its mounts, links and firewall rules are gone with the last namespace.
"""

import hashlib
import ipaddress
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster.failure import Failed
from tests.cluster.programs import DIES_WITH_PARENT

# For benchmarks of network devices (RFC 2544): neither the internet nor, almost surely, an office uses it.
RANGE = ipaddress.ip_network("198.18.0.0/15")
_CGROUPS = Path("/sys/fs/cgroup")
_GONE_SECONDS = 20

# $1: the state folder, $2: the folder of the programs. Both stay reachable by their file descriptors although
# a folder that holds them may be covered.
_MOUNTS = """
exec 3<"$1" 4<"$2"
mount --no-mtab -t tmpfs -o mode=755 tmpfs /run
mkdir /run/cluster /run/programs
mount --no-canonicalize --bind /proc/self/fd/3 /run/cluster
mount --no-canonicalize --bind /proc/self/fd/4 /run/programs
for place in tmp var/lib var/log; do
    mkdir -p /run/cluster/covers/$place
    mount --bind /run/cluster/covers/$place /$place
done
chmod 1777 /tmp
"""

# The kubelet sets these for the whole machine unless they already read as it wants, so it is shown files that do.
_TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


def run(*argv: str, stdin: str | None = None) -> str:
    """What a short command printed; Failed with what it complained of."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(argv)} failed: {done.stderr.strip()}")
    return done.stdout


class Namespaces:
    """A network, a mount and a PID namespace, held open by `holder` (a program that prints a line and waits)."""

    def __init__(self, holder: Path) -> None:
        self._process = subprocess.Popen(
            [
                *DIES_WITH_PARENT,
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
                *("--propagation", "private", "--", str(holder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if not self._process.stdout.readline():
            raise Failed(f"no namespaces: {self._process.communicate()[1].strip()}")

    @property
    def pid(self) -> int:
        """A process that is in the network and the mount namespace."""
        return self._process.pid

    @property
    def enter(self) -> list[str]:
        """What to put before a command line to run it inside, in the state folder."""
        inside = f"/proc/{self.pid}/ns"
        nsenter = ["nsenter", f"--net={inside}/net", f"--mount={inside}/mnt", f"--pid={inside}/pid_for_children"]
        return [*nsenter, "--", "sh", "-c", 'cd /run/cluster && exec "$@"', "sh"]

    def script(self, text: str, *arguments: str) -> None:
        """Run a shell script inside; Failed when one of its commands fails."""
        nsenter = self.enter[: self.enter.index("--") + 1]
        run(*nsenter, "sh", "-eu", "-c", text, "sh", *arguments)

    def cover(self, *, state: Path, programs: Path) -> None:
        """Show the folder `state` as /run/cluster and `programs` as /run/programs, and hide what must not change."""
        self.script(_MOUNTS, str(state), str(programs))
        lines = [
            f"mkdir -p $(dirname /run/kernel/{name}); echo {value} > /run/kernel/{name}; "
            f"mount --bind /run/kernel/{name} /proc/sys/{name}"
            for name, value in _TUNABLES.items()
        ]
        self.script("\n".join(lines))

    def close(self) -> None:
        """Kill everything inside and wait until it is gone."""
        for child in _children(self.pid):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        # unshare ends when its child has, and that one only after all other processes of its PID namespace.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GONE_SECONDS)
        self._process.kill()
        self._process.communicate()


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = stat.read_text().partition(" (")
            if int(rest.rpartition(") ")[2].split()[1]) == parent:
                found.append(int(pid))
    return found


class Link:
    """A veth pair between this network namespace and a cluster's, with an address at either end."""

    def __init__(self, name: str, namespaces: Namespaces) -> None:
        device = link_name(name)
        here, there = _free_addresses()
        run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", str(namespaces.pid))
        run("ip", "address", "add", f"{here}/30", "dev", device)
        run("ip", "link", "set", device, "up")
        self.host, self.cluster = str(here), str(there)
        namespaces.script(
            f"""
            ip link set lo up
            ip address add {there}/30 dev eth0
            ip link set eth0 up
            ip route add default via {here}
            echo 1 > /proc/sys/net/ipv4/ip_forward
            """
        )


def link_name(cluster: str) -> str:
    """What this machine's end of a cluster's link is called (15 characters are the most a name may have)."""
    return f"bud{hashlib.sha256(cluster.encode()).hexdigest()[:8]}"


def _free_addresses() -> Sequence[ipaddress.IPv4Address]:
    """The two addresses of a /30 that overlaps with nothing this machine has an address or a route for."""
    taken = []
    for kind in ("address", "route"):
        for entry in json.loads(run("ip", "-json", "-4", kind, "show")):
            found = [info["local"] for info in entry.get("addr_info", ())] + [entry.get("dst", "default")]
            taken += [ipaddress.ip_network(text, strict=False) for text in found if text != "default"]
    for _ in range(100):
        first = int(RANGE.network_address) + 4 * random.randrange(RANGE.num_addresses // 4)
        network = ipaddress.IPv4Network((first, 30))
        if not any(network.overlaps(other) for other in taken):
            return list(network.hosts())
    raise Failed(f"no free addresses in {RANGE}")


def cgroup(cluster: str) -> str:
    """The cgroup that holds all pods of a cluster, as a path from the root of each hierarchy."""
    return f"/bud-test-{cluster}"


def create_cgroup(cluster: str) -> None:
    """Create it in every hierarchy (one with cgroup v2, several with v1)."""
    for hierarchy in _hierarchies():
        if (hierarchy / "cgroup.subtree_control").exists():
            _delegate(hierarchy)
        (hierarchy / cgroup(cluster)[1:]).mkdir(exist_ok=True)


def _delegate(hierarchy: Path) -> None:
    """Let children of the root use what the kubelet insists on (systemd usually has done so already)."""
    offered = (hierarchy / "cgroup.controllers").read_text().split()
    wanted = [f"+{name}" for name in ("cpu", "cpuset", "hugetlb", "memory", "pids") if name in offered]
    (hierarchy / "cgroup.subtree_control").write_text(" ".join(wanted))


def remove_cgroup(cluster: str) -> None:
    """Remove it and all below; Failed when processes are still in it after a while."""
    deadline = time.monotonic() + _GONE_SECONDS
    for hierarchy in _hierarchies():
        top = hierarchy / cgroup(cluster)[1:]
        while top.exists():
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):  # busy as long as a killed process is not quite gone
                    Path(folder).rmdir()
            if time.monotonic() > deadline:
                raise Failed(f"{top} does not go away: something still runs in it")
            if top.exists():
                time.sleep(0.05)


def _hierarchies() -> list[Path]:
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return sorted(path.resolve() for path in _CGROUPS.iterdir() if (path / "cgroup.procs").exists())
