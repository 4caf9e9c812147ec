"""From the prompt to the picture, and everything that may happen on the way."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import Studio
from tests.browser.standin import KEYS, RESET, SOURCE

PROMPT = "An order from basket to doorstep"


def test_the_happy_path_to_the_picture(studio: Studio, tmp_path: Path) -> None:
    page, gateway = studio.page, studio.gateway
    studio.open(tier=None)
    expect(page.locator("#ribbon")).to_have_text(re.compile("The emulator answers, not the Claude API"))
    page.click("#empty-key")
    page.click(".demo-keys button:has-text('Free')")
    expect(page.locator("#usage .left")).to_have_text("7 of 10 left today")
    expect(page.locator("#estimate")).to_have_text("Sent now: next in line, about 2 s")

    page.click(".example >> nth=1")
    expect(page.locator("#prompt")).to_have_value(re.compile("identity provider"))
    expect(page.locator("input[value=sequence]")).to_be_checked()
    page.keyboard.press("Control+Enter")
    asked = gateway.wait_for_request()
    assert gateway.posts[0]["diagramType"] == "sequence"
    assert gateway.posts[0]["idempotencyKey"]
    studio.expect_words(re.compile(r"^\d+th in line, about \d+ s$"))
    expect(page).to_have_url(re.compile(f"#{asked.request_id}$"))

    gateway.tell(asked, "status", position=2, estimatedWait=3_000)
    studio.expect_words(re.compile(r"^(2nd|Next) in line, "))
    gateway.tell(asked, "processing", attempt=1)
    studio.expect_words("Drawing…")
    gateway.tell(asked, "delta", attempt=1, offset=0, text=SOURCE[:30])
    expect(page.locator("hg-source li")).to_have_count(2)
    gateway.tell(asked, "delta", attempt=1, offset=30, text=SOURCE[30:])
    expect(page.locator("hg-source li >> nth=1")).to_have_text("    A[Basket] --> B{Paid?}")
    studio.expect_words("Checking")
    gateway.complete(asked)

    studio.expect_mode("picture")
    studio.expect_words(re.compile(r"^Drawn in \d"))
    expect(page.locator("hg-picture img")).to_have_attribute("alt", re.compile("identity provider"))
    assert page.evaluate("document.querySelector('hg-picture img').naturalWidth") == 240
    expect(page.locator("#usage .left")).to_have_text("6 of 10 left today")
    for button, ending, magic in (
        ("svg", ".svg", b"<svg "),
        ("png", ".png", b"\x89PNG"),
        ("source", ".mmd", b"flowchart TD"),
    ):
        with page.expect_download() as download:
            page.click(f"#save-{button}")
        assert download.value.suggested_filename.endswith(ending)
        path = tmp_path / f"saved{ending}"
        download.value.save_as(path)
        assert path.read_bytes().startswith(magic)


def test_place_and_wait_count_down_between_tellings(studio: Studio) -> None:
    page = studio.page
    page.clock.install()
    studio.open()
    studio.send()
    studio.gateway.wait_for_request()
    page.clock.run_for(20_000)
    studio.expect_words(re.compile(r"^[67]th in line, about (19|20|21) s$"))
    fill = page.evaluate("getComputedStyle(document.querySelector('hg-status .bar')).getPropertyValue('--fill')")
    assert 0.4 < float(fill) < 0.6


def test_the_limit_is_a_card_with_the_next_tier(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.expect_refusals = True
    studio.open()
    gateway.refuse_next(
        429, "USER_LIMIT_EXCEEDED", resetTime=RESET, currentTier="free", used=10, limit=10, nextTier="basic",
        nextTierLimit="100 requests/day", price="$15/month", upgradeUrl="https://site.example/buy",
    )  # fmt: skip
    studio.send(PROMPT)
    card = page.locator(".card.limit")
    expect(card.locator("h2")).to_have_text("10 of 10 today.")
    expect(card.locator("h2")).to_be_focused()
    expect(card.locator("time")).to_have_text(re.compile(r"^Your next ten come at \d\d:\d\d\.$"))
    expect(card.locator(".next")).to_contain_text("100 requests/day")
    expect(card.locator(".next")).to_contain_text("$15/month")
    upgrade = card.get_by_role("link", name="Upgrade to Basic")
    expect(upgrade).to_have_attribute("href", "https://site.example/buy")
    expect(page.locator("#live")).to_contain_text("10 of 10 today.")
    card.get_by_role("button", name="I can wait").click()
    studio.expect_mode("empty")
    expect(page.locator("#prompt")).to_have_value(PROMPT)


def test_other_refusals_have_words_and_a_way_on(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.expect_refusals = True
    studio.open()
    title = page.locator(".card h2")
    gateway.refuse_next(429, "CONCURRENCY_LIMIT_EXCEEDED", outstanding=10, limit=10, retryAfter=5)
    studio.send(PROMPT)
    expect(title).to_have_text("You have 10 of 10 diagrams under way.")
    gateway.refuse_next(429, "QUEUE_FULL", estimatedWait=1_200_000, retryAfter=30)
    page.get_by_role("button", name="Try again").click()
    expect(title).to_have_text("The line is full.")
    expect(page.locator(".card")).to_contain_text("about 20 min")
    gateway.refuse_next(403, "FORBIDDEN", message="This account is suspended.")
    page.get_by_role("button", name="Try again").click()
    expect(title).to_have_text("This key may not draw at the moment.")
    page.get_by_role("button", name="Close").click()
    page.click("#send")
    gateway.wait_for_request()
    assert [post["prompt"] for post in gateway.posts] == [PROMPT] * 4


def test_pauses_and_retries_are_told_in_words(studio: Studio) -> None:
    gateway = studio.gateway
    studio.open()
    studio.send()
    asked = gateway.wait_for_request()
    gateway.tell(asked, "status", position=7, estimatedWait=25_000, paused="provider_down")
    studio.expect_words("Waiting: the provider does not answer; we keep asking. Your place is kept.")
    gateway.tell(asked, "processing", attempt=1)
    gateway.tell(asked, "retrying", reason="The provider asked for a break.", delay=12_000, attempt=1)
    studio.expect_words("Waiting: the provider asked for a 12 s break. Your place is kept.")
    expect(studio.page.locator("hg-status .detail")).to_have_text(re.compile(r"^\d+ s left · 7th in line$"))
    gateway.tell(asked, "processing", attempt=2)
    studio.expect_words("Drawing…")
    expect(studio.page.locator("hg-status .detail")).to_have_text("try 2")
    gateway.tell(asked, "failed", code="INVALID_DIAGRAM", error="Parse error on line 2: no arrow.", status="failed")
    studio.expect_words("Not drawn")
    expect(studio.page.locator(".card .told")).to_have_text("Parse error on line 2: no arrow.")


def test_cancel_is_beside_the_line(studio: Studio) -> None:
    studio.open()
    studio.send()
    studio.gateway.wait_for_request()
    studio.page.get_by_role("button", name="Cancel").click()
    studio.expect_words("Cancelled")
    expect(studio.page.locator(".card")).to_contain_text("does not count towards your day")
    studio.page.get_by_role("button", name="Send again").click()
    assert studio.gateway.wait_for_request(2).prompt == PROMPT


def test_a_lost_connection_is_told_and_mended(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.expect_refusals = True
    studio.open()
    studio.send()
    asked = gateway.wait_for_request()
    gateway.tell(asked, "processing", attempt=1)
    gateway.tell(asked, "delta", attempt=1, offset=0, text=SOURCE[:30])
    expect(page.locator("hg-source li")).to_have_count(2)
    seen = asked.events[-1]["seq"]
    gateway.stop()
    expect(page.locator("#offline")).to_contain_text("What you sent keeps its place.")
    gateway.start()
    page.click("#offline button")
    expect(page.locator("#offline")).to_be_hidden()
    gateway.wait_for_request()
    assert gateway.subscriptions[-1] == (asked.request_id, seen)
    gateway.complete(asked)
    studio.expect_mode("picture")


def test_a_prompt_sent_while_the_gateway_is_away_is_sent_once(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.expect_refusals = True
    studio.open()
    expect(page.locator("#usage .left")).to_be_visible()
    gateway.stop()
    studio.send(PROMPT)
    studio.expect_words("Sending…")
    expect(page.locator("#offline")).to_be_visible()
    gateway.start()
    asked = gateway.wait_for_request()
    expect(page).to_have_url(re.compile(asked.request_id))
    expect(page.locator("#offline")).to_be_hidden()
    assert len(gateway.posts) == 1


def test_polling_takes_over_where_sockets_do_not_get_through(studio: Studio) -> None:
    gateway = studio.gateway
    studio.expect_refusals = True
    gateway.sockets_refused = True
    studio.open()
    studio.send()
    gateway.wait_until(lambda: gateway.polled, "a poll")
    asked = next(iter(gateway.asked.values()))
    gateway.complete(asked)
    studio.expect_mode("picture")
    expect(studio.page.locator("#offline")).to_be_hidden()


def test_a_closed_key_panel_sends_nothing(studio: Studio) -> None:
    page = studio.page
    studio.open(tier=None)
    studio.send(PROMPT)
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.press("Escape")
    page.click("#key-button")
    page.click(".demo-keys button:has-text('Free')")
    expect(page.locator("#usage .left")).to_be_visible()
    assert studio.gateway.posts == []
    expect(page.locator("#prompt")).to_have_value(PROMPT)


def test_the_module_for_other_pages_draws_too(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.open()
    start = """key => import('/headgate.js').then(({ Headgate }) => {
        window.drawn = new Headgate({ apiKey: key }).generate({ prompt: 'From a page of my own' });
    })"""
    page.evaluate(start, KEYS["free"])
    asked = gateway.wait_for_request()
    gateway.complete(asked)
    assert page.evaluate("window.drawn.then(event => event.result)") == SOURCE


def test_an_unknown_key_leads_to_the_key_panel_and_the_prompt_goes_on(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.expect_refusals = True
    studio.open(tier=None)
    studio.send(PROMPT)
    expect(page.locator("#key")).to_be_focused()
    page.fill("#key", "hg_wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-error")).to_have_text(re.compile("not known here"))
    page.fill("#key", KEYS["pro"])
    page.check("#keep")
    page.keyboard.press("Enter")
    assert gateway.wait_for_request().prompt == PROMPT
    assert page.evaluate("[localStorage['headgate.key'], sessionStorage['headgate.key']]") == [KEYS["pro"], None]
    page.click("#key-button")
    page.click("#forget")
    assert page.evaluate("[localStorage['headgate.key'], sessionStorage['headgate.key']]") == [None, None]
    expect(page.locator("#history-note")).to_contain_text("once you have chosen a key")
