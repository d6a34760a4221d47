"""Forms on their way through the gateway, to an upstream that reads them with another reader."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.forms import parts
from tests.integration.gateway.upstream import Upstream, failing, running, unread
from tests.tiny_engine import free_port
from tests.waiting import eventually, exceeds

MIB = 1024 * 1024
AUDIO = b"RIFF" + bytes(range(256)) * 64 + b"\r\n--\r\n"
USAGE = {"type": "tokens", "input_tokens": 14, "output_tokens": 2, "total_tokens": 16}
BOUNDARY = "c0ffee"


async def hear(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """Transcribes as the API says, and refuses what it does not say."""
    fields, heard = dict[str, list[bytes]](), hashlib.sha256()
    async for name, filename, data in parts(request):
        assert filename == ("speech.wav" if name == "file" else None)
        if data is None:
            fields.setdefault(name, []).append(b"")
        elif name == "file":
            heard.update(data)
        else:
            fields[name][-1] += data
    del fields["file"]
    said = {name: [value.decode() for value in values] for name, values in fields.items()}
    if said.pop("model") != ["whisper"]:
        return failing(404, "another model was asked for")
    text = f"{heard.hexdigest()} {sorted(said.items())}"
    if said.get("stream") == ["true"]:
        return await say(request, text)
    if said.get("response_format") == ["text"]:
        return web.Response(text=text)
    return web.json_response({"text": text, "usage": USAGE})


async def say(request: web.Request, text: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    deltas = [{"type": "transcript.text.delta", "delta": word} for word in text.split()]
    for event in (*deltas, {"type": "transcript.text.done", "text": text, "usage": USAGE}):
        await response.write(f"data: {httpx.Response(200, json=event).text}\n\n".encode())
    return response


@pytest.fixture(scope="module")
def flaky() -> Iterator[Upstream]:
    """Fails a request once, before or after it has read much, and then listens."""
    left = [True]

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if left[0] and "once" in request.headers["x-request-id"]:
            left[0] = False
            if "late" in request.headers["x-request-id"]:
                await request.content.readexactly(4 * MIB)
            return failing(503, "not now")
        left[0] = True
        return await hear(request, body)

    with running(answer, read=unread) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, flaky: Upstream) -> Iterator[GatewayProcess]:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    prices = {"inputTokensPer1k": 1, "outputTokensPer1k": 2}
    offers = [{"name": name, "upstreamName": "whisper", "pricing": prices} for name in ("ears", "spare")]
    spoken = {"modelRef": {"name": "m"}}
    objects = (
        project(),
        key(),
        key("bounded", "bud_bounded", limits={"requestsPerDay": 1}),
        key("narrow", "bud_narrow", scopes={"endpoints": ["audio/speech"]}),
        provider("p", flaky.url, models=offers),
        provider("gone", dead, "spare", priority=9),
        {
            "apiVersion": "bud.studio/v1alpha1", "kind": "Deployment", "metadata": {"name": "whisper"}, "spec": spoken,
            "status": {"endpointURL": flaky.url, "readyReplicas": 1},
        },
    )  # fmt: skip
    with running_gateway(tmp_path_factory.mktemp("uploads") / "objects", *objects) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", max_retries=0) as made:
        yield made


def field(name: str, value: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file(data: bytes = AUDIO) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="speech.wav"\r\n\r\n'
    return head.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def send(
    gateway: GatewayProcess,
    form: bytes | Iterator[bytes],
    path: str = "/v1/audio/transcriptions",
    secret: str = KEY,
    **headers: str,
) -> httpx.Response:
    told = {"Authorization": f"Bearer {secret}", "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return httpx.post(f"{gateway.url}{path}", content=form, headers=told | headers, timeout=120)


def opened(gateway: GatewayProcess, length: int, **headers: str) -> http.client.HTTPConnection:
    """An upload of which nothing is sent yet."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.putrequest("POST", "/v1/audio/transcriptions")
    told = {"Authorization": f"Bearer {KEY}", "Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    for name, value in {**told, "Content-Length": str(length), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection


def heard(data: bytes = AUDIO, **fields: str) -> str:
    return f"{hashlib.sha256(data).hexdigest()} {sorted((name, [value]) for name, value in fields.items())}"


def test_the_sdk_has_speech_written_down(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.with_raw_response.create(
        model="ears", file=("speech.wav", AUDIO), language="en", temperature=0.5, extra_body={"of_tomorrow": "1"}
    )
    found = answer.parse()
    assert found.text == heard(language="en", of_tomorrow="1", temperature="0.5")
    metadata: Any = (found.model_extra or {})["conduit_metadata"]
    assert (metadata["provider"], metadata["model_version"]) == ("openai-compatible", "whisper")
    assert metadata["cost"] == pytest.approx(0.018)
    assert answer.headers["x-conduit-provider"] == "openai-compatible"
    assert answer.headers["x-conduit-model-version"] == "whisper"
    assert answer.headers["x-conduit-virtual-key-id"] == "alice"
    assert float(answer.headers["x-conduit-cost"]) == pytest.approx(0.018)
    assert int(answer.headers["x-conduit-processing-time-ms"]) >= 0


def test_the_sdk_has_speech_translated_into_plain_text(client: openai.OpenAI) -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):  # of the SDK's own, for OpenAI's own translations
        answer = client.audio.translations.with_raw_response.create(
            model="ears", file=("speech.wav", AUDIO), response_format="text"
        )
    assert answer.text == heard(response_format="text")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-conduit-model-version"] == "whisper"
    assert "x-conduit-cost" not in answer.headers  # the upstream said nothing of tokens


def test_the_sdk_hears_words_as_they_come(client: openai.OpenAI) -> None:
    events = list(client.audio.transcriptions.create(model="ears", file=("speech.wav", AUDIO), stream=True))
    *words, last = events
    assert " ".join(event.delta for event in words if event.type == "transcript.text.delta") == heard(stream="true")
    assert last.type == "transcript.text.done" and last.usage is not None and last.usage.input_tokens == 14
    assert (last.model_extra or {})["conduit_metadata"]["cost"] == pytest.approx(0.018)


@pytest.mark.parametrize("whole", ["yes", "no"], ids=["of a known length", "in chunks"])
@pytest.mark.parametrize("size", [0, 100, 3 * MIB], ids=["empty", "short", "longer than is kept in memory"])
@pytest.mark.parametrize("at", [0, 1, 2], ids=["model first", "model in the middle", "model last"])
def test_model_may_stand_anywhere(gateway: GatewayProcess, flaky: Upstream, at: int, size: int, whole: str) -> None:
    data = AUDIO[:1000] * (size // 1000) + AUDIO[: size % 1000]
    parts = [file(data), field("prompt", "hm")]
    parts.insert(at, field("model", "ears"))
    form = b"".join([*parts, END])
    found = send(gateway, form if whole == "yes" else iter([*parts, END]))
    assert found.json()["text"] == heard(data, prompt="hm")
    _, headers, _ = flaky.asked[-1]
    length = len(form) + len("whisper") - len("ears")
    wanted = {"content-length": str(length)} if whole == "yes" else {"transfer-encoding": "chunked"}
    assert wanted.items() <= headers.items()


def test_an_upload_is_tried_again_while_all_of_it_is_kept(gateway: GatewayProcess) -> None:
    found = send(gateway, field("model", "whisper") + file(bytes(MIB // 2)) + END, **{"X-Request-ID": "once"})
    assert found.json()["text"] == heard(bytes(MIB // 2))


def test_an_upload_of_which_more_has_passed_is_the_callers_to_try_again(gateway: GatewayProcess) -> None:
    found = send(gateway, field("model", "whisper") + file(bytes(8 * MIB)) + END, **{"X-Request-ID": "once-late"})
    assert (found.status_code, found.json()["error"]["message"]) == (503, "not now")


def test_a_file_that_came_before_model_can_be_sent_again_however_long(gateway: GatewayProcess) -> None:
    data = bytes(8 * MIB)
    found = send(gateway, file(data) + field("model", "whisper") + END, **{"X-Request-ID": "once-more"})
    assert found.json()["text"] == heard(data)


def test_what_cannot_be_reached_was_sent_nothing_so_the_next_gets_all(gateway: GatewayProcess) -> None:
    data = bytes(8 * MIB)
    assert send(gateway, field("model", "spare") + file(data) + END).json()["text"] == heard(data)


def test_an_upload_that_comes_twice_is_heard_once(gateway: GatewayProcess, flaky: Upstream) -> None:
    once, count = {"Idempotency-Key": "twice"}, len(flaky.asked)
    first = send(gateway, field("model", "ears") + field("language", "en") + file() + END, **once)
    other = field("language", "en") + file() + field("model", "ears") + END
    told = {"Content-Type": "multipart/form-data; boundary=another"}
    again = send(gateway, field("model", "ears") + field("language", "en") + file() + END, **once)
    same = (field("model", "ears") + field("language", "en") + file() + END).replace(BOUNDARY.encode(), b"another")
    beyond = send(gateway, same, **once, **told)
    assert first.json()["text"] == heard(language="en")
    assert (again.content, beyond.content, len(flaky.asked)) == (first.content, first.content, count + 1)
    assert again.headers["idempotent-replayed"] == beyond.headers["idempotent-replayed"] == "true"
    for form in (other, field("model", "ears") + field("language", "en") + file(AUDIO + b".") + END):
        refusal = send(gateway, form, **once)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_an_upload_that_is_still_coming_or_broke_off(gateway: GatewayProcess) -> None:
    once, form = {"Idempotency-Key": "slow"}, field("model", "ears") + file() + END
    upload = opened(gateway, len(form), **once)
    upload.send(form[:-10])

    def busy() -> None:
        refusal = send(gateway, form, **once)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (409, "idempotency_in_flight")

    def free() -> None:
        assert send(gateway, form, **once).status_code == 200

    eventually(busy)
    upload.close()
    eventually(free)


def test_a_deployments_own_address_needs_no_model(gateway: GatewayProcess) -> None:
    path = "/projects/team/deployments/whisper/v1/audio/transcriptions"
    assert send(gateway, file() + END, path).json()["text"] == heard()


@pytest.mark.parametrize(
    ("parts", "status", "param", "code"),
    [
        ([file(), END], 400, "model", "missing_required_parameter"),
        ([field("model", "ears"), END], 400, "file", "missing_required_parameter"),
        ([field("model", "ears"), field("model", "other"), file(), END], 400, "model", "invalid_value"),
        ([field("model", "ears"), file(), field("model[]", "other"), END], 400, "model", "invalid_value"),
        ([field("model", "nothing"), file(), END], 404, "model", "model_not_found"),
        ([field("model", "m" * 70_000), file(), END], 400, "model", "invalid_value"),
        ([field("model", "ears"), field("temperature", "1.5"), file(), END], 400, "temperature", "invalid_value"),
        ([field("model", "ears"), file(bytes(4 * MIB)), field("temperature", "9"), END], 400, "temperature", "invalid_value"),
        ([file(), field("response_format", "docx"), field("model", "ears"), END], 400, "response_format", "invalid_value"),
        ([field("temperature", "0"), field("temperature", "9"), END], 400, "temperature", "invalid_value"),
        ([field("model", "ears"), file()], 400, None, "invalid_form"),
        ([field("model", "ears"), file(bytes(4 * MIB))], 400, None, "invalid_form"),
        ([b"model=ears"], 400, None, "invalid_form"),
        ([b""], 400, None, "invalid_form"),
    ],
    ids=lambda value: repr(b"".join(value)[:90]) if isinstance(value, list) else None,
)  # fmt: skip
def test_forms_that_cannot_be_meant(
    gateway: GatewayProcess, parts: list[bytes], status: int, param: str | None, code: str
) -> None:
    found = send(gateway, b"".join(parts))
    error = found.json()["error"]
    assert (found.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error"


def test_json_is_no_form(gateway: GatewayProcess) -> None:
    found = send(gateway, b"{}", **{"Content-Type": "application/json"})
    assert (found.status_code, found.json()["error"]["code"]) == (400, "invalid_form")


def test_keys_bind_uploads_too(gateway: GatewayProcess) -> None:
    form = field("model", "ears") + file() + END
    assert send(gateway, form, secret="bud_narrow").status_code == 403
    assert send(gateway, form, secret="bud_wrong").status_code == 401
    first, second = (send(gateway, form, secret="bud_bounded") for _ in range(2))
    assert (first.status_code, first.headers["x-ratelimit-remaining-requests"]) == (200, "0")
    assert (second.status_code, second.json()["error"]["type"]) == (429, "rate_limit_error")


def test_more_than_is_allowed_is_told_before_it_is_sent(gateway: GatewayProcess) -> None:
    connection = opened(gateway, 200 * MIB + 1)
    found = connection.getresponse()
    assert found.status == 413
    assert b"request_too_large" in found.read()
    connection.close()


def test_200_mib_pass_in_little_memory_and_one_byte_more_does_not(gateway: GatewayProcess) -> None:
    model, around = field("model", "whisper"), file(b"")
    room = 200 * MIB - len(model) - len(around) - len(END)

    def pieces(size: int, *, model_first: bool) -> Iterator[bytes]:
        yield (model if model_first else b"") + around[:-2]
        yield from (bytes(min(MIB, size - at)) for at in range(0, size, MIB))
        yield b"\r\n" + (b"" if model_first else model) + END

    def status(size: int, *, model_first: bool = True) -> int:
        return send(gateway, pieces(size, model_first=model_first)).status_code

    before = peak(gateway)
    assert status(64 * MIB, model_first=False) == 200  # this one goes over a disk
    assert peak(gateway) - before < 16 * MIB
    assert (status(room), status(room + 1)) == (200, 413)
    assert peak(gateway) - before < 16 * MIB


def peak(gateway: GatewayProcess) -> int:
    """The most memory that the process ever had, in bytes."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_form_that_stops_before_its_model_is_not_waited_for(gateway: GatewayProcess) -> None:
    connection = opened(gateway, MIB, **{"X-Request-Timeout": "0.3"})
    connection.send(file())
    found = connection.getresponse()
    assert (found.status, orjson.loads(found.read())["error"]["code"]) == (408, "timeout")
    connection.close()


def test_a_caller_who_hangs_up_amid_an_upload_ends_it(gateway: GatewayProcess, flaky: Upstream) -> None:
    left, asked = flaky.hung_up, len(flaky.asked)
    connection = opened(gateway, MIB)
    connection.send(field("model", "whisper") + file()[:-2])
    eventually(lambda: exceeds(len(flaky.asked), asked), within=20)
    connection.close()
    eventually(lambda: exceeds(flaky.hung_up, left), within=20)
