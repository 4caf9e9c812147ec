"""Alerts as signed webhooks: at least once each, from the table, with backoff, and given up after ten tries."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx2

from services import webhooks
from services.clock import Clock
from services.scheduler.alerts import Alert, Alerts
from services.sql import StoreUnavailable

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
CLAIM_MS = 30_000
"""More than a try takes."""
TRIES = 10
FIRST_RETRY_MS, RETRY_CAP_MS = 5_000, 3_600_000
"""Threefold each time: the ten tries take four hours."""
LOOK_MS = 1_000


def address(text: str) -> str:
    """An address that webhooks may go to: https, or http to this machine itself. ValueError for another."""
    parts = urlsplit(text)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.fragment:
        raise ValueError(f"'{text}' is not an https address")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(f"'{text}' must begin with https: only this machine itself may be reached by http")
    return text


def is_loopback(host: str) -> bool:
    """Whether that is this machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class AlertWebhook:
    """Sends until told to stop."""

    def __init__(
        self, alerts: Alerts, url: str, key: bytes, clock: Clock, some: asyncio.Event,
        *, first_retry_ms: int = FIRST_RETRY_MS,
    ) -> None:  # fmt: skip
        """`some` is set when there is one to send."""
        self._alerts = alerts
        self._url = url
        self._key = key
        self._clock = clock
        self._some = some
        self._first_retry_ms = first_retry_ms

    async def run(self, stopping: asyncio.Event) -> None:
        """Sends what is due."""
        # To this machine no proxy leads.
        through_proxy = not is_loopback(urlsplit(self._url).hostname or "")
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=through_proxy) as client:
            while not stopping.is_set():
                self._some.clear()
                with suppress(StoreUnavailable):
                    await self.send(client)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._some.wait(), LOOK_MS / 1000)

    async def send(self, client: httpx2.AsyncClient) -> None:
        """Tries those that are due, once each."""
        for alert in await self._alerts.due():
            if not await self._alerts.claim(alert, self._clock.now_ms() + CLAIM_MS):
                continue
            problem = await self._post(client, alert)
            tries = alert.tries + 1
            if not problem or tries >= TRIES:
                await self._alerts.settle(alert, None)
            else:
                wait_ms = min(RETRY_CAP_MS, self._first_retry_ms * 3 ** (tries - 1))
                await self._alerts.settle(alert, self._clock.now_ms() + wait_ms)
            if problem and tries >= TRIES:
                log.error("the alert %s is given up after %d tries: the webhook %s", alert.subject, tries, problem)
            elif problem:
                log.warning("the alert %s was not taken and is sent again: the webhook %s", alert.subject, problem)

    async def _post(self, client: httpx2.AsyncClient, alert: Alert) -> str:
        """What went wrong; empty if it was taken."""
        raised = datetime.fromtimestamp(alert.raised_ms // 1000, UTC).isoformat().replace("+00:00", "Z")
        data = {"subject": alert.subject, "message": alert.message}
        body = json.dumps({"type": "alert.raised", "timestamp": raised, "data": data}, ensure_ascii=False).encode()
        # The same for all tries: by it the receiver knows one that came twice.
        message_id = "msg_" + hashlib.sha256(f"{alert.raised_ms}/{alert.subject}".encode()).hexdigest()[:32]
        signed = webhooks.headers(self._key, message_id, self._clock.now_ms() // 1000, body)
        try:
            # The answer's body is not read: it may be of any length.
            async with (
                asyncio.timeout(TIMEOUT_S),
                client.stream(
                    "POST", self._url, content=body, headers={"content-type": "application/json", **signed}
                ) as answer,
            ):
                return "" if answer.is_success else f"answered {answer.status_code}"
        except (httpx2.HTTPError, TimeoutError) as error:
            return f"cannot be reached ({type(error).__name__})"
