"""The one small request that proves a task, and the shape that its answer must have.

Paths and shapes are those of the OpenAI API (chat, completions, embeddings, audio), of vLLM (`/classify`,
Cohere's `/v1/rerank`) and of text-embeddings-inference (`/predict`, `/rerank`).
"""

import json
import math
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bud.probe.wire import Answer


class WrongShapeError(Exception):
    """An answer that came with a good status and does not hold what it should."""


class Ask(NamedTuple):
    """One request, and the check that raises WrongShapeError for an answer that proves nothing."""

    path: str
    content_type: str
    body: bytes
    check: Callable[[Answer], None]


def asks_for(task: str, *, model: str, path: str = "") -> tuple[Ask, ...]:
    """The requests that prove `task`, to be tried in order while an engine says that it lacks the path.

    `path` replaces them by one: the request that is known under this path, or else the first one sent there.
    Empty for a task whose smallest request is too dear at each start (pictures, video), or that is unknown.
    """
    asks = tuple(_asks(task, model))
    if not path or not asks:
        return asks
    known = next((ask for ask in asks if path.endswith(ask.path)), asks[0])
    return (known._replace(path=path),)


def is_missing(answer: Answer) -> bool:
    """Whether an answer means "not this way": an unknown path, or a model that cannot chat."""
    if answer.status in (404, 405, 501):
        return True
    return not answer.well and b"chat template" in answer.body.lower()


def _asks(task: str, model: str) -> Iterable[Ask]:
    if task == "text-generation":
        message = {"role": "user", "content": "Hi"}
        once = {"model": model, "max_tokens": 1, "temperature": 0, "stream": False}
        yield _json("/v1/chat/completions", {**once, "messages": [message]}, _check_chat)
        yield _json("/v1/completions", {**once, "prompt": "Hi"}, _check_completion)
    elif task == "feature-extraction":
        yield _json("/v1/embeddings", {"model": model, "input": "Hi"}, _check_embedding)
    elif task == "text-classification":
        for path in ("/v1/classify", "/classify"):
            yield _json(path, {"model": model, "input": "Hi"}, _check_classes)
        yield _json("/predict", {"inputs": "Hi"}, _check_classes)
    elif task == "text-ranking":
        query = {"model": model, "query": "Hi"}
        yield _json("/v1/rerank", {**query, "documents": ["Hi"]}, _check_ranking)
        yield _json("/rerank", {**query, "texts": ["Hi"]}, _check_ranking)
    elif task == "automatic-speech-recognition":
        body, content_type = _form({"model": model, "response_format": "json"}, wav=_tone())
        yield Ask("/v1/audio/transcriptions", content_type, body, _check_transcript)
    elif task == "text-to-speech":
        speech = {"model": model, "input": "Hi", "voice": "alloy", "response_format": "wav"}
        yield _json("/v1/audio/speech", speech, _check_audio)


def _json(path: str, body: dict[str, Any], check: Callable[[Answer], None]) -> Ask:
    return Ask(path, "application/json", json.dumps(body).encode(), check)


def _form(fields: dict[str, str], *, wav: bytes) -> tuple[bytes, str]:
    boundary = "bud-probe-5f1d0c8e7b9a"
    disposition = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    body = "".join(f'{disposition}{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    body += f'{disposition}file"; filename="probe.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    return (
        body.encode() + wav + f"\r\n--{boundary}--\r\n".encode(),
        f"multipart/form-data; boundary={boundary}",
    )


def _tone() -> bytes:
    """1.5 s of a 440 Hz tone: 16-bit mono WAV at 16 kHz, the rate that Whisper works at.

    Speech recognisers refuse or skip what is much shorter than a second.
    """
    rate, count = 16_000, 24_000
    samples = (int(8_000 * math.sin(2 * math.pi * 440 * n / rate)) for n in range(count))
    data = struct.pack(f"<{count}h", *samples)
    wave_format = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE")
        + wave_format
        + struct.pack("<4sI", b"data", len(data))
        + data
    )


def _check_chat(answer: Answer) -> None:
    message = _first(_object(answer), "choices").get("message")
    if not isinstance(message, dict):
        raise WrongShapeError("choices[0] has no message")


def _check_completion(answer: Answer) -> None:
    if not isinstance(_first(_object(answer), "choices").get("text"), str):
        raise WrongShapeError("choices[0] has no text")


def _check_embedding(answer: Answer) -> None:
    vector = _first(_object(answer), "data").get("embedding")
    if not isinstance(vector, list) or not vector or not all(_is_finite(number) for number in vector):
        raise WrongShapeError("data[0].embedding is not a list of finite numbers")


def _check_classes(answer: Answer) -> None:
    found = _decode(answer)
    while isinstance(found, list) and found and isinstance(found[0], list):
        found = found[0]  # text-embeddings-inference nests one list per input of a batch
    first = _first(found, "data") if isinstance(found, dict) else _head_of(found, "the answer")
    if "label" not in first:
        raise WrongShapeError("the first class has no label")


def _check_ranking(answer: Answer) -> None:
    found = _decode(answer)
    first = _first(found, "results") if isinstance(found, dict) else _head_of(found, "the answer")
    if not _is_finite(first.get("relevance_score", first.get("score"))):
        raise WrongShapeError("the first result has no finite score")


def _check_transcript(answer: Answer) -> None:
    if not isinstance(_object(answer).get("text"), str):
        raise WrongShapeError("there is no text")


def _check_audio(answer: Answer) -> None:
    kind = answer.headers.get("content-type", "")
    if not answer.body or not kind.startswith(("audio/", "application/octet-stream")):
        raise WrongShapeError(f"{len(answer.body)} bytes of {kind or 'an unknown type'} are no audio")


def _decode(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError as error:
        raise WrongShapeError("it is not JSON") from error


def _object(answer: Answer) -> dict[str, Any]:
    found = _decode(answer)
    if not isinstance(found, dict):
        raise WrongShapeError("it is not a JSON object")
    return found


def _first(found: dict[str, Any], key: str) -> dict[str, Any]:
    return _head_of(found.get(key), key)


def _head_of(found: Any, name: str) -> dict[str, Any]:
    if not isinstance(found, list) or not found or not isinstance(found[0], dict):
        raise WrongShapeError(f"{name} holds nothing")
    return found[0]


def _is_finite(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
