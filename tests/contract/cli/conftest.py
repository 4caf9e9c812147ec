"""What every file of this folder asks for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.servers.gateway import ADMIN_KEY, KEY, Running, running_gateway


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    """A real gateway before scripted services, which the command finds by its environment."""
    for name in list(os.environ):
        if name.startswith("HEADGATE"):
            monkeypatch.delenv(name)
    async with running_gateway() as running:
        monkeypatch.setenv("HEADGATE_URL", running.base_url)
        monkeypatch.setenv("HEADGATE_API_KEY", KEY)
        monkeypatch.setenv("HEADGATE_ADMIN_KEY", ADMIN_KEY)
        monkeypatch.setattr("services.cli.client.PAUSES_S", (0.0,) * 5)
        yield running
