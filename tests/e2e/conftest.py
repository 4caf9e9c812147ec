from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stacks


@pytest.fixture
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    """Whole stacks for one test."""
    started = Stacks(tmp_path_factory.mktemp("stacks"))
    try:
        yield started
    finally:
        started.stop_all()


@pytest.fixture(scope="module")
def shared_stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    """Whole stacks for the tests of a module that leave them as they were."""
    started = Stacks(tmp_path_factory.mktemp("shared-stacks"))
    try:
        yield started
    finally:
        started.stop_all()
