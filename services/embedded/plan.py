"""What embedded mode runs, worked out from the settings: nothing here starts anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from services import valkey
from services.embedded.child import ChildSpec
from services.embedded.settings import Settings
from services.emulator.settings import Settings as EmulatorSettings
from services.settings import SettingsError, config_dir, load

GATEWAY, SCHEDULER, WORKERS, STORES = range(4)
"""Stop ranks: who takes requests in goes first, who keeps them goes last."""
STOP_BY_S = {GATEWAY: 4.5, SCHEDULER: 7.0, WORKERS: 8.3, STORES: 9.5}
"""A stop ends within 10 s whoever hangs. The gateway closes what lingers after 4 s; each of the others is gone
within one or two seconds of being asked."""

SHORT_NAMES = {"requests": "RPM", "tokens": "TPM", "input_tokens": "ITPM", "output_tokens": "OTPM"}
"""What the scheduler's limits a minute are called in variables."""


@dataclass(frozen=True)
class Places:
    """Where things are on this machine."""

    data: Path
    sockets: Path
    valkey_server: str
    """Empty when a Valkey is given."""
    emulator_port: int
    import_path: str
    """PYTHONPATH of the children."""


@dataclass(frozen=True)
class Keys:
    """The two secrets every start needs."""

    admin: str
    secret: str


class Plan:
    """Makes the specification of each child."""

    def __init__(self, settings: Settings, places: Places, keys: Keys, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._places = places
        self._keys = keys
        # The sockets lie in a folder that only we can open, so TLS would guard nothing.
        self._environ = {name: value for name, value in environ.items() if not name.startswith("HEADGATE_TLS_")}
        self._environ["PYTHONPATH"] = places.import_path

    @property
    def quota_address(self) -> str:
        return f"unix:{self._places.sockets / 'quota.sock'}"

    @property
    def scheduler_address(self) -> str:
        return f"unix:{self._places.sockets / 'scheduler.sock'}"

    @property
    def emulator_port(self) -> int:
        return self._places.emulator_port

    @property
    def emulator_probe(self) -> str:
        return self._emulator_url.replace("http", "tcp")

    def emulator_limits_under(self, plan: str, overrides: Mapping[str, int]) -> dict[str, int | None]:
        """What the emulator would be started with if these were the environment's; `overrides` as the scheduler names
        them. In the words of its own /_emulator/limits."""
        named = {f"HEADGATE_PROVIDER_{short}": str(overrides.get(name, "")) for name, short in SHORT_NAMES.items()}
        environ = {**self._environ, **named}
        limits = load(EmulatorSettings, {**environ, **emulator_limits(plan, environ, _provider_plans())})
        return {
            "rpm": limits.requests_per_minute,
            "tpm": limits.tokens_per_minute,
            "itpm": limits.input_tokens_per_minute,
            "otpm": limits.output_tokens_per_minute,
        }

    def backends(self) -> list[ChildSpec]:
        """Everything behind the gateway, in the order in which it is worth starting."""
        stores = [] if self._settings.redis_url else [self._valkey()]
        emulator = [self._emulator()] if self._settings.emulated else []
        return [*stores, self._quota(), self._scheduler(), *self._generators(), *emulator]

    def gateway(self, demo_keys: Mapping[str, str]) -> ChildSpec:
        """The gateway. The demo keys are public in it only while nothing can be spent with them."""
        variables = {
            "HEADGATE_HTTP_HOST": self._settings.http_host,
            "HEADGATE_HTTP_PORT": str(self._settings.http_port),
            "HEADGATE_QUOTA_ADDRESS": self.quota_address,
            "HEADGATE_SCHEDULER_ADDRESS": self.scheduler_address,
            "HEADGATE_ADMIN_KEY": self._keys.admin,
            "HEADGATE_EMULATED": str(self._settings.emulated).lower(),
        }
        if self._settings.emulated:
            variables["HEADGATE_DEMO_KEYS"] = json.dumps(demo_keys)
        return self._python("gateway", "gateway", variables, GATEWAY, f"{self._settings.url}/readyz")

    def _quota(self) -> ChildSpec:
        variables = {
            "HEADGATE_LISTEN": self.quota_address,
            "HEADGATE_DATABASE_URL": self._database("quota"),
            "HEADGATE_SCHEDULER_ADDRESS": self.scheduler_address,
            "HEADGATE_MIGRATE_AT_START": "true",
        }
        return self._python("quota", "quota", variables, WORKERS, self.quota_address)

    def _scheduler(self) -> ChildSpec:
        variables = {
            "HEADGATE_LISTEN": self.scheduler_address,
            "HEADGATE_DATABASE_URL": self._database("scheduler"),
            "HEADGATE_REDIS_URL": self._settings.redis_url or f"unix://{quote(str(self._valkey_socket))}",
            "HEADGATE_QUOTA_ADDRESS": self.quota_address,
            "HEADGATE_GENERATOR_ADDRESSES": ",".join(self._generator_addresses),
            "HEADGATE_PROVIDER_PLAN": self._provider_plan,
            # Its default suits a rollout, where another replica goes on; here everything waits for it.
            "HEADGATE_DRAIN_MS": "1000",
            "HEADGATE_MIGRATE_AT_START": "true",
        }
        return self._python("scheduler", "scheduler", variables, SCHEDULER, self.scheduler_address)

    def _generators(self) -> list[ChildSpec]:
        specs = []
        for number, address in enumerate(self._generator_addresses, 1):
            # Nobody listens any more when it is stopped: whoever called it has gone before.
            variables = {"HEADGATE_LISTEN": address, "HEADGATE_DRAIN_MS": "0"}
            if self._settings.emulated:
                here = f"127.0.0.1,localhost,{self._environ.get('NO_PROXY', '')}"
                variables |= {
                    "ANTHROPIC_API_KEY": "emulated",
                    "ANTHROPIC_BASE_URL": self._emulator_url,
                    # The emulator is on this machine, whatever proxy leads to the rest of the world.
                    "NO_PROXY": here,
                    "no_proxy": here,
                }
            specs.append(self._python(f"generator-{number}", "generator", variables, WORKERS, address))
        return specs

    def _emulator(self) -> ChildSpec:
        variables = {
            "HEADGATE_EMULATOR_HOST": "127.0.0.1",
            "HEADGATE_EMULATOR_PORT": str(self._places.emulator_port),
            **emulator_limits(self._provider_plan, self._environ, _provider_plans()),
        }
        return self._python("emulator", "emulator", variables, STORES, self.emulator_probe)

    def _valkey(self) -> ChildSpec:
        data = self._places.data / "valkey"
        return ChildSpec(
            name="valkey",
            command=valkey.command(self._places.valkey_server, self._valkey_socket, data),
            environ={"LC_ALL": "C"},
            probe=f"valkey:{self._valkey_socket}",
            stop_rank=STORES,
            stop_by_s=STOP_BY_S[STORES],
            folder=data,
        )

    @property
    def _valkey_socket(self) -> Path:
        return self._places.sockets / "valkey.sock"

    @property
    def _emulator_url(self) -> str:
        return f"http://127.0.0.1:{self._places.emulator_port}"

    @property
    def _generator_addresses(self) -> list[str]:
        return [f"unix:{self._places.sockets / f'generator-{n + 1}.sock'}" for n in range(self._settings.generators)]

    @property
    def _provider_plan(self) -> str:
        return self._settings.provider_plan or ("20x" if self._settings.emulated else "auto")

    def _database(self, service: str) -> str:
        return self._settings.database_url or f"sqlite:///{self._places.data / f'{service}.db'}"

    def _python(self, name: str, service: str, variables: Mapping[str, str], rank: int, probe: str) -> ChildSpec:
        return ChildSpec(
            name=name,
            # -P: a folder named `services` where we were started is none of our business.
            command=(sys.executable, "-P", "-m", f"services.{service}"),
            environ={**self._environ, "HEADGATE_SECRET": self._keys.secret, **variables},
            probe=probe,
            stop_rank=rank,
            stop_by_s=STOP_BY_S[rank],
        )


def emulator_limits(plan: str, environ: Mapping[str, str], plans: Mapping[str, Any]) -> dict[str, str]:
    """The emulator's limits: what the scheduler believes of its provider, unless set for the emulator itself."""
    if plan not in plans:
        raise SettingsError(f"HEADGATE_PROVIDER_PLAN is wrong: '{plan}' is not one of {', '.join(plans)}.")
    # A plan's other fields are texts.
    pools = [limits for limits in plans[plan].values() if isinstance(limits, dict)]
    wanted = {
        "RPM": _least(pools, "requests_per_minute"),
        "TPM": _least(pools, "tokens_per_minute"),
        "ITPM": _least(pools, "input_tokens_per_minute"),
        "OTPM": _least(pools, "output_tokens_per_minute"),
    }
    if not wanted["TPM"] and wanted["ITPM"]:
        # A plan that counts input and output apart has no total of its own; the emulator's default would be one.
        wanted["TPM"] = str(int(wanted["ITPM"]) + int(wanted["OTPM"] or 0))
    limits = {}
    for name, of_plan in wanted.items():
        own, override = environ.get(f"HEADGATE_EMULATOR_{name}"), environ.get(f"HEADGATE_PROVIDER_{name}", "").strip()
        # The scheduler refuses an override that is no number, and it can say whose mistake that is.
        limit = own or (override if override.isdigit() else "") or of_plan
        if limit:
            limits[f"HEADGATE_EMULATOR_{name}"] = limit
    return limits


def _least(pools: Any, dimension: str) -> str:
    limits = [pool[dimension] for pool in pools if dimension in pool]
    return str(min(limits)) if limits else ""


def _provider_plans() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((config_dir() / "providers.yaml").read_text())["plans"]
    return found
