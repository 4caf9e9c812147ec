from __future__ import annotations

from pathlib import Path

import pytest

from services.embedded.child import ChildSpec
from services.embedded.plan import Keys, Places, Plan, emulator_limits
from services.embedded.settings import Settings
from services.settings import SettingsError, load, names

PLACES = Places(
    data=Path("/data"), sockets=Path("/run/s"), valkey_server="/bin/valkey", emulator_port=4000, import_path="/a:/b"
)
PLANS = {
    "20x": {"all": {"requests_per_minute": 100, "tokens_per_minute": 800_000}},
    "split": {
        "opus": {"requests_per_minute": 10, "input_tokens_per_minute": 300, "output_tokens_per_minute": 30},
        "haiku": {"requests_per_minute": 20, "input_tokens_per_minute": 200, "output_tokens_per_minute": 40},
    },
}


def plan(**environ: str) -> Plan:
    return Plan(load(Settings, environ), PLACES, Keys(admin="admin", secret="s" * 32), environ)


def backends(**environ: str) -> dict[str, ChildSpec]:
    return {spec.name: spec for spec in plan(**environ).backends()}


def test_without_a_key_the_emulator_answers() -> None:
    specs = backends()
    assert list(specs) == ["valkey", "quota", "scheduler", "generator-1", "emulator"]
    generator = specs["generator-1"].environ
    assert generator["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4000"
    assert generator["NO_PROXY"].startswith("127.0.0.1,")
    assert specs["scheduler"].environ["HEADGATE_PROVIDER_PLAN"] == "20x"
    assert specs["emulator"].environ["HEADGATE_EMULATOR_RPM"] == "100"
    gateway = plan().gateway({"free": "hg_1"}).environ
    assert gateway["HEADGATE_EMULATED"] == "true"
    assert gateway["HEADGATE_DEMO_KEYS"] == '{"free": "hg_1"}'


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"])
def test_with_a_key_the_real_api_answers_and_no_demo_key_is_public(variable: str) -> None:
    environ = {variable: "http://upstream"}
    specs = backends(**environ)
    assert "emulator" not in specs
    assert specs["generator-1"].environ[variable] == "http://upstream"
    assert specs["scheduler"].environ["HEADGATE_PROVIDER_PLAN"] == "auto"
    gateway = plan(**environ).gateway({"free": "hg_1"}).environ
    assert gateway["HEADGATE_EMULATED"] == "false"
    assert "HEADGATE_DEMO_KEYS" not in gateway


def test_given_stores_replace_the_private_ones() -> None:
    specs = backends(HEADGATE_DATABASE_URL="postgresql://db/headgate", HEADGATE_REDIS_URL="redis://cache")
    assert "valkey" not in specs
    assert specs["scheduler"].environ["HEADGATE_REDIS_URL"] == "redis://cache"
    assert {specs[name].environ["HEADGATE_DATABASE_URL"] for name in ("quota", "scheduler")} == {
        "postgresql://db/headgate"
    }


def test_each_service_has_a_file_and_every_generator_a_socket() -> None:
    specs = backends(HEADGATE_GENERATORS="2")
    assert specs["quota"].environ["HEADGATE_DATABASE_URL"] == "sqlite:////data/quota.db"
    assert specs["scheduler"].environ["HEADGATE_DATABASE_URL"] == "sqlite:////data/scheduler.db"
    sockets = [specs[f"generator-{n}"].environ["HEADGATE_LISTEN"] for n in (1, 2)]
    assert specs["scheduler"].environ["HEADGATE_GENERATOR_ADDRESSES"].split(",") == sockets


def test_other_variables_reach_the_services_and_tls_stays_out() -> None:
    specs = backends(HEADGATE_MODEL="m", HEADGATE_TLS_CERT="/c", OTEL_EXPORTER_OTLP_ENDPOINT="http://o")
    assert specs["scheduler"].environ["HEADGATE_MODEL"] == "m"
    assert specs["quota"].environ["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://o"
    assert "HEADGATE_TLS_CERT" not in specs["scheduler"].environ


def test_who_takes_requests_in_stops_first_and_all_within_ten_seconds() -> None:
    specs = [*plan().backends(), plan().gateway({})]
    ranks = {spec.name: spec.stop_rank for spec in specs}
    assert ranks["gateway"] < ranks["scheduler"] < ranks["quota"] == ranks["generator-1"] < ranks["valkey"]
    by_rank = sorted((spec.stop_rank, spec.stop_by_s) for spec in specs)
    assert [by for _, by in by_rank] == sorted(by for _, by in by_rank)
    assert by_rank[-1][1] < 10


def test_emulator_has_the_limits_of_the_plan() -> None:
    assert emulator_limits("20x", {}, PLANS) == {"HEADGATE_EMULATOR_RPM": "100", "HEADGATE_EMULATOR_TPM": "800000"}


def test_a_plan_without_a_total_gets_one_that_never_binds() -> None:
    assert emulator_limits("split", {}, PLANS) == {
        "HEADGATE_EMULATOR_RPM": "10",
        "HEADGATE_EMULATOR_TPM": "230",
        "HEADGATE_EMULATOR_ITPM": "200",
        "HEADGATE_EMULATOR_OTPM": "30",
    }


def test_the_emulators_own_variables_win_over_the_providers_which_win_over_the_plan() -> None:
    environ = {"HEADGATE_PROVIDER_RPM": "60", "HEADGATE_PROVIDER_TPM": "70", "HEADGATE_EMULATOR_TPM": "80"}
    assert emulator_limits("20x", environ, PLANS) == {"HEADGATE_EMULATOR_RPM": "60", "HEADGATE_EMULATOR_TPM": "80"}


def test_an_unknown_plan_is_named() -> None:
    with pytest.raises(SettingsError, match="HEADGATE_PROVIDER_PLAN is wrong: '30x' is not one of 20x, split"):
        emulator_limits("30x", {}, PLANS)


def test_a_specification_never_shows_its_secrets() -> None:
    assert "ssss" not in repr(backends()["quota"])


def test_reads_no_variable_twice() -> None:
    assert len(names(Settings)) == len(set(names(Settings)))


def test_the_emulator_follows_a_plan_as_if_it_were_started_with_it() -> None:
    assert plan().emulator_limits_under("5x", {}) == {"rpm": 25, "tpm": 200_000, "itpm": None, "otpm": None}
    # The overrides in force, not those the environment began with.
    began = plan(HEADGATE_PROVIDER_RPM="60", HEADGATE_EMULATOR_OTPM="7")
    assert began.emulator_limits_under("5x", {"tokens": 80, "concurrency": 3}) == {
        "rpm": 25, "tpm": 80, "itpm": None, "otpm": 7,
    }  # fmt: skip
