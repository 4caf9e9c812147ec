"""Servers that tests may ask for."""

from __future__ import annotations

import importlib.util

pytest_plugins = [
    name for name in ("tests.servers.postgres", "tests.servers.valkey") if importlib.util.find_spec(name) is not None
]
