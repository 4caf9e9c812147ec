"""A stand-in gateway and a page in Chromium for each test; they watch for what no page may do."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.browser.standin import KEYS, Standin

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 15_000
# Chromium itself reports every answer of 400 and above, and every refused connection, as a console error.
NETWORK = re.compile(r"Failed to load resource|WebSocket connection to .* failed")

expect.set_options(timeout=TIMEOUT_MS)


@dataclass
class Studio:
    """The page with its stand-in, and what went wrong on it."""

    page: Page
    gateway: Standin
    expect_refusals: bool = False
    problems: list[str] = field(default_factory=list)

    def open(self, tier: str | None = "free", address: str = "") -> None:
        """Opens the page, with the key of a tier unless None."""
        if tier is not None:
            # Not on about:blank, which has no storage.
            set_key = f"sessionStorage.setItem('headgate.key', '{KEYS[tier]}')"
            self.page.add_init_script(f"if (location.protocol === 'http:') {set_key}")
        self.page.goto(self.gateway.url + address)

    def send(self, prompt: str = "An order from basket to doorstep") -> None:
        """Writes a prompt and sends it."""
        self.page.fill("#prompt", prompt)
        self.page.click("#send")

    def expect_words(self, words: str | re.Pattern[str]) -> None:
        """Waits until the status line says so."""
        expect(self.page.locator("hg-status .words")).to_have_text(words)

    def expect_mode(self, mode: str) -> None:
        """Waits until the stage shows that."""
        expect(self.page.locator("#stage")).to_have_attribute("data-mode", mode)

    def heard_console(self, message: ConsoleMessage) -> None:
        """Notes what the console complains about, but for refusals that the test asked for."""
        if message.type in ("error", "warning") and not (self.expect_refusals and NETWORK.search(message.text)):
            self.problems.append(f"console: {message.text}")

    def heard_request(self, request: Request) -> None:
        """Notes a request to another host."""
        if not request.url.startswith((self.gateway.url, "data:", "blob:")):
            self.problems.append(f"another host: {request.url}")


@pytest.fixture
def gateway() -> Iterator[Standin]:
    """A stand-in gateway on a free port."""
    standin = Standin()
    standin.start()
    yield standin
    standin.stop()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Chromium; one for each test, because Playwright's loop must not outlive it in a process that runs others."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here; bring it with: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def studio(browser: Browser, gateway: Standin) -> Iterator[Studio]:
    """The studio on a desktop; fails the test if the page erred or asked another host."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    studio = Studio(page, gateway)
    page.on("console", studio.heard_console)
    page.on("pageerror", lambda error: studio.problems.append(f"error: {error}"))
    page.on("request", studio.heard_request)
    yield studio
    context.close()
    assert studio.problems == []
