"""What the program says, and what it never says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bud.weights.report import Progress, Redactor, Report, write_termination

REDACTED = [
    ("the token hf_secret is bad", "the token *** is bad"),
    ("a%2Fb%3D in an address, a/b= in a header", "*** in an address, *** in a header"),
    ("http://me:pass@host/x", "http://***@host/x"),
    ("GET http://host/x?sig=abc&se=2 failed", "GET http://host/x?*** failed"),
    ("is it there? yes", "is it there? yes"),
    ("file?.bin", "file?.bin"),
]


@pytest.mark.parametrize(("text", "told"), REDACTED, ids=[row[1] for row in REDACTED])
def test_secrets_are_removed(text: str, told: str) -> None:
    assert Redactor(["hf_secret", "a/b="])(text) == told


def test_a_secret_inside_another_leaves_no_rest() -> None:
    assert Redactor(["secret", "secret-longer"])("secret-longer") == "***"


def test_the_speed_is_that_of_the_last_ten_seconds() -> None:
    now = 0.0
    progress = Progress(clock=lambda: now)
    progress.expect(files=2, size=10_000)
    progress.hold(1_000)
    seen = []
    for _ in range(20):
        now += 1
        progress.moved(100 if now <= 10 else 300)
        seen.append(progress.snapshot())

    assert (seen[4]["bytesDone"], seen[4]["bytesPerSecond"]) == (1_500, 100)
    assert (seen[-1]["bytesDone"], seen[-1]["bytesPerSecond"]) == (5_000, 300)
    assert seen[-1]["secondsLeft"] == 5_000 // 300


def test_without_speed_or_size_no_time_is_promised() -> None:
    progress = Progress(clock=lambda: 1.0)
    progress.expect(files=1, size=10)
    assert progress.snapshot()["secondsLeft"] is None
    progress.hold(10)
    assert progress.snapshot()["secondsLeft"] == 0
    progress.expect(files=1, size=None)
    assert progress.snapshot()["secondsLeft"] is None


def test_every_line_holds_the_progress() -> None:
    lines: list[bytes] = []
    report = Report(Redactor(["secret"]), write=lines.append)

    report.tick()
    report.say("two\nlines with a secret" + "x" * 2000)

    rows = [json.loads(line) for line in lines]
    assert all(row["progress"]["bytesDone"] == 0 for row in rows)
    assert rows[1]["message"].startswith("two lines with a ***x")
    assert len(rows[1]["message"]) == 900


def test_a_failure_always_fits_the_termination_message(tmp_path: Path) -> None:
    report = Report(Redactor([]), write=lambda _: None)

    write_termination(report.failed("R", "\N{PILE OF POO}" * 5000), str(tmp_path / "log"))

    assert json.loads((tmp_path / "log").read_text())["error"]["reason"] == "R"
    assert (tmp_path / "log").stat().st_size <= 4096
