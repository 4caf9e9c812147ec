"""What config/ must say before a scheduler starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from services import settings
from services.process import StartError
from services.scheduler import __main__ as main
from services.scheduler.settings import Settings

ENVIRONMENT = {
    "HEADGATE_DATABASE_URL": "sqlite://",
    "HEADGATE_REDIS_URL": "unix:///none",
    "HEADGATE_QUOTA_ADDRESS": "unix:none",
    "HEADGATE_GENERATOR_ADDRESSES": "unix:none",
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(settings.config_dir(), tmp_path / "config")
    monkeypatch.setattr(main, "config_dir", lambda: tmp_path / "config")
    return tmp_path / "config"


def test_the_shipped_files_do(config: Path) -> None:
    assert main.read_rules(settings.load(Settings, ENVIRONMENT)).default_model == "claude-sonnet-5-5"


def test_a_model_of_a_pool_without_a_price_is_refused(config: Path) -> None:
    file = config / "prices.yaml"
    file.write_text(file.read_text().replace("claude-haiku-4-5:", "claude-haiku-4-6:"))
    with pytest.raises(StartError, match=r"prices\.yaml has no price for claude-haiku-4-5, which is in pool haiku"):
        main.read_rules(settings.load(Settings, ENVIRONMENT))


def test_a_default_model_without_a_price_is_refused_with_its_line(config: Path) -> None:
    file = config / "prices.yaml"
    file.write_text(file.read_text().replace("default_model: claude-sonnet-5-5", "default_model: claude-x"))
    with pytest.raises(StartError, match=r"line 5: default_model 'claude-x' is not one of the models"):
        main.read_rules(settings.load(Settings, ENVIRONMENT))
