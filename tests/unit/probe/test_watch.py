"""What `/readyz` says through an engine's life, and that each start of it costs one request."""

import json
from collections.abc import AsyncIterator

import pytest

from bud.probe.watch import Target, Watch
from bud.probe.wire import Address
from tests.unit.probe.engine import ScriptedEngine

CHAT = "/v1/chat/completions"
GOOD = (200, {"choices": [{"message": {"role": "assistant", "content": "x"}}]})


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def engine() -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine({CHAT: GOOD})
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def watch(engine: ScriptedEngine, clock: Clock, log: list[str]) -> Watch:
    return Watch(target(engine), log=log.append, clock=clock)


def target(engine: ScriptedEngine, task: str = "text-generation") -> Target:
    return Target(Address("127.0.0.1", engine.port, ""), "/health", task, "my-model")


def test_it_is_not_ready_before_it_has_looked(watch: Watch) -> None:
    assert watch.readiness() == (False, "the engine was not reached yet")


async def test_one_answer_makes_it_ready_and_no_more_are_asked(engine: ScriptedEngine, watch: Watch) -> None:
    for _ in range(5):
        await watch.step()
    assert watch.readiness()[0]
    assert engine.asked == [CHAT]
    assert b'"model": "my-model"' in engine.bodies[0]
    assert b'"max_tokens": 1' in engine.bodies[0]


async def test_an_engine_that_still_loads_is_not_asked(engine: ScriptedEngine, watch: Watch) -> None:
    engine.health = 503
    await watch.step()
    assert watch.readiness() == (False, "GET /health: status 503: loading the model")
    assert engine.asked == []


async def test_a_dead_engine_is_not_ready_even_before_the_next_poll(engine: ScriptedEngine, watch: Watch) -> None:
    await watch.step()
    await engine.stop()
    assert watch.readiness() == (False, "the engine went away; its next start will be proven anew")
    await watch.step()
    assert watch.readiness() == (False, "GET /health: nothing listens there yet")


async def test_a_start_that_no_poll_saw_the_end_of_is_proven_anew(engine: ScriptedEngine, watch: Watch) -> None:
    await watch.step()
    await engine.restart()
    assert not watch.readiness()[0]
    await watch.step()
    assert watch.readiness()[0]
    assert engine.asked == [CHAT, CHAT]


async def test_a_restart_is_seen_by_refused_connections_where_sockets_are_not(
    engine: ScriptedEngine, log: list[str]
) -> None:
    watch = Watch(target(engine), log=log.append, sockets=lambda port: frozenset())
    await watch.step()
    await watch.step()
    assert watch.readiness()[0]
    await engine.stop()
    await watch.step()
    await engine.start()
    await watch.step()
    assert watch.readiness()[0]
    assert engine.asked == [CHAT, CHAT]


async def test_an_engine_that_is_ill_for_a_while_is_not_asked_again(engine: ScriptedEngine, watch: Watch) -> None:
    await watch.step()
    engine.health = 500
    await watch.step()
    assert not watch.readiness()[0]
    engine.health = 200
    await watch.step()
    assert watch.readiness()[0]
    assert engine.asked == [CHAT]


async def test_an_engine_that_opens_another_socket_is_the_same_start(engine: ScriptedEngine) -> None:
    inodes = [frozenset({1})]
    watch = Watch(target(engine), log=lambda _: None, sockets=lambda port: inodes[0])
    await watch.step()
    inodes[0] = frozenset({1, 2})
    await watch.step()
    assert watch.readiness()[0]
    assert engine.asked == [CHAT]


async def test_a_failing_answer_tells_the_engines_error_and_is_retried_with_backoff(
    engine: ScriptedEngine, watch: Watch, clock: Clock
) -> None:
    engine.replies[CHAT] = (500, {"error": "CUDA out of memory"})
    waits = []
    for tries in range(1, 9):
        await watch.step()
        ready, reason = watch.readiness()
        assert not ready
        assert "POST /v1/chat/completions: status 500" in reason
        assert "CUDA out of memory" in reason
        began = clock.now
        while len(engine.asked) == tries:
            clock.now += 1
            await watch.step()
        waits.append(clock.now - began)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    engine.replies[CHAT] = GOOD
    clock.now += 60
    await watch.step()
    assert watch.readiness()[0]


async def test_a_new_start_is_asked_at_once_whatever_the_last_one_waited_for(
    engine: ScriptedEngine, watch: Watch
) -> None:
    engine.replies[CHAT] = (500, {"error": "broken"})
    await watch.step()
    await watch.step()
    assert engine.asked == [CHAT]
    await engine.restart()
    engine.replies[CHAT] = GOOD
    await watch.step()
    assert watch.readiness()[0]


async def test_an_answer_that_came_while_the_engine_restarted_proves_nothing(
    engine: ScriptedEngine, log: list[str]
) -> None:
    start = [frozenset({1})]

    async def come_back() -> None:
        start[0] = frozenset({2})

    watch = Watch(target(engine), log=log.append, sockets=lambda port: start[0])
    engine.while_asked = come_back
    await watch.step()
    assert watch.readiness() == (False, "waiting for the first answer")
    await watch.step()
    assert watch.readiness()[0]
    assert engine.asked == [CHAT, CHAT]


@pytest.mark.parametrize(
    "refusal",
    [
        (404, {"detail": "Not Found"}),
        (501, {"error": "not supported"}),
        (400, {"error": {"message": "default chat template is no longer allowed; provide a chat template"}}),
    ],
)
async def test_a_model_that_cannot_chat_is_asked_to_complete(
    engine: ScriptedEngine, watch: Watch, refusal: tuple[int, object]
) -> None:
    engine.replies = {CHAT: refusal, "/v1/completions": (200, {"choices": [{"text": ""}]})}
    await watch.step()
    assert watch.readiness()[0]
    assert engine.asked == [CHAT, "/v1/completions"]


async def test_an_error_of_the_chat_is_not_hidden_by_asking_otherwise(engine: ScriptedEngine, watch: Watch) -> None:
    engine.replies = {CHAT: (400, {"error": "bad"}), "/v1/completions": (200, {"choices": [{"text": "x"}]})}
    await watch.step()
    assert not watch.readiness()[0]
    assert engine.asked == [CHAT]


async def test_a_good_status_without_an_answer_is_not_ready(engine: ScriptedEngine, watch: Watch) -> None:
    engine.replies[CHAT] = (200, {"choices": []})
    await watch.step()
    assert watch.readiness()[1].startswith("POST /v1/chat/completions: a good status, but choices holds nothing")


async def test_a_task_too_dear_to_ask_is_ready_when_healthy(engine: ScriptedEngine, log: list[str]) -> None:
    watch = Watch(target(engine, "text-to-image"), log=log.append)
    await watch.step()
    assert watch.readiness() == (True, "healthy; this task is not asked")
    assert engine.asked == []


async def test_transitions_are_told_once(watch: Watch, log: list[str]) -> None:
    for _ in range(4):
        await watch.step()
    assert [line.split(":")[0] for line in log] == ["not ready", "ready"]


async def test_each_adapter_is_asked_once_by_its_name_where_requests_are_taken(engine: ScriptedEngine) -> None:
    relay = ScriptedEngine({CHAT: GOOD})
    await relay.start()
    asked = target(engine)._replace(adapters=("pirate", "poet"), ask=Address("127.0.0.1", relay.port, ""))
    watch = Watch(asked, log=lambda _: None)
    for _ in range(3):
        await watch.step()
    await relay.stop()
    assert watch.readiness()[0]
    assert engine.asked == []
    assert [json.loads(body)["model"] for body in relay.bodies] == ["my-model", "pirate", "poet"]


async def test_an_adapter_that_does_not_answer_is_named(engine: ScriptedEngine) -> None:
    async def fail_from_the_second() -> None:
        if len(engine.asked) == 2:
            engine.replies[CHAT] = (500, {"error": "no such adapter"})

    watch = Watch(target(engine)._replace(adapters=("pirate",)), log=lambda _: None)
    engine.while_asked = fail_from_the_second
    await watch.step()
    ready, reason = watch.readiness()
    assert not ready
    assert "adapter pirate: POST /v1/chat/completions: status 500" in reason
