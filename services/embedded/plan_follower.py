"""The emulator follows the provider plan, as a real provider would have before its customer told Headgate.

Response headers beat the plan: an emulator that kept its limits would undo a switch with its next answer.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
from headgate.scheduler.v1 import scheduler_pb2 as pb
from headgate.scheduler.v1 import scheduler_pb2_grpc

from services.embedded.plan import Plan
from services.embedded.probes import ANSWER_S, until_up
from services.rpc.channel import open_channel
from services.settings import SettingsError

if TYPE_CHECKING:
    from headgate.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

INTERVAL_S = 0.25
"""At 100 requests a minute one is answered every 600 ms: between two looks seldom one, with the old limits."""


class PlanFollower:
    """Gives the emulator the limits of the plan in force when that, or the emulator, is another one."""

    def __init__(self, plan: Plan, emulator_pid: Callable[[], int | None], warn: Callable[[str], None]) -> None:
        self._plan = plan
        self._emulator_pid = emulator_pid
        self._warn = warn
        # Version 0 is the environment's plan, with which each emulator starts.
        self._followed: tuple[int | None, int] = (None, 0)

    async def run(self) -> None:
        """Follows until it is cancelled; what goes wrong is told once and tried again."""
        failed = False
        for address in (self._plan.scheduler_address, self._plan.emulator_probe):
            await until_up(address)
        async with open_channel(self._plan.scheduler_address, deadline_s=ANSWER_S) as channel:
            scheduler = scheduler_pb2_grpc.SchedulerServiceStub(channel)
            while True:
                try:
                    await self.look(scheduler)
                    failed = False
                except (OSError, http.client.HTTPException, grpc.aio.AioRpcError, SettingsError) as error:
                    if not failed:
                        self._warn(f"the emulator cannot follow the provider plan yet: {_sentence(error)}")
                    failed = True
                await asyncio.sleep(INTERVAL_S)

    async def look(self, scheduler: SchedulerServiceAsyncStub) -> None:
        """Asks once, and has the emulator follow if it must."""
        pid = self._emulator_pid()
        told = (await scheduler.GetProviderPlan(pb.GetProviderPlanRequest())).plan
        followed = self._followed[1] if self._followed[0] == pid else 0
        if told.version != followed:
            # Its limits are those of all pools together: what is set for one pool only the scheduler keeps.
            overrides = {one.dimension: one.limit for one in told.overrides if not one.pool}
            limits = self._plan.emulator_limits_under(told.name, overrides)
            await asyncio.to_thread(_put, self._plan.emulator_port, limits)
        self._followed = (pid, told.version)


def _put(port: int, limits: dict[str, int | None]) -> None:
    # Full: what was sent by the new plan before the emulator knew of it is not held against the sender.
    wanted = json.dumps({**limits, "full": True})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("PUT", "/_emulator/limits", wanted)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise OSError(f"the emulator answered {answer.status} to {limits}")
    finally:
        connection.close()


def _sentence(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.aio.AioRpcError) else str(error)
