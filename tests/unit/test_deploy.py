"""The manifests against the programs they start: every variable is read, every port is listened on."""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.emulator.settings import Settings as EmulatorSettings
from services.gateway.settings import GatewaySettings
from services.generator.settings import Settings as GeneratorSettings
from services.quota.settings import MigrateSettings
from services.quota.settings import Settings as QuotaSettings
from services.scheduler.settings import MigrateSettings as SchedulerMigrateSettings
from services.scheduler.settings import Settings as SchedulerSettings
from services.settings import load, names

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "k8s"
SETTINGS: dict[str, type] = {
    "gateway": GatewaySettings,
    "quota": QuotaSettings,
    "scheduler": SchedulerSettings,
    "generator": GeneratorSettings,
    "emulator": EmulatorSettings,
    "quota-migrate": MigrateSettings,
    "scheduler-migrate": SchedulerMigrateSettings,
}
OURS = [name for name in SETTINGS if not name.endswith("-migrate")]
KINDS_OF_STORES = ("postgres", "valkey")


def resources() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every document of every manifest, patches included."""
    for path in sorted(MANIFESTS.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path, document


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for _, document in resources():
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def containers() -> Iterator[dict[str, Any]]:
    for _, pod in pods():
        yield from [*pod.get("initContainers", []), *pod["containers"]]


def whole(kind: str) -> dict[str, dict[str, Any]]:
    """Resources of a kind by name, without patches (which lack what they do not change)."""
    found = {}
    for _, document in resources():
        spec = document.get("spec", {})
        if document["kind"] == kind and (kind != "Deployment" or "selector" in spec):
            found.setdefault(document["metadata"]["name"], document)
    return found


def variables(name: str) -> dict[str, str]:
    """The variables with plain values that a container of that name gets in the base or where it is defined."""
    (container,) = whole("Deployment")[name]["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}


def is_optional(variable: dict[str, Any]) -> bool:
    """Whether a pod starts without the Secret or ConfigMap that the variable comes from."""
    return any(source.get("optional", False) for source in variable.get("valueFrom", {}).values())


def listening_port(name: str) -> int:
    """The port a service listens on with the variables that its manifest gives it."""
    given = variables(name)
    listen = given.get("HEADGATE_LISTEN") or given.get("HEADGATE_HTTP_PORT") or given.get("HEADGATE_EMULATOR_PORT")
    assert listen, f"{name}: the manifest leaves the port to a default"
    return int(listen.rsplit(":", 1)[-1])


def test_every_service_is_deployed() -> None:
    assert set(OURS) == set(whole("Deployment"))


def test_every_variable_is_one_that_the_program_reads() -> None:
    stores = [c["name"] for c in containers() if c["name"] in KINDS_OF_STORES]
    assert sorted(stores) == sorted(KINDS_OF_STORES)
    for container in containers():
        if container["name"] in KINDS_OF_STORES:
            continue
        given = {variable["name"] for variable in container.get("env", [])}
        assert given <= set(names(SETTINGS[container["name"]])), container["name"]


@pytest.mark.parametrize("name", OURS)
def test_what_a_program_requires_is_there_and_the_values_are_right(name: str) -> None:
    (container,) = whole("Deployment")[name]["spec"]["template"]["spec"]["containers"]
    secrets = {
        "HEADGATE_SECRET": "s" * 32,
        "HEADGATE_DATABASE_URL": "postgresql://db/headgate",
        "HEADGATE_REDIS_URL": "redis://cache",
    }
    optional = {
        "HEADGATE_ALERT_WEBHOOK_URL": "https://alerts.example/headgate",
        "HEADGATE_ALERT_WEBHOOK_SECRET": "whsec_" + base64.b64encode(b"s" * 32).decode(),
        "HEADGATE_STRIPE_WEBHOOK_SECRET": "whsec_stripe",
        "HEADGATE_BILLING_PORTAL_URL": "https://billing.example",
        "HEADGATE_MAX_SPEND_PER_DAY": "250",
    }
    given = {
        variable["name"]: variable.get("value") or {**secrets, **optional}.get(variable["name"], "x")
        for variable in container["env"]
    }
    assert load(SETTINGS[name], given)
    sources = [source for variable in container["env"] for source in variable.get("valueFrom", {}).values()]
    maybe = {variable["name"] for variable in container["env"] if is_optional(variable)}
    assert maybe == optional.keys() & given.keys()
    assert {source["name"] for source in sources} <= {"headgate"}
    assert load(SETTINGS[name], {key: value for key, value in given.items() if key not in maybe})


@pytest.mark.parametrize("name", OURS)
def test_every_port_of_a_service_is_the_one_it_listens_on(name: str) -> None:
    port = listening_port(name)
    (container,) = whole("Deployment")[name]["spec"]["template"]["spec"]["containers"]
    (named,) = container["ports"]
    assert named["containerPort"] == port
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        for how in container.get(probe, {}).values():
            if isinstance(how, dict):
                assert how["port"] in (port, named["name"]), probe
    (exposed,) = whole("Service")[name]["spec"]["ports"]
    assert exposed["targetPort"] == named["name"]
    assert any(
        rule["port"] == port for allowed in whole("NetworkPolicy")[name]["spec"]["ingress"] for rule in allowed["ports"]
    )


def test_every_address_leads_to_a_service_and_is_allowed_on_both_ends() -> None:
    seen = 0
    policies = network_policies()
    for name, pod in pods():
        for variable in pod["containers"][0].get("env", []):
            for target, port in re.findall(r"//(?:/|[^/@]*@)?([a-z]+):(\d+)", variable.get("value", "")):
                if target not in whole("Service"):
                    continue
                seen += 1
                assert whole("Service")[target]["spec"]["ports"][0]["port"] == int(port)
                assert (target, int(port)) in policies["egress", name], (name, target)
                assert (name, int(port)) in policies["ingress", target], (name, target)
    assert seen >= 6


def test_the_secrets_of_the_overlay_are_those_that_are_asked_for_and_lead_to_its_stores() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "overlays" / "dev" / "kustomization.yaml").read_text())
    (generated,) = kustomization["secretGenerator"]
    literals = dict(literal.split("=", 1) for literal in generated["literals"])
    references = [
        variable["valueFrom"]["secretKeyRef"]
        for container in containers()
        for variable in container.get("env", [])
        if "valueFrom" in variable and not is_optional(variable)
    ]
    assert {reference["name"] for reference in references} == {generated["name"]}
    assert {reference["key"] for reference in references} == set(literals)
    assert len(literals["secret"]) >= 32
    for url in (literals["quota-database-url"], literals["scheduler-database-url"], literals["redis-url"]):
        (place,) = re.findall(r"//(?:[^/@]*@)?([a-z]+:\d+)/", url)
        assert place in ("postgres:5432", "valkey:6379")


def network_policies() -> dict[tuple[str, str], set[tuple[str, int]]]:
    """Allowed peers and ports by direction and pod, those of patches too."""
    allowed: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for _, document in resources():
        if document["kind"] != "NetworkPolicy":
            continue
        for direction, end in (("ingress", "from"), ("egress", "to")):
            peers = allowed.setdefault((direction, document["metadata"]["name"]), set())
            for rule in document["spec"].get(direction, []):
                labels = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule.get(end, [])]
                names_of_peers = {name for label in labels for name in label.values()}
                peers |= {(name, port["port"]) for name in names_of_peers for port in rule["ports"]}
    return allowed


def test_everything_that_runs_is_restricted() -> None:
    for name, pod in pods():
        if "securityContext" not in pod:
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys() & container["resources"][
                "limits"
            ].keys()


def test_what_is_not_allowed_is_denied() -> None:
    deny = whole("NetworkPolicy")["default-deny"]["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert set(whole("NetworkPolicy")) >= {*OURS, *KINDS_OF_STORES}


@pytest.mark.parametrize("name", ["gateway", "quota", "scheduler", "generator"])
def test_a_drain_ends_before_the_kill(name: str) -> None:
    pod = whole("Deployment")[name]["spec"]["template"]["spec"]
    drain_ms = int(variables(name).get("HEADGATE_DRAIN_MS", "10000"))
    assert pod["terminationGracePeriodSeconds"] * 1000 > drain_ms + 5000
    assert whole("PodDisruptionBudget")[name]["spec"]["maxUnavailable"] == 1


def test_every_command_is_one_that_the_wheel_installs() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    commands = {container["command"][0] for container in containers() if "command" in container}
    assert commands <= set(scripts)
    assert {f"headgate-{name}" for name in OURS} == commands


def test_every_file_belongs_to_a_kustomization() -> None:
    for folder in (MANIFESTS / "base", MANIFESTS / "overlays" / "dev"):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = {*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))}
        assert {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} <= named
