"""`make run` and `headgate up`: what a user sees of starting, stopping and losing processes."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.e2e.stack import STOP_S, Stack, Stacks

SERVICES = {"gateway", "quota", "scheduler", "generator-1", "emulator", "valkey"}


@pytest.fixture(scope="module")
def stack(shared_stacks: Stacks) -> Stack:
    return shared_stacks.start()


def gone(processes: list[psutil.Process], within_s: float = STOP_S) -> bool:
    _, left = psutil.wait_procs(processes, timeout=within_s)
    # An orphan that has ended stays in the table until whoever inherited it looks.
    return not [process for process in left if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_says_where_to_go_and_with_which_key(stack: Stack) -> None:
    assert f"ready {stack.url}" in stack.lines
    assert "emulator" in stack.output
    assert str(stack.data_dir / "admin.key") in stack.output
    assert list(stack.demo_keys) == ["free", "basic", "pro", "enterprise"]
    for tier, key in stack.demo_keys.items():
        assert [line.split() for line in stack.lines].count([tier, key]) == 1
    assert f"curl -s -X POST {stack.url}/api/diagram/generate -H 'X-API-Key: {stack.demo_keys['free']}'" in stack.output


def test_every_demo_key_is_of_its_tier(stack: Stack) -> None:
    told = {tier: stack.request("GET", "/api/me", key=key) for tier, key in stack.demo_keys.items()}
    assert {tier: (status, me["tier"]) for tier, (status, me) in told.items()} == {
        tier: (200, tier) for tier in stack.demo_keys
    }


def test_the_printed_curl_draws(stack: Stack) -> None:
    start = stack.output.index("curl -s")
    command = stack.output[start : stack.output.index("\n\n", start)]
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30)
    assert '"requestId"' in answer.stdout, answer


def test_a_diagram_comes_out(stack: Stack) -> None:
    done = stack.draw(stack.demo_keys["pro"], "How a diagram comes out")
    assert (done["status"], done["cached"]) == ("completed", False), done


def test_keeps_to_its_folder_and_to_its_owner(stack: Stack) -> None:
    private = [stack.data_dir, *stack.data_dir.rglob("*")]
    shared = [path for path in private if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert shared == []
    assert set(stack.children()) == SERVICES
    listening = {
        connection.laddr.port
        for child in stack.children().values()
        for connection in child.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {stack.port, int(stack.emulator_url.rsplit(":", 1)[1])}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(stacks: Stacks, number: signal.Signals) -> None:
    stack = stacks.start()
    started = [stack.parent, *stack.children().values()]
    assert stack.stop(number) == 0
    assert gone(started, within_s=0.1)
    assert "was killed" not in stack.output
    assert not (stack.data_dir / "run").exists()


def test_keys_and_requests_outlive_a_restart(stacks: Stacks) -> None:
    first = stacks.start()
    key = first.demo_keys["basic"]
    request_id = first.submit("A restart", key)
    keys, admin_key = first.demo_keys, first.admin_key
    first.stop()
    second = stacks.start(first.data_dir)
    assert (second.demo_keys, second.admin_key) == (keys, admin_key)
    assert second.finished(request_id, key)["status"] == "completed"


def test_killed_outright_leaves_nothing_and_loses_nothing(stacks: Stacks) -> None:
    first = stacks.start()
    key = first.demo_keys["basic"]
    request_id = first.submit("A kill", key)
    children = list(first.children().values())
    first.process.kill()
    first.ended(5)
    second = stacks.start(first.data_dir, HEADGATE_HTTP_PORT=str(first.port))
    assert gone(children, within_s=0.1)
    assert second.finished(request_id, key)["status"] == "completed"


def test_stops_only_its_own_leftovers(stacks: Stacks, tmp_path: Path) -> None:
    """A process number is used again by others: start time and command line must match too."""
    data = tmp_path / "data"
    data.mkdir()
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    bystander, leftover = (subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2))
    try:
        for process in (bystander, leftover):
            assert process.stdout is not None
            process.stdout.readline()
        started = psutil.Process(leftover.pid).create_time()
        children = {
            "quota": {"pid": bystander.pid, "started": started, "command": ["another", "command"]},
            "gateway": {"pid": bystander.pid, "started": started - 1000, "command": command},
            "valkey": {"pid": leftover.pid, "started": started, "command": command},
        }
        record = {"owner": None, "stop_with": None, "stopping": False, "children": children}
        (data / "processes.json").write_text(json.dumps(record))
        # Left-overs have lost their parent; this one's is this test, so it has to be waited for at once.
        waiter = threading.Thread(target=leftover.wait)
        waiter.start()
        stack = stacks.launch(data)
        stack.line(lambda line: line == "headgate: stopped what an earlier run had left: valkey.", 20)
        waiter.join(5)
        assert leftover.returncode == -signal.SIGTERM
        assert bystander.poll() is None
    finally:
        for process in (bystander, leftover):
            process.kill()
            process.communicate()


def test_two_copies_run_side_by_side(stack: Stack, stacks: Stacks) -> None:
    other = stacks.start()
    assert other.port != stack.port
    assert other.request("GET", "/api/me", key=stack.demo_keys["free"])[0] == 401
    assert other.draw(other.demo_keys["free"])["status"] == "completed"
    assert stack.draw(stack.demo_keys["enterprise"], "Side by side")["status"] == "completed"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_killed_child_is_started_again(stack: Stack, name: str) -> None:
    old = stack.kill(name)
    stack.restarted(name, old)
    assert stack.draw(stack.demo_keys["enterprise"], f"After {name}")["status"] == "completed"


def test_a_second_copy_on_the_same_folder_is_refused(stack: Stack, stacks: Stacks) -> None:
    second = stacks.launch(stack.data_dir)
    assert second.ended(20) == 2
    (sentence,) = second.lines
    assert sentence.startswith("headgate: HEADGATE_DATA_DIR: ")
    assert str(stack.process.pid) in sentence
    assert stack.request("GET", "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HEADGATE_HTTP_PORT", "eighty"),
        ("HEADGATE_HTTP_PORT", "taken"),
        ("HEADGATE_DATA_DIR", "/dev/null/data"),
        ("HEADGATE_GENERATORS", "0"),
        ("HEADGATE_SECRET", "short"),
        ("HEADGATE_PROVIDER_PLAN", "30x"),
        ("HEADGATE_PROVIDER_RPM", "-1"),
        ("HEADGATE_PUBLIC_URL", "nowhere"),
        ("HEADGATE_DATABASE_URL", "mysql://localhost/headgate"),
        ("HEADGATE_ATTEMPT_TIMEOUT_MS", "soon"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_stays(stacks: Stacks, variable: str, value: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        stack = stacks.launch(**{variable: port if value == "taken" else value})
        assert stack.ended(30) == 2
    (sentence,) = stack.lines
    assert variable in sentence
    assert sentence.endswith(".")
    mine = [process for process in psutil.process_iter() if _is_given(process, str(stack.data_dir))]
    assert mine == []


def _is_given(process: psutil.Process, data_dir: str) -> bool:
    try:
        return process.environ().get("HEADGATE_DATA_DIR") == data_dir
    except psutil.Error:
        return False


MAKE_RUN = ("make", "--no-print-directory", "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_make_run_stops_on_a_signal_to_make_alone(stacks: Stacks, number: signal.Signals) -> None:
    stack = stacks.launch(command=MAKE_RUN).ready()
    started = [stack.parent, *stack.children().values()]
    assert stack.stop(number) != 0
    assert gone(started, within_s=0.1)


def test_make_run_takes_over_from_a_make_that_was_killed(stacks: Stacks) -> None:
    first = stacks.launch(command=MAKE_RUN).ready()
    key, orphan = first.demo_keys["pro"], first.parent
    request_id = first.submit("A kill of make", key)
    first.process.kill()
    second = stacks.launch(first.data_dir, command=MAKE_RUN, HEADGATE_HTTP_PORT=str(first.port)).ready()
    assert gone([orphan], within_s=0.1)
    assert second.finished(request_id, key)["status"] == "completed"
