"""Which request proves a task, and which answers prove nothing."""

import io
import json
import wave
from typing import Any

import pytest

from bud.probe.tasks import WrongShapeError, asks_for, is_missing
from bud.probe.wire import Answer


def answer(value: Any, status: int = 200, kind: str = "application/json") -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Answer(status, {"content-type": kind}, body)


PATHS = {
    "text-generation": ["/v1/chat/completions", "/v1/completions"],
    "feature-extraction": ["/v1/embeddings"],
    "text-classification": ["/v1/classify", "/classify", "/predict"],
    "text-ranking": ["/v1/rerank", "/rerank"],
    "automatic-speech-recognition": ["/v1/audio/transcriptions"],
    "text-to-speech": ["/v1/audio/speech"],
    "text-to-image": [],
    "no-such-task": [],
}


@pytest.mark.parametrize("task", PATHS)
def test_each_task_is_asked_at_its_paths_in_order(task: str) -> None:
    assert [ask.path for ask in asks_for(task, model="m")] == PATHS[task]


GOOD = [
    ("text-generation", 0, {"choices": [{"message": {"role": "assistant", "content": None}}]}),
    ("text-generation", 1, {"choices": [{"text": ""}]}),
    ("feature-extraction", 0, {"data": [{"embedding": [0.5, -1, 0]}]}),
    ("text-classification", 0, {"data": [{"label": "LABEL_0", "probs": [1.0]}]}),
    ("text-classification", 2, [{"label": "joy", "score": 0.9}]),
    ("text-classification", 2, [[{"label": "joy", "score": 0.9}]]),
    ("text-ranking", 0, {"results": [{"index": 0, "relevance_score": 0.1}]}),
    ("text-ranking", 0, [{"index": 0, "score": 0.1}]),
    ("text-ranking", 1, [{"index": 0, "score": -2}]),
    ("automatic-speech-recognition", 0, {"text": ""}),
]


@pytest.mark.parametrize(("task", "which", "value"), GOOD)
def test_an_answer_of_the_documented_shape_counts(task: str, which: int, value: Any) -> None:
    asks_for(task, model="m")[which].check(answer(value))


def test_speech_counts_when_it_is_audio() -> None:
    asks_for("text-to-speech", model="m")[0].check(answer(b"RIFF", kind="audio/wav"))


BAD = [
    ("text-generation", b"<html>"),
    ("text-generation", []),
    ("text-generation", {"choices": []}),
    ("text-generation", {"choices": [{}]}),
    ("text-generation", {"error": {"message": "out of memory"}}),
    ("feature-extraction", {"data": [{"embedding": []}]}),
    ("feature-extraction", b'{"data": [{"embedding": [0.1, NaN]}]}'),
    ("feature-extraction", {"data": [{"embedding": [True]}]}),
    ("text-classification", {"data": [{"probs": [1.0]}]}),
    ("text-classification", []),
    ("text-ranking", {"results": []}),
    ("text-ranking", [{"index": 0}]),
    ("text-ranking", b'[{"index": 0, "score": Infinity}]'),
    ("automatic-speech-recognition", {"error": "no model"}),
    ("text-to-speech", {"detail": "no voice"}),
]


@pytest.mark.parametrize(("task", "value"), BAD)
def test_an_answer_of_another_shape_does_not(task: str, value: Any) -> None:
    with pytest.raises(WrongShapeError):
        asks_for(task, model="m")[0].check(answer(value))


@pytest.mark.parametrize(("kind", "body"), [("text/html", b"<html>"), ("audio/wav", b"")])
def test_speech_that_is_no_audio_does_not_count(kind: str, body: bytes) -> None:
    with pytest.raises(WrongShapeError):
        asks_for("text-to-speech", model="m")[0].check(answer(body, kind=kind))


@pytest.mark.parametrize(
    ("given", "body_has"),
    [
        ("/v1/completions", "prompt"),
        ("/prefix/v1/completions", "prompt"),
        ("/v1/chat/completions", "messages"),
        ("/generate", "messages"),
    ],
)
def test_a_given_path_is_the_only_one_and_gets_the_request_known_there(given: str, body_has: str) -> None:
    (ask,) = asks_for("text-generation", model="m", path=given)
    assert ask.path == given
    assert body_has in json.loads(ask.body)


def test_the_sound_is_a_wav_that_others_can_read() -> None:
    (ask,) = asks_for("automatic-speech-recognition", model="whisper-1")
    boundary = ask.content_type.partition("boundary=")[2].encode()
    parts = ask.body.split(b"--" + boundary)
    assert parts[-1] == b"--\r\n"
    assert b'name="model"\r\n\r\nwhisper-1\r\n' in parts[1]
    assert b'name="file"; filename="probe.wav"\r\nContent-Type: audio/wav' in parts[3]
    with wave.open(io.BytesIO(parts[3].partition(b"\r\n\r\n")[2][:-2])) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 16_000)
        assert sound.getnframes() / sound.getframerate() == 1.5
        assert max(sound.readframes(100)) > 0


@pytest.mark.parametrize(
    ("status", "body", "missing"),
    [
        (404, {}, True),
        (405, {}, True),
        (501, {}, True),
        (400, {"error": "you must provide a Chat Template"}, True),
        (400, {"error": "bad request"}, False),
        (500, {}, False),
        (200, {"text": "a chat template is"}, False),
    ],
)
def test_only_a_path_that_is_not_there_leads_on_to_the_next(status: int, body: Any, missing: bool) -> None:
    assert is_missing(answer(body, status)) is missing
