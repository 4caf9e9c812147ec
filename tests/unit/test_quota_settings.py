"""Settings of quota: wrong ones are refused by a sentence that names the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.quota.settings import MigrateSettings, Settings
from services.settings import SettingsError, load

GOOD = {
    "HEADGATE_DATABASE_URL": "postgresql://app:swordfish@db/quota",
    "HEADGATE_SECRET": "x" * 32,
    "HEADGATE_SCHEDULER_ADDRESS": "scheduler:50052",
}


def test_what_is_not_set_has_its_default() -> None:
    settings = load(Settings, GOOD)
    assert (settings.listen, settings.migrate_at_start, settings.tls) == ("0.0.0.0:50051", False, None)
    assert Path(settings.plans_file).name == "plans.yaml"
    assert load(MigrateSettings, GOOD).database_url == GOOD["HEADGATE_DATABASE_URL"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEADGATE_DATABASE_URL", ""),
        ("HEADGATE_DATABASE_URL", "swordfish"),
        ("HEADGATE_DATABASE_URL", "mysql://app:swordfish@db/quota"),
        ("HEADGATE_SECRET", ""),
        ("HEADGATE_SECRET", "short"),
        ("HEADGATE_SCHEDULER_ADDRESS", ""),
        ("HEADGATE_MIGRATE_AT_START", "maybe"),
        ("HEADGATE_PLANS_FILE", "/nowhere/plans.yaml"),
        ("HEADGATE_TLS_CERT", "/nowhere/cert.pem"),
    ],
)
def test_a_wrong_variable_is_named_and_no_password_shown(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(Settings, {**GOOD, name: value})
    assert name in str(raised.value)
    assert "swordfish" not in str(raised.value)


def test_tls_is_all_or_none(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("HEADGATE_TLS_CERT", "HEADGATE_TLS_KEY", "HEADGATE_TLS_CA")}
    for path in files.values():
        Path(path).write_text("pem")
    settings = load(Settings, {**GOOD, **files})
    assert settings.tls is not None
    assert str(settings.tls.authority) == files["HEADGATE_TLS_CA"]
    for name in files:
        with pytest.raises(SettingsError, match=name):
            load(Settings, {**GOOD, **files, name: ""})
