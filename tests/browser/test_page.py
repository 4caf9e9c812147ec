"""What the page is at all times: addresses, keyboard, screen reader, sizes, safety."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Studio
from tests.browser.standin import KEYS, SOURCE

TAB_STOPS = 80
"""More than the page has; a bound for the search, not a promise."""


def _tab_to(studio: Studio, selector: str) -> None:
    for _ in range(TAB_STOPS):
        studio.page.keyboard.press("Tab")
        if studio.page.evaluate("s => document.activeElement.matches(s)", selector):
            break
    else:
        pytest.fail(f"{selector} cannot be reached by Tab")
    ringed = """() => {
        for (let e = document.activeElement; e; e = e.parentElement)
            if (getComputedStyle(e).outlineStyle !== 'none') return true;
        return false;
    }"""
    assert studio.page.evaluate(ringed), f"no visible focus on {selector}"


def test_everything_by_keyboard(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.open(tier=None)
    expect(page.locator("#prompt")).to_be_focused()
    page.locator("#prompt").evaluate("e => e.blur()")
    _tab_to(studio, "#key-button")
    page.keyboard.press("Enter")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type(KEYS["free"])
    page.keyboard.press("Enter")
    expect(page.locator("#key-panel")).to_be_hidden()
    _tab_to(studio, "#prompt")
    page.keyboard.type("Login")
    _tab_to(studio, "input[name=kind]")
    page.keyboard.press("ArrowRight")
    expect(page.locator("input[value=flowchart]")).to_be_checked()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#send")).to_be_focused()
    page.keyboard.press("Enter")
    asked = gateway.wait_for_request()
    assert gateway.posts[0]["diagramType"] == "flowchart"
    gateway.complete(asked)
    studio.expect_mode("picture")
    _tab_to(studio, "#tab-picture")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-source")).to_be_focused()
    studio.expect_mode("source")
    page.keyboard.press("ArrowLeft")
    studio.expect_mode("picture")
    _tab_to(studio, "hg-picture")
    before = page.locator("#scale").inner_text()
    page.keyboard.press("+")
    expect(page.locator("#scale")).not_to_have_text(before)
    page.keyboard.press("0")
    expect(page.locator("#scale")).to_have_text(before)
    _tab_to(studio, "hg-card a")


def test_a_request_has_an_address_and_back_works(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    first, second = gateway.add("First plan"), gateway.add("Second plan", kind="gantt")
    gateway.add("كيف ينتقل الطلب", status="failed", code="REFUSED", error="No.")
    studio.open()
    expect(page.locator("hg-card")).to_have_count(3)
    page.click("hg-card a:has-text('First plan')")
    expect(page).to_have_url(re.compile(first.request_id))
    studio.expect_mode("picture")
    page.click("hg-card a:has-text('Second plan')")
    expect(page.locator("hg-status .about")).to_have_text("Second plan")
    page.go_back()
    expect(page.locator("hg-status .about")).to_have_text("First plan")
    page.reload()
    expect(page.locator("hg-status .about")).to_have_text("First plan")
    studio.expect_mode("picture")
    page.go_forward()
    expect(page).to_have_url(re.compile(second.request_id))
    expect(page.locator("hg-card a[aria-current]")).to_contain_text("Second plan")
    page.click("#new")
    studio.expect_mode("empty")
    direction = page.locator("hg-card .title >> nth=0").evaluate("e => getComputedStyle(e).direction")
    assert direction == "rtl"


def test_a_closed_tab_loses_nothing(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.open()
    studio.send()
    asked = gateway.wait_for_request()
    gateway.tell(asked, "processing", attempt=1)
    gateway.tell(asked, "delta", attempt=1, offset=0, text=SOURCE[:30])
    page.goto("about:blank")
    gateway.wait_until(lambda: asked.request_id not in gateway.watched(), "the tab closed")
    gateway.tell(asked, "delta", attempt=1, offset=30, text=SOURCE[30:50])
    page.goto(gateway.url)
    page.click("hg-card a")
    expect(page.locator("hg-source .code")).to_contain_text("flowchart TD")
    gateway.wait_for_request()
    gateway.complete(asked)
    studio.expect_mode("picture")


@pytest.mark.parametrize("tier", [None, "pro"])
def test_a_link_opens_without_its_owners_key(studio: Studio, tier: str | None) -> None:
    # With a key the page asks with it first, and is refused.
    studio.expect_refusals = tier is not None
    asked = studio.gateway.add("A shared plan", theirs=True)
    studio.open(tier=tier, address=f"#{asked.request_id}")
    studio.expect_mode("picture")
    studio.page.click("#tab-source")
    expect(studio.page.locator("hg-source .code")).to_contain_text("Doorstep")
    # What the id alone does not tell.
    expect(studio.page.locator("hg-status .about")).to_have_text("")
    expect(studio.page.locator("hg-card")).to_have_count(0)


def test_a_link_to_what_is_being_drawn_is_followed(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    asked = gateway.add("A shared plan", status="queued", theirs=True, position=3, estimatedWait=9_000)
    studio.open(tier=None, address=f"#{asked.request_id}")
    expect(page.locator("hg-status .words")).to_contain_text("3rd in line")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    gateway.wait_until(lambda: gateway.listened(asked), "a listener")
    page.click("#new")
    page.go_back()
    expect(page.locator("hg-status .words")).to_contain_text("3rd in line")
    gateway.tell(asked, "processing", attempt=1)
    studio.expect_words("Drawing…")
    gateway.complete(asked)
    studio.expect_mode("picture")
    assert gateway.subscriptions == []


def test_an_unknown_address_says_so(studio: Studio) -> None:
    studio.expect_refusals = True
    studio.open(address="#req_nowhere")
    expect(studio.page.locator(".card h2")).to_have_text("There is no such diagram.")
    studio.page.get_by_role("button", name="New diagram").click()
    studio.expect_mode("empty")


def test_what_comes_from_outside_stays_text(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    evil = "<img src=x onerror=\"document.title='owned'\">"
    gateway.svg = gateway.svg.replace("<rect", "<script>parent.document.title='owned'</script><rect", 1)
    studio.open()
    studio.send(evil)
    asked = gateway.wait_for_request()
    gateway.tell(asked, "retrying", reason=evil, delay=5_000, attempt=1)
    studio.expect_words(re.compile(re.escape(evil)))
    gateway.complete(asked, source=evil)
    studio.expect_mode("picture")
    page.click("#tab-source")
    expect(page.locator("hg-source li")).to_have_text(evil)
    assert page.locator("img[src=x]").count() == 0
    assert "owned" not in page.title().replace(evil, "")


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(360, 740, "light"), (390, 844, "dark"), (2560, 1440, "light")]
)
def test_no_sideways_scroll(studio: Studio, width: int, height: int, scheme: str) -> None:
    page, gateway = studio.page, studio.gateway
    studio.expect_refusals = True
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")

    def check(state: str) -> None:
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{state}: {wide} px wide on {width}"

    gateway.add("Word" * 60)
    studio.open()
    expect(page.locator("hg-card")).to_have_count(1)
    check("empty")
    studio.send("Antidisestablishmentarianism" * 8)
    asked = gateway.wait_for_request(2)
    gateway.tell(asked, "status", position=1_204, estimatedWait=4_000_000, paused="provider_account")
    studio.expect_words(re.compile("refuses this site"))
    check("waiting")
    gateway.tell(asked, "delta", attempt=1, offset=0, text="x" * 500)
    studio.expect_mode("source")
    check("source")
    gateway.complete(asked)
    studio.expect_mode("picture")
    check("picture")
    box = page.locator("hg-picture img").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    gateway.refuse_next(429, "USER_LIMIT_EXCEEDED", used=10, limit=10, nextTier="basic", price="$15/month")
    page.click("#send")
    expect(page.locator(".card.limit")).to_be_visible()
    check("limit")
    page.click("#key-button")
    expect(page.locator(".demo-keys button")).to_have_count(4)
    check("key panel")


def test_screen_readers_hear_one_polite_region(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    studio.open()
    assert page.locator("[aria-live=polite], [aria-live=assertive], [role=alert], [role=status]").count() == 1
    studio.send()
    asked = gateway.wait_for_request()
    gateway.complete(asked)
    expect(page.locator("#live")).to_have_text(re.compile("^Drawn in"))
    nameless = """() => [...document.querySelectorAll('button, a, input, textarea, [role=tab], [tabindex="0"]')]
        .filter(e => e.checkVisibility() && !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))
        .map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []


def test_less_motion_where_it_is_asked_for(studio: Studio) -> None:
    page = studio.page
    page.emulate_media(reduced_motion="reduce")
    studio.open()
    studio.send()
    asked = studio.gateway.wait_for_request()
    studio.gateway.tell(asked, "processing", attempt=1)
    studio.expect_words("Drawing…")
    assert page.evaluate("document.getAnimations().length") == 0


def test_no_ribbon_when_the_real_api_answers(studio: Studio) -> None:
    studio.gateway.emulated = False
    studio.open()
    expect(studio.page.locator("#usage .left")).to_be_visible()
    expect(studio.page.locator("#ribbon")).to_be_hidden()


def test_pictures_with_html_labels_become_png(studio: Studio) -> None:
    page, gateway = studio.page, studio.gateway
    label = (
        '<foreignObject width="90" height="30"><div xmlns="http://www.w3.org/1999/xhtml">Basket</div></foreignObject>'
    )
    gateway.svg = gateway.svg.replace("</svg>", f"{label}</svg>")
    asked = gateway.add("Labels")
    studio.open(address=f"#{asked.request_id}")
    studio.expect_mode("picture")
    with page.expect_download() as download:
        page.click("#save-png")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
