"""bud-probe beside a real engine, both as processes: when a pod would be ready, and what that costs."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.tiny_engine import free_port, start_tiny
from tests.tiny_model import write_tiny_model

WAIT_SECONDS = 20.0
MEMORY_MIB = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


class Pod:
    """An engine and a probe, as they stand in one pod."""

    def __init__(self, model: Path, *, task: str = "text-generation", drain_seconds: int = 0, ask: str = "") -> None:
        self.model = model
        self.engine_port, self.probe_port = free_port(), free_port()
        settings = {
            "BUD_PROBE_ENGINE": f"http://127.0.0.1:{self.engine_port}",
            "BUD_PROBE_MODEL": "tiny",
            "BUD_PROBE_TASK": task,
            "BUD_PROBE_PORT": str(self.probe_port),
            "BUD_PROBE_DRAIN": str(drain_seconds),
            "BUD_PROBE_ASK": ask,
        }
        self.engine: subprocess.Popen[str] | None = None
        self.probe = subprocess.Popen([sys.executable, "-m", "bud.probe"], env={**os.environ, **settings})

    def start_engine(self) -> None:
        self.engine = start_tiny(self.model, self.engine_port)

    def kill_engine(self) -> None:
        if self.engine:
            self.engine.kill()
            self.engine.communicate()
            self.engine = None

    def readyz(self) -> tuple[int, str]:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.probe_port}/readyz", timeout=5)
        except httpx.TransportError as error:
            return 0, str(error)
        return answer.status_code, answer.text

    def drain(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.probe_port}/drain", timeout=30).text

    def tokens_generated(self) -> int:
        text = httpx.get(f"http://127.0.0.1:{self.engine_port}/metrics", timeout=5).text
        found = re.search(r"^llamacpp:tokens_predicted_total (\d+)$", text, re.MULTILINE)
        assert found
        return int(found[1])

    def close(self) -> None:
        self.kill_engine()
        self.probe.kill()
        self.probe.wait()


@pytest.fixture
def pod(model: Path) -> Iterator[Pod]:
    pod = Pod(model)
    yield pod
    pod.close()


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited {WAIT_SECONDS} s for {what}"
        time.sleep(0.02)


def assert_stays(condition: Callable[[], object], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert condition()
        time.sleep(0.1)


def test_each_start_of_an_engine_is_proven_by_exactly_one_answer(pod: Pod) -> None:
    wait_for(lambda: pod.readyz()[0] == 503, "the probe to serve")
    assert_stays(lambda: pod.readyz()[0] == 503, seconds=1)

    pod.start_engine()
    wait_for(lambda: pod.readyz()[0] == 200, "the first proof")
    assert "POST /v1/chat/completions answered" in pod.readyz()[1]
    assert_stays(lambda: pod.tokens_generated() == 1, seconds=3)

    pod.kill_engine()
    assert pod.readyz()[0] == 503

    pod.start_engine()
    wait_for(lambda: pod.readyz()[0] == 200, "the second proof")
    assert_stays(lambda: pod.tokens_generated() == 1, seconds=2)


def test_an_engine_that_comes_back_between_two_polls_is_proven_anew(pod: Pod) -> None:
    pod.start_engine()
    wait_for(lambda: pod.readyz()[0] == 200, "the first proof")
    # The probe sees nothing of the death: it is stopped meanwhile.
    pod.probe.send_signal(signal.SIGSTOP)
    pod.kill_engine()
    pod.start_engine()
    assert pod.tokens_generated() == 0
    pod.probe.send_signal(signal.SIGCONT)
    wait_for(lambda: pod.tokens_generated() == 1, "the second proof")
    wait_for(lambda: pod.readyz()[0] == 200, "the second proof to be told")


def test_an_engine_that_cannot_do_its_task_is_never_ready_and_says_why(model: Path) -> None:
    pod = Pod(model, task="feature-extraction")
    try:
        pod.start_engine()
        wait_for(lambda: "status 501" in pod.readyz()[1], "the engine's error")
        status, text = pod.readyz()
        assert status == 503
        assert "POST /v1/embeddings" in text
        assert "Start it with `--embeddings`" in text
    finally:
        pod.close()


def test_an_engine_may_end_once_no_caller_waits_for_it(pod: Pod) -> None:
    pod.start_engine()
    wait_for(lambda: pod.readyz()[0] == 200, "the first proof")
    wait_for(lambda: "nobody waits" in pod.drain(), "the proof's own connection to be gone")
    with socket.create_connection(("127.0.0.1", pod.engine_port)) as caller:
        caller.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert "still wait for an answer" in pod.drain()
    wait_for(lambda: "nobody waits" in pod.drain(), "the caller to be gone")


def test_behind_a_relay_callers_wait_there(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as relay:
        address = relay.getsockname()
        pod = Pod(model, ask=f"http://127.0.0.1:{address[1]}")
        try:
            wait_for(lambda: pod.readyz()[0], "the probe to serve")
            assert "nobody waits" in pod.drain()
            with socket.create_connection(address) as caller, relay.accept()[0] as taken:
                caller.sendall(b"POST")
                taken.recv(4)
                assert "1 callers still wait" in pod.drain()
        finally:
            pod.close()


def test_it_lives_and_is_small_and_ends_at_once(pod: Pod) -> None:
    wait_for(lambda: pod.readyz()[0], "the probe to serve")
    assert httpx.get(f"http://127.0.0.1:{pod.probe_port}/healthz").status_code == 200
    assert httpx.get(f"http://127.0.0.1:{pod.probe_port}/other").status_code == 404
    status = Path(f"/proc/{pod.probe.pid}/status").read_text()
    memory = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert memory
    assert int(memory[1]) < MEMORY_MIB * 1024
    began = time.monotonic()
    pod.probe.send_signal(signal.SIGTERM)
    assert pod.probe.wait(timeout=5) == 0
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "BUD_PROBE_ENGINE is not set"),
        ({"BUD_PROBE_ENGINE": "https://x"}, "is not an http"),
    ],
)
def test_wrong_settings_end_it_with_status_two(settings: dict[str, str], said: str) -> None:
    env = {"PATH": os.environ["PATH"], "BUD_PROBE_MODEL": "m", **settings}
    command = [sys.executable, "-m", "bud.probe"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert said in done.stderr


def test_it_loads_nothing_but_the_standard_library() -> None:
    code = "import bud.probe.__main__, sys; print(*sys.modules)"
    command = [sys.executable, "-S", "-c", code]
    source = str(Path(__file__).parents[2] / "operator")
    done = subprocess.run(command, env={"PYTHONPATH": source}, capture_output=True, text=True, timeout=20, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"__main__", "bud"}
