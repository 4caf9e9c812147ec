"""A gateway for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.servers.gateway import Running, VirtualClock, running_gateway


@pytest.fixture
async def gateway() -> AsyncIterator[Running]:
    async with running_gateway() as running:
        yield running


@pytest.fixture
async def timed() -> AsyncIterator[Running]:
    """One whose time stands still until the test moves it."""
    async with running_gateway(clock=VirtualClock()) as running:
        yield running
