"""The second view: what the service does, as figures and plots."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect


def test_figures_and_plots_follow_the_service(visits: Any, service: Any) -> None:
    visit = visits(service.url, settings={"max_tokens": 1500})
    page = visit.open()
    visit.ask("Write a long story about a river.")
    page.get_by_role("tab", name="Load").click()
    running = page.locator("[data-tile=running] dd")
    expect(running).to_have_text(re.compile("[1-9]"))
    expect(page.locator("[data-tile=tokens_per_second] dd")).to_have_text(re.compile("[1-9]"))
    expect(page.locator("[data-tile=uptime_s] dd")).to_have_text(re.compile(r"\d+ (s|min|h)"))
    for title in ("Tokens per second", "Requests", "Cache", "Cost of the tokens so far"):
        plot = page.get_by_role("img", name=re.compile(f"^{title}, now: "))
        expect(plot).to_be_visible()
        assert plot.locator(".line").first.get_attribute("d")
    expect(page.locator("#used tbody tr").first).to_contain_text("smollm2-135m")
    expect(page.locator("#prices tbody tr")).not_to_have_count(0)
    page.get_by_role("tab", name="Chat").click()
    page.keyboard.press("Escape")
    visit.answered()


def test_the_pointer_reads_earlier_figures(visit: Any) -> None:
    page = visit.open("/#/load")
    plot = page.get_by_role("img", name=re.compile("^Requests"))
    expect(plot.locator(".line").first).to_be_attached()
    plot.hover()
    expect(plot.locator(".cross")).to_be_attached()


def test_missing_figures_are_left_out(visit: Any) -> None:
    """A service that does not report something, as one without a cache, still has a page."""
    page = visit.page
    page.route("**/page/live", lambda route: route.fulfill(json={"running": 2, "prefix_hit_rate": None}))
    visit.open("/#/load")
    expect(page.locator("[data-tile=running] dd")).to_have_text("2")
    expect(page.locator("[data-tile=cache_used] dd")).to_have_text("–")
    expect(page.get_by_role("img", name=re.compile("^Requests"))).to_be_visible()
    expect(page.locator("figure", has_text="Cost of the tokens")).to_be_hidden()


@pytest.mark.skipif(
    "SAMPAN_PICTURES" not in os.environ, reason="takes half a minute to have something to show"
)
def test_a_picture_of_a_busy_service(visits: Any, serve: Any, pictures: Path) -> None:
    with serve("--price-per-hour", "0.40", "--max-sequences", "8") as running:
        page = visits(running.url, viewport={"width": 1280, "height": 1100}).open("/#/load")
        expect(page.locator(".plot .line").first).to_be_attached()
        with ThreadPoolExecutor(12) as pool:
            for wave in range(4):
                for n in range(2 + 3 * (wave % 3)):
                    pool.submit(
                        _tell, running, f"Tell me a long story about the river number {n}. " * (6 + wave)
                    )
                page.wait_for_timeout(6000)
            page.screenshot(path=pictures / "page-load.png")


def _tell(running: Any, prompt: str) -> None:
    messages = [{"role": "user", "content": prompt}]
    running.openai.chat.completions.create(
        model=running.model, messages=messages, max_tokens=400, temperature=0.8
    )
