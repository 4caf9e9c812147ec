"""Use of the limits as it is kept and told, alerts and their webhook: in virtual time, on both databases.

Broken on purpose, and red here: one figure for raising and ending, refusals overwritten instead of added, alerts said
by each replica, a webhook sent without a claim, one that follows redirects.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from headgate.scheduler.v1 import scheduler_pb2 as pb
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import insert, select
from standardwebhooks import Webhook

from services import sql, webhooks
from services.clock import DAY_MS
from services.scheduler.alert_webhook import AlertWebhook, address
from services.scheduler.alerts import Alerts
from services.scheduler.capacity import HOUR_MS, Capacity
from services.scheduler.places import Places
from services.scheduler.provider_plan import ProviderPlan
from services.scheduler.providers import Limits, Plan, Provider
from services.scheduler.settings import Settings
from services.scheduler.tables import alerts as alerts_table
from services.scheduler.tables import capacity as capacity_table
from services.settings import load
from tests.servers.crowd import until
from tests.servers.gateway import VirtualClock
from tests.servers.scheduler import migrate, running_scheduler, sqlite_url
from tests.servers.valkey import ValkeyServer

POOL = "sonnet"
NOON_MS = 20_781 * DAY_MS + 12 * HOUR_MS
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PLANS = {
    "20x": Plan("20x", {POOL: Limits({"requests": 100})}, "$200 a month", "start"),
    "start": Plan("start", {POOL: Limits({"requests": 1_000})}, "pay per token"),
}


class Bucket:
    """A line of which only the bucket matters."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.fields: dict[str, Any] = {"plan:requests": "100"}
        self.running = 0

    def send(self, requests: int) -> None:
        for name, count in (("sent:requests", requests), ("today", requests)):
            self.fields[name] = str(int(self.fields.get(name, 0)) + count)

    async def view(self, pool: str, *_: Any, **__: Any) -> dict[str, Any]:
        return {"now": self.clock.now_ms(), "V": 0, "tiers": {}, "limits": {}, "levels": {}, "bucket": self.fields,
                "running": self.running, "places": [], "asked": None}  # fmt: skip


class Site:
    """What every replica of a test shares, and one or more of them."""

    def __init__(self, database: sql.Database) -> None:
        self.database = database
        self.clock = VirtualClock()
        self.clock.advance(NOON_MS)
        self.bucket = Bucket(self.clock)
        self.some = asyncio.Event()

    def replica(self) -> tuple[Capacity, Alerts]:
        provider = Provider("20x", {POOL: ("claude-sonnet-5-5",)}, PLANS)
        plan = ProviderPlan(provider, {}, self.database, self.clock, lambda: "audit_1", lambda: None)
        alerts = Alerts(self.database, self.clock, self.some.set)
        places = Places(self.bucket, slots=lambda: 1, clock=self.clock)
        return Capacity(places, plan, alerts, self.database, self.clock), alerts

    async def minute(self, requests_a_second: float, *replicas: Capacity, seconds: int = 60) -> None:
        """That many requests are sent while the replicas look on."""
        for one in replicas:
            await one.look()
        for second in range(seconds):
            self.bucket.send(int((second + 1) * requests_a_second) - int(second * requests_a_second))
            self.clock.advance(1_000)
            for one in replicas:
                await one.look()
        for one in replicas:
            await one.keep()

    async def rows(self) -> list[dict[str, Any]]:
        return await self.database.read(lambda c: [dict(row) for row in c.execute(select(alerts_table)).mappings()])


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    migrate(database_url)
    database = sql.connect(database_url)
    yield Site(database)
    await database.close()


async def requests_of(capacity: Capacity) -> Any:
    (told,) = await capacity.tell()
    return next(use for use in told.limits if use.dimension == "requests")


async def test_use_peak_and_refusals_are_told_and_outlive_a_restart(site: Site) -> None:
    (one, _), (two, _) = site.replica(), site.replica()
    await site.minute(1.5, one, two)
    # Each refusal is seen by the replica whose attempt it was.
    one.refused(POOL)
    two.refused(POOL)
    two.refused(POOL)
    assert ((await requests_of(one)).used, (await requests_of(one)).refusals) == (90, 1)
    await site.minute(0.2, one, two)
    for told in (await requests_of(one), await requests_of(two), await requests_of(site.replica()[0])):
        assert (told.limit, told.source, told.peak, told.refusals) == (100, "plan", 90, 3)
    assert (await requests_of(one)).used == 12
    site.clock.advance(25 * HOUR_MS)
    assert ((await requests_of(one)).peak, (await requests_of(one)).refusals) == (12, 0)


async def test_hours_are_kept_for_ninety_days(site: Site) -> None:
    one, _ = site.replica()
    old = {"pool": POOL, "dimension": "requests", "peak": 1, "limit_then": 1, "refusals": 0}
    hour = NOON_MS // HOUR_MS
    rows = [old | {"hour": hour - 90 * 24 - 1}, old | {"hour": hour - 90 * 24 + 1}]
    await site.database.write(lambda c: c.execute(insert(capacity_table), rows).rowcount)
    await site.minute(1, one)
    kept = await site.database.read(lambda c: c.execute(select(capacity_table.c.hour).distinct()).scalars().all())
    assert sorted(kept) == [hour - 90 * 24 + 1, hour]


async def test_the_forecast_reads_the_peaks_of_the_days_before(site: Site) -> None:
    one, _ = site.replica()
    today = NOON_MS // DAY_MS
    # 40, 50, 60 of 100, each day's peak in another hour.
    rows = [
        {"pool": POOL, "dimension": "requests", "hour": (today - 3 + n) * 24 + h, "peak": 40 + 10 * n - (h != n),
         "limit_then": 100, "refusals": 0}
        for n in range(3) for h in range(4)
    ]  # fmt: skip
    await site.database.write(lambda c: c.execute(insert(capacity_table), rows).rowcount)
    assert (await requests_of(one)).exhausted_ms == (today + 3) * DAY_MS


async def test_an_alert_is_raised_at_four_fifths_and_ends_below_seven_tenths(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    (one, alerts), (two, _) = site.replica(), site.replica()

    def said() -> int:
        return sum("ALERT capacity/sonnet/requests" in record.getMessage() for record in caplog.records)

    await site.minute(1.3, one, two)
    assert await alerts.active() == []
    await site.minute(1.0, one, two)
    assert (said(), await alerts.active()) == (0, [])
    await site.minute(1.4, one, two)
    assert ((await requests_of(one)).used, said()) == (84, 1), "two replicas say it once"
    (alert,) = await alerts.active()
    assert alert.subject == "capacity/sonnet/requests"
    assert "Plan start (pay per token) would do" in alert.message
    assert "no interface to ask for more" in alert.message
    for rate in (1.25, 1.4, 1.2, 1.5, 1.19):
        await site.minute(rate, one, two)
    assert (said(), len(await alerts.active())) == (1, 1)
    # A restart between the two figures neither says it again nor ends it.
    three, _ = site.replica()
    for rate in (1.25, 1.25, 1.45, 1.3):
        await site.minute(rate, three)
    assert (said(), len(await alerts.active())) == (1, 1)
    await site.minute(1.1, three)
    assert await alerts.active() == []
    await site.minute(1.5, three)
    assert (said(), len(await alerts.active())) == (2, 1)


async def test_advice_is_given_from_four_fifths_on(site: Site) -> None:
    one, _ = site.replica()
    await site.minute(1.3, one)
    assert (await one.tell())[0].advice == ""
    await site.minute(1.35, one)
    assert "Pool sonnet uses 81% of its requests a minute (81 of 100)" in (await one.tell())[0].advice


async def test_a_limit_that_is_gone_ends_its_alert(site: Site) -> None:
    one, alerts = site.replica()
    await site.minute(1.5, one)
    assert len(await alerts.active()) == 1
    del site.bucket.fields["plan:requests"]
    await site.minute(1.5, one, seconds=1)
    assert await alerts.active() == []


async def test_the_alert_of_an_account_ends_with_its_pause_whoever_raised_it(site: Site) -> None:
    one, alerts = site.replica()
    site.bucket.fields["pause:provider_account"] = str(site.clock.now_ms() + 75_000)
    await alerts.raise_("account/sonnet", "Refused.")
    await site.minute(0, one)
    await site.minute(0, one, seconds=14)
    assert len(await alerts.active()) == 1
    await site.minute(0, one, seconds=2)
    assert await alerts.active() == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_use_and_alerts_are_metrics(site: Site) -> None:
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    one, _ = site.replica()
    await site.minute(1.5, one)
    told: Any = reader.get_metrics_data()
    found = {metric.name: metric.data.data_points for metric in told.resource_metrics[0].scope_metrics[0].metrics}
    used = [(dict(point.attributes), point.value) for point in found["headgate.limit.use_ratio"]]
    assert used == [({"headgate.pool": POOL, "headgate.limit": "requests"}, 0.9)]
    assert [(dict(p.attributes), p.value) for p in found["headgate.alerts"]] == [({"headgate.alert": "capacity"}, 1)]


class Receiver:
    """An HTTP server that answers as it is told to and keeps what came."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        self.came.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = self.answers.pop(0) if self.answers else "204 Taken"
        writer.write(f"HTTP/1.1 {status}\r\nlocation: {self.url}/other\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()


@contextlib.asynccontextmanager
async def sender(site: Site, alerts: Alerts, receiver: Receiver) -> AsyncIterator[Any]:
    webhook = AlertWebhook(alerts, receiver.url + "/alerts", webhooks.secret(SECRET), site.clock, site.some)
    async with httpx2.AsyncClient(trust_env=False) as client:
        yield lambda: webhook.send(client)


async def test_an_alert_is_sent_signed_and_once(
    site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alerts = site.replica()
    _, others = site.replica()
    await alerts.raise_("spend/site", "Enough — 100 % of today's.")
    await others.raise_("spend/site", "Enough.")
    async with sender(site, alerts, receiver) as send, sender(site, others, receiver) as send_too:
        await asyncio.gather(send(), send_too())
        site.clock.advance(DAY_MS)
        await send()
    ((headers, body),) = receiver.came
    signed = webhooks.headers(webhooks.secret(SECRET), headers["webhook-id"], NOON_MS // 1000, body)
    assert signed.items() <= headers.items()
    assert json.loads(body) == {
        "type": "alert.raised", "timestamp": "2026-11-24T12:00:00Z",
        "data": {"subject": "spend/site", "message": "Enough — 100 % of today's."},
    }  # fmt: skip


async def test_what_is_not_taken_comes_again_under_the_same_id(site: Site, receiver: Receiver) -> None:
    _, alerts = site.replica()
    receiver.answers = ["500 Later", "307 Elsewhere", "429 Later"]
    await alerts.raise_("spend/site", "Enough.")
    async with sender(site, alerts, receiver) as send:
        for wait_ms, came in ((0, 1), (4_999, 1), (1, 2), (14_999, 2), (1, 3), (45_000, 4), (DAY_MS, 4)):
            site.clock.advance(wait_ms)
            await send()
            assert len(receiver.came) == came
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.came}) == 4


async def test_after_ten_tries_it_is_given_up(site: Site, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    _, alerts = site.replica()
    receiver.answers = ["503 Away"] * 30
    await alerts.raise_("spend/site", "Enough.")
    async with sender(site, alerts, receiver) as send:
        for _ in range(12):
            await send()
            site.clock.advance(HOUR_MS)
        assert len(receiver.came) == 10
        assert caplog.messages[-1] == "the alert spend/site is given up after 10 tries: the webhook answered 503"
        # Raised anew it is sent anew.
        receiver.answers = []
        await alerts.end("spend/site")
        await alerts.raise_("spend/site", "Enough again.")
        await send()
    assert json.loads(receiver.came[-1][1])["data"]["message"] == "Enough again."
    assert [row["tries"] for row in await site.rows()] == [1]


async def test_a_replica_that_is_killed_while_it_sends_leaves_it_to_others(site: Site, receiver: Receiver) -> None:
    _, alerts = site.replica()
    await alerts.raise_("spend/site", "Enough.")
    (due,) = await alerts.due()
    assert await alerts.claim(due, site.clock.now_ms() + 30_000)
    assert not await alerts.claim(due, site.clock.now_ms() + 30_000)
    async with sender(site, alerts, receiver) as send:
        await send()
        assert receiver.came == []
        site.clock.advance(30_000)
        await send()
    assert len(receiver.came) == 1


async def test_without_an_address_nothing_waits_to_be_sent(site: Site) -> None:
    alerts = Alerts(site.database, site.clock, None)
    await alerts.raise_("spend/site", "Enough.")
    assert [row["send_ms"] for row in await site.rows()] == [None]
    await alerts.end("spend/site")
    site.clock.advance(100 * DAY_MS)
    await alerts.purge(site.clock.now_ms())
    assert await site.rows() == []


@pytest.mark.parametrize(
    "url", ["https://example.org/hook", "http://127.0.0.1:9/x", "http://[::1]/", "http://localhost"]
)
def test_where_alerts_may_go(url: str) -> None:
    assert address(url) == url


@pytest.mark.parametrize(
    "url",
    ["http://example.org", "ftp://localhost", "https://", "https://a:b@example.org", "http://10.0.0.1/", "nothing"],
)
def test_where_alerts_may_not_go(url: str) -> None:
    with pytest.raises(ValueError, match=r"is not an https address|must begin with https"):
        address(url)


async def test_the_whole_way_of_an_alert(tmp_path: Path, valkey: ValkeyServer, receiver: Receiver) -> None:
    environment = {
        "HEADGATE_ALERT_WEBHOOK_URL": receiver.url, "HEADGATE_ALERT_WEBHOOK_SECRET": SECRET,
        "HEADGATE_DATABASE_URL": "x", "HEADGATE_REDIS_URL": "x", "HEADGATE_QUOTA_ADDRESS": "x",
        "HEADGATE_GENERATOR_ADDRESSES": "x",
    }  # fmt: skip
    read = load(Settings, environment)
    hooked = {"alert_webhook_url": read.alert_webhook_url, "alert_webhook_secret": read.alert_webhook_secret}
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, provider_plan="20x", **hooked) as scheduler:
        database = sql.connect(sqlite_url(tmp_path))
        now_ms = (await scheduler.get(await scheduler.submit())).accept_time.ToMilliseconds()
        clock = VirtualClock()
        clock.advance(now_ms)
        await Alerts(database, clock, lambda: None).raise_("spend/site", "Enough.")
        await until(lambda: bool(receiver.came), "a webhook")
        assert Webhook(SECRET).verify(receiver.came[0][1], receiver.came[0][0])["type"] == "alert.raised"
        told = await scheduler.stub.ListAlerts(pb.ListAlertsRequest())
        assert [(one.subject, one.message) for one in told.alerts] == [("spend/site", "Enough.")]
        assert told.alerts[0].raise_time.ToMilliseconds() == now_ms
        await database.close()


async def test_what_is_sent_is_what_is_used(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with running_scheduler(sqlite_url(tmp_path), valkey.url, provider_plan="20x") as scheduler:
        for number in range(4):
            await scheduler.end(await scheduler.submit(prompt=f"Another {number}"))
        told = await scheduler.stub.GetCapacity(pb.GetCapacityRequest())
        uses = {use.dimension: use for pool in told.pools if pool.pool == POOL for use in pool.limits}
        assert (uses["requests"].used, uses["requests"].peak, uses["requests_day"].used) == (4, 4, 4)
        assert uses["tokens"].used > 4 * 400
        assert not uses["requests"].HasField("exhaustion_time")
