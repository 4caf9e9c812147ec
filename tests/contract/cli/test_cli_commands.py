"""The command against a real gateway before scripted services: what it prints, where, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from headgate.quota.v1 import ledger_pb2 as ledger
from headgate.quota.v1 import quota_pb2 as quota
from headgate.scheduler.v1 import scheduler_pb2 as sched

from services.cli.__main__ import main
from services.cli.screen import Progress, ascii_drawing, duration, visible
from tests.servers.command import run
from tests.servers.gateway import (
    ADMIN_KEY,
    BASIC,
    DEADLINE_S,
    FREE,
    NOW,
    Running,
    quota_refusal,
    scheduler_refusal,
)

ID = "req_0000000000000000000001"
SOURCE = "flowchart TD\n  A[Start] --> B[End]"


async def drawn(gateway: Running, *arguments: str, **end: Any) -> int:
    """Runs `generate` and lets its request complete."""
    running = asyncio.create_task(run("generate", "a start and an end", *arguments))
    await gateway.scheduler.until(lambda: bool(gateway.scheduler.watched))
    request_id = next(iter(gateway.scheduler.watched))
    await gateway.scheduler.until(lambda: bool(gateway.scheduler.named("Replay")))
    gateway.scheduler.emit(sched.Event(request_id=request_id, seq=1, processing=sched.Processing(attempt=1)))
    gateway.scheduler.finish(request_id, 2, **{"result": SOURCE, "cost_nano_usd": 5, **end})
    return await running


async def test_generate_prints_the_source_where_it_is_piped(
    gateway: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await drawn(gateway, "--kind", "flowchart", "--max-wait", "10m") == 0
    assert capsys.readouterr() == (SOURCE + "\n", "")
    (sent,) = gateway.scheduler.named("Submit")
    assert (sent.work.prompt, sent.work.diagram_type) == ("a start and an end", "flowchart")
    assert (sent.max_wait.ToMilliseconds(), sent.idempotent) == (600_000, True)


async def test_generate_writes_files(gateway: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.scheduler.svg = "<svg/>"
    svg, source = tmp_path / "a.svg", tmp_path / "a.mmd"
    assert await drawn(gateway, "--svg", str(svg), "--output", str(source)) == 0
    assert (svg.read_text(), source.read_text()) == ("<svg/>", SOURCE + "\n")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(svg) in printed.err.replace("\n", "")


async def test_a_file_that_cannot_be_written_is_said(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await drawn(gateway, "--output", "/nowhere/a.mmd") == 1
    assert capsys.readouterr().err == "headgate: /nowhere/a.mmd cannot be written: No such file or directory.\n"


async def test_generate_for_programs_is_one_object_a_line(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert await drawn(gateway, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("type", line.get("status")) for line in lines] == ["queued", "status", "processing", "completed"]
    assert (lines[-1]["result"], lines[-1]["costNanoUsd"]) == (SOURCE, 5)


async def test_an_answer_may_hold_every_kind_of_line_break(
    gateway: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    source = 'flowchart TD\n  A["a\u2028b\u2029c\x85d\x1ee"]'
    assert await drawn(gateway, "--json", result=source) == 0
    assert json.loads(capsys.readouterr().out.split("\n")[-2])["result"] == source


async def test_generate_comes_back_to_its_events_and_misses_none(
    gateway: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    running = asyncio.create_task(run("generate", "a", "--json"))
    await gateway.scheduler.until(lambda: bool(gateway.scheduler.watched))
    (request_id,) = gateway.scheduler.watched
    gateway.scheduler.emit(sched.Event(request_id=request_id, seq=1, processing=sched.Processing(attempt=1)))
    await gateway.scheduler.until(lambda: bool(gateway.scheduler.named("Replay")))
    gateway.gateway.events.close()
    gateway.scheduler.emit(
        sched.Event(request_id=request_id, seq=2, delta=sched.Delta(text="flow", attempt=1)),
        sched.Event(request_id=request_id, seq=3, delta=sched.Delta(text="chart", attempt=1, offset=4)),
    )
    gateway.scheduler.finish(request_id, 4, result=SOURCE)
    assert await running == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seq"] for line in lines[1:] if line["type"] != "status"] == [1, 2, 3, 4]


async def test_a_failed_diagram_is_a_sentence_and_status_1(
    gateway: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = {"result": "", "error": "The model refused.", "code": sched.FAILURE_CODE_REFUSED}
    running = asyncio.create_task(run("generate", "a"))
    await gateway.scheduler.until(lambda: bool(gateway.scheduler.watched))
    (request_id,) = gateway.scheduler.watched
    failed = sched.Request(request_id=request_id, user_id="u1", state=sched.STATE_FAILED, **ended)
    gateway.scheduler.emit(sched.Event(request_id=request_id, seq=1, ended=failed))
    assert await running == 1
    assert capsys.readouterr() == ("", "headgate: The model refused.\n")


async def test_the_limit_is_told_with_what_the_next_tier_gives(
    gateway: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = quota.DayUsage(used=10, limit=10, reset_time=NOW)
    limit = quota.LimitExceeded(usage=usage, tier=FREE, next_tier=BASIC)
    gateway.quota.refusals["Reserve"] = quota_refusal(
        "USER_LIMIT_EXCEEDED", grpc.StatusCode.RESOURCE_EXHAUSTED, details=(limit,)
    )
    assert await run("generate", "a", "--json") == 1
    printed = capsys.readouterr()
    assert printed.err == (
        "headgate: Daily limit of 10 requests reached (10/10 requests); more at 2026-01-01T12:00:00Z."
        " The basic tier gives 100 requests/day for $15/month.\n"
    )
    assert json.loads(printed.out)["code"] == "USER_LIMIT_EXCEEDED"


async def test_a_lost_answer_is_asked_for_again_under_the_same_key(gateway: Running) -> None:
    gateway.scheduler.refusals["Submit"] = scheduler_refusal("UNAVAILABLE", grpc.StatusCode.INTERNAL)
    assert await run("generate", "a") == 1
    keys = {reserve.idempotency_key for reserve in gateway.quota.named("Reserve")}
    assert (len(gateway.quota.named("Reserve")), len(keys)) == (3, 1)


SENTENCES: list[tuple[list[str], int, str]] = [
    (["status", "req_unknown"], 1, "There is no such request."),
    (["status", ID, "--key", "hg_bad"], 1, "The key is missing, unknown or revoked."),
    (["users", "show", "u1", "--key", "wrong"], 1, "This needs an administrator's key as Authorization: Bearer."),
    (["status", ID, "--url", "http://127.0.0.1:1"], 1, "is it running?"),
    (["status", ID, "--url", "nonsense"], 1, "nonsense"),
    (["generate", ""], 1, "prompt must be text"),
]


@pytest.mark.parametrize(("arguments", "status", "sentence"), SENTENCES)
async def test_what_goes_wrong_is_one_sentence(
    gateway: Running, arguments: list[str], status: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(*arguments) == status
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert sentence in printed.err


USAGE = [
    [],
    ["generate"],
    ["generate", "a", "--kind", "poem"],
    ["generate", "a", "--max-wait", "soon"],
    ["users"],
    ["users", "tier", "u1"],
    ["users", "limits", "u1", "--requests-per-day", "many"],
    ["users", "limits", "u1", "--requests-per-day", "-1"],
    ["keys", "revoke"],
    ["sing"],
]


@pytest.mark.parametrize("arguments", USAGE)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: headgate" in capsys.readouterr().err


async def test_a_missing_key_is_status_2(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HEADGATE_API_KEY", "HEADGATE_ADMIN_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADGATE_DATA_DIR", str(tmp_path))
    assert [await run("status", ID), await run("users", "show", "u1")] == [2, 2]
    assert await run("users", "limits", "u1") == 2
    told = capsys.readouterr().err
    assert "name a limit" in told
    assert "HEADGATE_API_KEY" in told
    assert "HEADGATE_ADMIN_KEY" in told
    (tmp_path / "admin.key").write_text(ADMIN_KEY + "\n")
    assert await run("users", "show", "u1") == 0


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (sched.STATE_QUEUED, "Queued: number 5 in line, about 42 s\n"),
        (sched.STATE_RUNNING, "Processing\n"),
        (sched.STATE_COMPLETED, SOURCE + "\n"),
        (sched.STATE_EXPIRED, "Expired: The request waited longer than it was allowed to.\n"),
    ],
)
async def test_status(gateway: Running, state: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.scheduler.add(ID, state, result=SOURCE if state == sched.STATE_COMPLETED else "")
    assert await run("status", ID) == 0
    assert capsys.readouterr().out == words
    assert await run("status", ID, "--json") == 0
    assert json.loads(capsys.readouterr().out)["requestId"] == ID


async def test_cancel(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.scheduler.add(ID)
    assert await run("cancel", ID, "--erase") == 0
    assert capsys.readouterr().out == "Cancelled: The request was cancelled.\n"
    assert gateway.scheduler.named("Cancel")[0].erase


ADMINISTRATION = [
    (["users", "add", "ann", "--tier", "pro"], "ann (pro)\nKey k9, shown only now: hg_new\n", "apiKey"),
    (["users", "add"], "u9 (free)\nKey k9, shown only now: hg_new\n", "apiKey"),
    (["users", "tier", "ann", "pro"], "ann: free → pro\n", "previousTier"),
    (
        ["users", "limits", "ann", "--requests-per-day", "50", "--price-nano-usd", "0", "--outstanding", "none"],
        "ann: requests a UTC day: 50; price of a month in nano-dollars: 0\n",
        "limits",
    ),
    (["users", "limits", "ann", "--outstanding", "none"], "ann: the terms of the tier\n", "limits"),
    (["users", "show", "ann"], "ann: free, active, 3 of 10 today\n", "used"),
    (["keys", "list", "ann"], "k1  issued 2026-01-01T12:00:00Z  valid\n", "keyId"),
    (["keys", "add", "ann"], "Key k2, shown only now: hg_new\n", "apiKey"),
    (["keys", "revoke", "key_00000000001"], "key_00000000001 is revoked\n", "revoked"),
]


@pytest.mark.parametrize(("arguments", "words", "field"), ADMINISTRATION)
async def test_administration(
    gateway: Running, arguments: list[str], words: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(*arguments) == 0
    assert capsys.readouterr() == (words, "")
    assert await run(*arguments, "--json") == 0
    assert field in json.loads(capsys.readouterr().out)


async def test_on_a_terminal_the_line_is_live_and_the_diagram_is_drawn(gateway: Running) -> None:
    gateway.scheduler.add("req_later")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "100"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "generate", "a", env=environment, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed = asyncio.create_task(asyncio.to_thread(read_all, ours))
    await gateway.scheduler.until(lambda: bool(gateway.scheduler.watched))
    (request_id,) = gateway.scheduler.watched
    await gateway.scheduler.until(lambda: bool(gateway.scheduler.named("Replay")))
    gateway.scheduler.finish(request_id, 2, result=SOURCE)
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
    text = await printed
    assert "Queued: number 5 in line, about 42 s" in text
    assert "│ Start │" in text


def read_all(terminal: int) -> str:
    text = b""
    try:
        while piece := os.read(terminal, 65_536):
            text += piece
    except OSError:
        pass  # What a Linux terminal answers once its last writer is gone.
    os.close(terminal)
    return text.decode()


def test_up_starts_what_runs_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def stand_in(arguments: list[str]) -> int:
        started.append(arguments)
        return 7

    monkeypatch.setattr("services.embedded.__main__.main", stand_in)
    assert main(["up", "--stop-with", "1"]) == 7
    assert started == [["--stop-with", "1"]]


def test_words_of_the_live_line() -> None:
    progress = Progress()
    told = [
        {"type": "status", "position": 12, "estimatedWait": 40_000},
        {"type": "status", "position": 3, "estimatedWait": 0, "paused": "provider_limit"},
        {"type": "processing", "attempt": 1},
        {"type": "delta", "text": "abc", "offset": 0},
        {"type": "delta", "text": "def", "offset": 3},
        {"type": "retrying", "reason": "Busy.", "delay": 12_000},
        {"type": "processing", "attempt": 2},
    ]
    assert [progress.words(event) for event in told] == [
        "Queued: number 12 in line, about 40 s",
        "Waiting: the provider asked for a break. Your place is kept (number 3 in line).",
        "Drawing",
        "Drawing: 3 characters so far",
        "Drawing: 6 characters so far",
        "Waiting: Busy. Trying again in 12 s.",
        "Drawing (attempt 2)",
    ]


def test_durations_are_in_the_largest_two_units() -> None:
    assert [duration(ms) for ms in (0, 900, 59_000, 250_000, 7_260_000)] == [
        "0 s",
        "1 s",
        "59 s",
        "4 min 10 s",
        "2 h 1 min",
    ]


def test_what_cannot_be_drawn_is_left_to_its_source_and_nothing_steers_the_terminal() -> None:
    assert ascii_drawing("sankey-beta\na,b,3") is None
    assert ascii_drawing("nonsense") is None
    assert visible("a\x1b[2Jb\rc\n\td\x9b") == "a[2Jbc\n\td"


async def test_the_audit_goes_from_page_to_page(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    entry = ledger.AuditEntry(time=NOW, actor="stripe", action="user.tier", subject="u1", old="free", new="[b]pro")
    gateway.ledger.audit = ledger.ListAuditResponse(entries=[entry], next_page_token="7")
    assert await run("audit", "u1", "--limit", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["2026-01-01T12:00:00Z", "stripe", "user.tier", "u1", "free", "[b]pro"]
    ] * 2
    asked = gateway.ledger.named("ListAudit")
    assert [(one.page_size, one.page_token, one.subject) for one in asked] == [(2, "", "u1"), (1, "7", "u1")]
    assert await run("audit", "--limit", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["new"] == "[b]pro"
