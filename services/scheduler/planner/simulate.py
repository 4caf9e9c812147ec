"""The same traffic under each provider plan, one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator

from services.scheduler.planner.drive import Drive
from services.scheduler.planner.figures import Figures, Promise, figures
from services.scheduler.planner.site import Site
from services.scheduler.planner.traffic import Traffic
from services.scheduler.planner.virtual import virtual_line


async def simulate(
    url: str, site: Site, traffic: Traffic, max_wait_ms: int, promise: Promise | None
) -> AsyncIterator[Figures]:
    """What each plan of the site does with it, on the Valkey at `url`."""
    for plan in site.plans:
        async with virtual_line(url, site.pool) as line:
            drive = Drive(line, site.pool, site.plan(plan, max_wait_ms), traffic, watched=False)
            journeys = await drive.run(traffic.arrivals)
        yield figures(site, plan, traffic, journeys, drive.refused, promise)
