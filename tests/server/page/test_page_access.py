"""For everybody: keyboard, screen readers, small screens, light and dark."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
WIDTHS = """[document.documentElement, ...document.querySelectorAll('#chat, #scroll, #load, #sidebar')]
    .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'hidden')
    .map(e => `${e.id || e.tagName}: ${e.scrollWidth}`)"""


def findings(page: Page) -> list[str]:
    """What axe finds serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html'][:120]} {node['failureSummary']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visits: Any, service: Any, rich: dict[str, Any], scheme: str) -> None:
    visit = visits(service.url, color_scheme=scheme)
    page = visit.put(rich)
    expect(page.locator(".prose math")).to_have_count(8)
    page.locator(".thinking summary").click()
    assert findings(page) == []
    page.get_by_role("button", name="New conversation").click()
    assert findings(page) == []
    page.get_by_role("button", name="Settings").click()
    assert findings(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Load").click()
    expect(page.locator(".plot .line").first).to_be_attached()
    expect(page.locator("#usage")).to_be_visible()
    assert findings(page) == []


def test_a_phone_needs_no_scrolling_sideways(visits: Any, service: Any, rich: dict[str, Any]) -> None:
    visit = visits(service.url, **PHONE)
    page = visit.put(rich)
    expect(page.locator(".prose math")).to_have_count(8)
    assert page.evaluate(WIDTHS) == []
    assert findings(page) == []
    page.get_by_role("button", name="Conversations").tap()
    assert findings(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Conversations")).to_be_focused()
    visit.ask("Hi")
    visit.answered()
    assert page.evaluate(WIDTHS) == []
    page.get_by_role("tab", name="Load").tap()
    expect(page.locator(".plot .line").first).to_be_attached()
    assert page.evaluate(WIDTHS) == []


def test_a_closed_list_is_out_of_the_way_on_a_phone(visits: Any, service: Any) -> None:
    page = visits(service.url, **PHONE).open()
    expect(page.get_by_role("button", name="New conversation")).not_to_be_in_viewport()
    assert page.locator("#sidebar").evaluate("list => list.inert")
    page.get_by_role("button", name="Conversations").tap()
    page.get_by_role("button", name="New conversation").tap()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()


def test_the_keyboard_reaches_everything_in_order(visit: Any) -> None:
    page = visit.open()
    seen = []
    for _ in range(13):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert seen[0].startswith("Skip")
    order = [
        name for name in seen if name in ("new", "tab-chat", "model", "open-settings", "message", "send")
    ]
    assert order == ["new", "tab-chat", "model", "open-settings", "message", "send"]
    outline = page.evaluate("getComputedStyle(document.querySelector('#send')).outlineStyle")
    assert outline == "solid"


def test_tabs_follow_the_arrow_keys(visit: Any) -> None:
    page = visit.open()
    page.get_by_role("tab", name="Chat").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Load")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Load")).to_be_visible()
    expect(page.get_by_role("tabpanel", name="Chat")).to_be_hidden()
    page.reload()
    expect(page.get_by_role("tabpanel", name="Load")).to_be_visible()
    page.get_by_role("tab", name="Load").press("Home")
    expect(page.get_by_role("tabpanel", name="Chat")).to_be_visible()


def test_enter_sends_and_shift_enter_does_not(visit: Any) -> None:
    page = visit.open()
    field = page.get_by_label("Message", exact=True)
    field.press_sequentially("one")
    page.keyboard.press("Shift+Enter")
    field.press_sequentially("two")
    expect(field).to_have_value("one\ntwo")
    assert page.locator(".question").count() == 0
    page.keyboard.press("Enter")
    expect(page.locator(".bubble")).to_have_text("one\ntwo")
    expect(field).to_have_value("")
    visit.answered()


def test_a_screen_reader_hears_the_end_and_not_each_token(visits: Any, service: Any) -> None:
    visit = visits(service.url, settings={"max_tokens": 60})
    page = visit.open()
    page.evaluate(
        """() => {
            window.heard = [];
            const note = () => window.heard.push(document.querySelector('#said').textContent);
            new MutationObserver(note).observe(document.querySelector('#said'), { childList: true });
        }"""
    )
    visit.ask("Tell me about rivers.")
    visit.until("window.heard.length > 1")
    heard = page.evaluate("window.heard")
    assert heard[0] == "Answering"
    assert heard[1].startswith("Answer: ")
    assert len(heard) == 2
    assert page.locator(".answer [aria-live], .answer[aria-live]").count() == 0


def test_colours_follow_the_system_and_can_be_chosen(visits: Any, service: Any) -> None:
    page = visits(service.url, color_scheme="dark").open()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    button = page.get_by_role("button", name="Colours")
    button.click()
    expect(button).to_have_accessible_name("Colours: light")
    assert page.evaluate(ground) != dark
    page.reload()
    assert page.evaluate(ground) != dark
    button.click()
    assert page.evaluate(ground) == dark


def test_pictures(visits: Any, service: Any, rich: dict[str, Any], pictures: Path) -> None:
    """Light, dark and on a phone."""
    views = {
        "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 820}},
        "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 820}},
        "phone": {**PHONE, "color_scheme": "light", "device_scale_factor": 2},
    }
    for name, context in views.items():
        page = visits(service.url, **context).put(rich, rich | {"id": "b", "title": "Two days in Lisbon"})
        expect(page.locator(".prose math")).to_have_count(8)
        page.locator("#scroll").evaluate("area => { area.scrollTop = 0 }")
        page.screenshot(path=pictures / f"page-{name}.png")
        assert (pictures / f"page-{name}.png").stat().st_size > 20_000
