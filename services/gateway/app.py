"""The addresses of the gateway, and what answers at each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from services.clock import Clock
from services.gateway import pages
from services.gateway.account import Account
from services.gateway.admin import Admin
from services.gateway.audit import Audit
from services.gateway.billing import Billing
from services.gateway.callers import Callers
from services.gateway.cors import Cors
from services.gateway.diagrams import Diagrams
from services.gateway.economics import Economics
from services.gateway.edge import Edge, Handler, Resource, json_response, nowhere
from services.gateway.events import Events
from services.gateway.health import Health
from services.gateway.ledger import Ledger
from services.gateway.messages import Links
from services.gateway.pulse import Pulse
from services.gateway.settings import GatewaySettings
from services.gateway.socket import Sockets
from services.gateway.watches import Hub

if TYPE_CHECKING:
    from headgate.quota.v1.billing_pb2_grpc import BillingServiceAsyncStub
    from headgate.quota.v1.ledger_pb2_grpc import LedgerServiceAsyncStub
    from headgate.quota.v1.quota_pb2_grpc import QuotaServiceAsyncStub
    from headgate.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub


@dataclass(frozen=True)
class Backends:
    """The services behind the gateway."""

    quota: QuotaServiceAsyncStub
    scheduler: SchedulerServiceAsyncStub
    quota_health: Any
    scheduler_health: Any
    ledger: LedgerServiceAsyncStub
    billing: BillingServiceAsyncStub


class Gateway:
    """The assembled gateway: an ASGI application and what runs beside it."""

    def __init__(
        self, settings: GatewaySettings, backends: Backends, clock: Clock, new_id: Callable[[], str], web: Path
    ) -> None:
        quota, scheduler = backends.quota, backends.scheduler
        links = Links(settings.public_url)
        callers = Callers(quota, settings.admin_keys, settings.admin_read_keys)
        cors = Cors(settings.allowed_origins)
        self.pulse = Pulse(clock)
        self.hub = Hub(scheduler.Watch, scheduler.Replay, links, clock)
        self.events = Events(callers, self.hub, self.pulse, clock)
        self.sockets = Sockets(callers, self.hub, self.pulse, cors)
        self.health = Health(
            {"quota": backends.quota_health, "scheduler": backends.scheduler_health},
            lambda: ["events"] if self.hub.broken else [],
        )
        diagrams = Diagrams(quota, scheduler, callers, self.hub, links, clock, new_id)
        resources = {
            **_user_calls(
                diagrams, self.events, Account(quota, callers, diagrams.outstanding, settings.billing_portal_url)
            ),
            **_admin_calls(Admin(quota, callers), Ledger(backends.ledger, callers)),
            **_economics_calls(Economics(backends.ledger, callers)),
            "/api/admin/audit": Resource(GET=Audit(backends.ledger, callers).list),
            "/api/billing/stripe/webhook": Resource(POST=Billing(backends.billing).stripe),
            "/healthz": Resource(GET=self.health.alive),
            "/readyz": Resource(GET=self.health.ready),
            **{address: Resource(GET=page) for address, page in pages.load(web).items()},
        }
        if settings.demo_keys is not None:
            resources["/demo-keys.json"] = Resource(GET=_fixed(settings.demo_keys))
        # Most used first: the router tries one after the other.
        routes = [Route(path, endpoint=resource) for path, resource in resources.items()]
        router = Router(routes, redirect_slashes=False, default=nowhere)
        self.app: ASGIApp = Edge(router, self.sockets, cors, emulated=settings.emulated)

    def drain(self) -> None:
        """Sends every watcher to another replica and reports that nothing is accepted any more."""
        self.health.draining = True
        self.sockets.close()
        self.events.close()


def _user_calls(diagrams: Diagrams, events: Events, account: Account) -> dict[str, Resource]:
    return {
        "/api/diagram/generate": Resource(POST=diagrams.generate),
        "/api/diagram/{id}": Resource(GET=diagrams.show, DELETE=diagrams.cancel),
        "/api/diagram/{id}/events": Resource(GET=events.listen),
        "/api/diagram/{id}/diagram.svg": Resource(GET=diagrams.picture),
        "/api/diagrams": Resource(GET=diagrams.list),
        "/api/wait": Resource(GET=diagrams.wait),
        "/api/me": Resource(GET=account.me),
        "/api/tiers": Resource(GET=account.tiers),
    }


def _admin_calls(admin: Admin, ledger: Ledger) -> dict[str, Resource]:
    return {
        "/api/admin/users": Resource(GET=ledger.users, POST=admin.create_user),
        "/api/admin/usage": Resource(GET=ledger.usage),
        "/api/admin/users/{id}": Resource(GET=admin.user),
        "/api/admin/users/{id}/status": Resource(PUT=admin.set_status),
        "/api/admin/users/{id}/limits": Resource(PUT=admin.set_limits),
        "/api/admin/users/{id}/tier": Resource(PUT=admin.set_tier),
        "/api/admin/users/{id}/keys": Resource(GET=admin.keys, POST=admin.create_key),
        "/api/admin/keys/{id}": Resource(DELETE=admin.revoke_key),
    }


def _economics_calls(economics: Economics) -> dict[str, Resource]:
    return {
        "/api/admin/economics": Resource(GET=economics.show),
        "/api/admin/statements/{month}": Resource(GET=economics.statement),
    }


def _fixed(content: Any) -> Handler:
    async def answer(request: Request) -> Response:
        return json_response(content)

    return answer
