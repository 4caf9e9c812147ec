"""`make run` and `headgate up`: everything in the foreground until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import services
from services import valkey
from services.clock import SystemClock
from services.embedded.folder import DataFolder, open_folder
from services.embedded.parent import CHECK_S, Parent
from services.embedded.plan import Keys, Places, Plan
from services.embedded.probes import until_up
from services.embedded.processes import Running
from services.embedded.settings import Settings
from services.embedded.supervisor import ChildGaveUp, Supervisor
from services.embedded.welcome import welcome
from services.process import USAGE_ERROR, StartError
from services.settings import SettingsError, load

READY_S = 60.0
"""A cold start on a busy small machine takes a tenth of this."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs until stopped; returns 0, 1 if a child could not be kept running, 2 if the start cannot work."""
    parser = argparse.ArgumentParser(
        "headgate up", description="Runs all of Headgate here, set by HEADGATE_… variables."
    )
    parser.add_argument("--stop-with", type=int, metavar="PID", help="stop when this process, our parent, is gone")
    options = parser.parse_args(argv)
    # What we keep holds keys and prompts.
    os.umask(0o077)
    environ = dict(os.environ)
    # gRPC's own lines about children that come and go are noise on our terminal, not in their logs.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        settings = load(Settings, environ)
        folder = open_folder(Path(settings.data_dir))
        try:
            _run(settings, folder, environ, options.stop_with)
        finally:
            folder.close()
    except (SettingsError, StartError) as error:
        return _fail(str(error), USAGE_ERROR)
    except ChildGaveUp as error:
        return _fail(str(error), 1)
    return 0


def _run(settings: Settings, folder: DataFolder, environ: Mapping[str, str], stop_with: int | None) -> None:
    folder.take_over(_this_process(), _process(stop_with))
    if folder.leftovers:
        _warn(f"stopped what an earlier run had left: {', '.join(folder.leftovers)}.")
    _require_free(settings.http_host, settings.http_port)
    places = Places(
        data=folder.path,
        sockets=folder.sockets(),
        valkey_server="" if settings.redis_url else valkey.find_server(),
        emulator_port=settings.emulator_port or _free_port(),
        import_path=_import_path(),
    )
    keys = Keys(
        admin=settings.admin_key or folder.kept_secret("admin.key"),
        secret=settings.secret.decode() or folder.kept_secret("secret"),
    )
    asyncio.run(_serve(settings, folder, Plan(settings, places, keys, environ), stop_with))


async def _serve(settings: Settings, folder: DataFolder, plan: Plan, stop_with: int | None) -> None:
    stopping, at_once = _stop_events()
    supervisor = Supervisor(folder, SystemClock(), _warn)
    ends: list[asyncio.Future[Any]] = [supervisor.failure, _task(stopping.wait())]
    if stop_with:
        ends.append(_task(_until_left(Parent(stop_with))))
    start = _task(_start(folder, plan, supervisor))
    beside = [_task(_follow(plan, supervisor))] if settings.emulated else []
    try:
        await _first([start, *ends])
        if start.done():
            supervisor.settle()
            where = "as set in HEADGATE_ADMIN_KEY" if settings.admin_key else _shown(folder.admin_key_file)
            colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
            _say(
                welcome(
                    settings.url, admin_key=where, demo_keys=start.result(), emulated=settings.emulated, colour=colour
                )
            )
            await _first(ends)
    except (StartError, SettingsError):
        # Nothing was promised to anybody yet, and every store outlives a kill: be gone before the sentence is read.
        at_once.set()
        raise
    finally:
        for task in (start, *beside, *ends):
            task.cancel()
        folder.record.stopping = True
        folder.write_record()
        await supervisor.stop(at_once=at_once)


async def _start(folder: DataFolder, plan: Plan, supervisor: Supervisor) -> dict[str, str]:
    """Starts everything and returns the demo keys once all is up; `StartError` if that takes too long."""
    waiting: dict[str, asyncio.Task[None]] = {}
    try:
        async with asyncio.timeout(READY_S):
            for spec in plan.backends():
                await supervisor.add(spec)
                waiting[spec.name] = _task(until_up(spec.probe))
            # Imported now, while the children are busy starting.
            from services.embedded.demo import demo_keys

            await waiting["quota"]
            keys = await demo_keys(plan.quota_address, folder.demo_keys())
            folder.keep_demo_keys(keys)
            gateway = plan.gateway(keys)
            await supervisor.add(gateway)
            waiting[gateway.name] = _task(until_up(gateway.probe))
            await asyncio.gather(*waiting.values())
            return keys
    except TimeoutError:
        late = ", ".join(name for name, task in waiting.items() if not task.done() or task.cancelled())
        raise StartError(f"Not up within {READY_S:g} s: {late}; their logs are in {folder.logs}.") from None
    finally:
        for task in waiting.values():
            task.cancel()


async def _follow(plan: Plan, supervisor: Supervisor) -> None:
    # Imported now, while the children are busy starting.
    from services.embedded.plan_follower import PlanFollower

    await PlanFollower(plan, lambda: supervisor.pid("emulator"), _warn).run()


def _stop_events() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first and by the second SIGINT, SIGTERM or SIGHUP (unless we were told to ignore that)."""
    stopping, at_once = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            at_once.set()
        else:
            _warn("stopping; once more kills what still runs.")
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:
            asyncio.get_running_loop().add_signal_handler(number, stop)
    return stopping, at_once


async def _until_left(parent: Parent) -> None:
    while not parent.leaves():  # noqa: ASYNC110 (no event tells it on every system)
        await asyncio.sleep(CHECK_S)


async def _first(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Waits for the first to be done; raises its error if it has one."""
    done, _ = await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    for future in done:
        future.result()


def _task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the gateway does: connections of an earlier run that linger do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            variable = "HEADGATE_HTTP_HOST" if isinstance(error, socket.gaierror) else "HEADGATE_HTTP_PORT"
            raise StartError(f"{variable}: cannot listen on {host}:{port}: {error.strerror}.") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _import_path() -> str:
    """Where children find `services` and `headgate`: in the checkout two folders, installed one."""
    contracts = find_spec("headgate")
    if contracts is None or not contracts.submodule_search_locations:
        raise StartError("The contracts (headgate.*) cannot be imported: add the folder protos to PYTHONPATH.")
    folders = [Path(services.__file__).parent.parent, Path(next(iter(contracts.submodule_search_locations))).parent]
    return os.pathsep.join(dict.fromkeys(str(folder.absolute()) for folder in folders))


def _this_process() -> Running | None:
    return _process(os.getpid())


def _process(pid: int | None) -> Running | None:
    import psutil

    try:
        return Running.of(pid, psutil.Process(pid).cmdline()) if pid else None
    except psutil.Error:
        return None


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _say(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # Whoever read us has gone; what runs does not depend on being read.
        pass


def _warn(sentence: str) -> None:
    try:
        print(f"headgate: {sentence}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        pass


def _fail(sentence: str, status: int) -> int:
    _warn(sentence)
    return status


if __name__ == "__main__":
    sys.exit(main())
