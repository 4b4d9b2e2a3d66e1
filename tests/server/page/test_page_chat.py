"""A conversation in a real browser, with the real model behind it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect

TEXT = "document.querySelector('article:last-child .prose')?.textContent ?? ''"
GROWS = f"document.querySelector('.growing') && ({TEXT}).length > 20"


def kept(page: Page) -> dict[str, Any]:
    """The open conversation as the browser keeps it."""
    name = json.loads(page.evaluate("localStorage['sampan.current']"))
    return json.loads(page.evaluate("name => localStorage['sampan.conversation.' + name]", name))


def posted(page: Page) -> list[dict[str, Any]]:
    """Bodies of the requests for answers, as they are made from now on."""
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            bodies.append(json.loads(request.post_data or ""))

    page.on("request", note)
    return bodies


def test_an_answer_streams_in_and_says_how_fast(visits: Any, service: Any) -> None:
    visit = visits(service.url, settings={"max_tokens": 160})
    page = visit.open()
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    visit.ask("Tell me about rivers.")
    expect(page.locator(".question .bubble")).to_have_text("Tell me about rivers.")
    visit.until(GROWS)
    early = page.evaluate(TEXT)
    visit.answered()
    whole = page.evaluate(TEXT)
    assert len(whole) > len(early)
    expect(page.locator(".stats")).to_contain_text("tokens/s")
    expect(page.locator("#said")).to_contain_text("Answer:")
    expect(page.locator("#welcome")).to_be_hidden()
    message = kept(page)["messages"][1]
    assert 0 < message["stats"]["tokens"] <= 160
    assert message["stats"]["prompt"] > 5
    assert message["model"] == "smollm2-135m"


@pytest.mark.parametrize("how", ["Escape", "Stop"])
def test_stopping_keeps_what_there_is_and_frees_the_engine(visits: Any, service: Any, how: str) -> None:
    visit = visits(service.url, settings={"max_tokens": 2000})
    page = visit.open()
    visit.ask("Write a long story about a river.")
    visit.until(GROWS)
    if how == "Escape":
        page.keyboard.press("Escape")
    else:
        page.get_by_role("button", name="Stop").click()
    visit.answered()
    expect(page.locator(".stats")).to_contain_text("Stopped")
    assert kept(page)["messages"][1]["stopped"] is True
    assert len(page.evaluate(TEXT)) > 20
    idle = "fetch('/page/live').then(r => r.json()).then(live => live.running === 0)"
    visit.until(idle)


def test_a_question_is_edited_and_asked_again(visit: Any) -> None:
    page = visit.open()
    visit.ask("Name a colour.")
    visit.answered()
    visit.ask("And another.")
    visit.answered()
    bodies = posted(page)
    page.locator(".question").first.hover()
    page.get_by_role("button", name="Edit", exact=True).first.click()
    editor = page.get_by_label("Message to edit")
    expect(editor).to_have_value("Name a colour.")
    editor.fill("Name a river.")
    editor.press("Enter")
    visit.answered()
    expect(page.locator(".bubble")).to_have_text(["Name a river."])
    assert [message["content"] for message in bodies[-1]["messages"]] == ["Name a river."]
    assert len(kept(page)["messages"]) == 2


def test_an_edit_that_is_left_changes_nothing(visit: Any) -> None:
    page = visit.open()
    visit.ask("Name a colour.")
    visit.answered()
    before = kept(page)
    page.locator(".question").hover()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_label("Message to edit").fill("Something else")
    page.keyboard.press("Escape")
    expect(page.locator(".bubble")).to_have_text("Name a colour.")
    assert kept(page) == before


def test_an_answer_is_edited_and_goes_into_the_next_request(visit: Any) -> None:
    page = visit.open()
    visit.ask("Name a colour.")
    visit.answered()
    page.get_by_role("button", name="Edit answer").click()
    page.get_by_label("Message to edit").fill("It is **green**.")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator(".prose strong")).to_have_text("green")
    bodies = posted(page)
    visit.ask("Which?")
    visit.answered()
    assert bodies[0]["messages"][1] == {"role": "assistant", "content": "It is **green**."}


def test_an_answer_is_given_again(visits: Any, service: Any) -> None:
    visit = visits(service.url, settings={"temperature": 1.5, "seed": None, "max_tokens": 30})
    page = visit.open()
    page.evaluate("localStorage.removeItem('sampan.settings')")
    visit.ask("Invent a story.")
    visit.answered()
    bodies, first = posted(page), page.evaluate(TEXT)
    page.get_by_role("button", name="Answer again").click()
    visit.answered()
    assert len(bodies) == 1
    assert len(kept(page)["messages"]) == 2
    assert page.evaluate(TEXT) != first


def test_a_reload_keeps_the_conversation(visit: Any) -> None:
    page = visit.open()
    visit.ask("What is a delta?")
    visit.answered()
    text, stats = page.evaluate(TEXT), page.locator(".stats").inner_text()
    page.reload()
    expect(page.locator(".bubble")).to_have_text("What is a delta?")
    expect(page.locator(".stats")).to_have_text(stats)
    visit.until("text => (" + TEXT + ") === text", text)
    expect(page).to_have_title("What is a delta? – Sampan")


def test_a_reload_amid_an_answer_keeps_what_has_come(visits: Any, service: Any) -> None:
    visit = visits(service.url, settings={"max_tokens": 2000})
    page = visit.open()
    visit.ask("Write a long story about a river.")
    visit.until(GROWS)
    page.reload()
    expect(page.locator(".answer .prose")).not_to_be_empty()
    expect(page.get_by_role("button", name="Answer again")).to_be_visible()


def test_settings_are_sent_and_kept(visits: Any, service: Any) -> None:
    visit = visits(service.url, settings={"seed": 7})
    page = visit.open()
    bodies = posted(page)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("You are terse.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Top-p").fill("0.9")
    page.get_by_label("Top-k").fill("12")
    page.get_by_label("Max tokens").fill("9")
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    visit.ask("Hello")
    visit.answered()
    body = bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "You are terse."}
    sampling = {name: body[name] for name in ("temperature", "top_p", "top_k", "max_tokens", "seed")}
    assert sampling == {"temperature": 0.3, "top_p": 0.9, "top_k": 12, "max_tokens": 9, "seed": 7}
    assert body["model"] == page.get_by_role("combobox").input_value() == "smollm2-135m"
    assert kept(page)["messages"][1]["stats"]["tokens"] <= 9
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("System prompt")).to_have_value("You are terse.")


def test_what_the_service_refuses_is_shown_and_can_be_tried_again(visits: Any, service: Any) -> None:
    visit = visits(service.url, settings={"temperature": 5})
    visit.expected.append("status of 400")
    page = visit.open()
    visit.ask("Hello")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("temperature")
    page.reload()
    expect(alert).to_contain_text("temperature")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("1")
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Try again").click()
    visit.answered()
    expect(alert).to_have_count(0)
    assert page.evaluate(TEXT)


def test_a_service_that_is_gone_is_told(visit: Any) -> None:
    visit.expected.append("ERR_INTERNET_DISCONNECTED")
    page = visit.open()
    page.context.set_offline(True)
    visit.ask("Hello")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    visit.answered()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_key_is_asked_for_and_sent(visits: Callable[..., Any], serve: Any, tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-for-the-page-0123456789\n")
    with serve("--api-key-file", str(keys)) as running:
        visit = visits(running.url)
        visit.expected.append("status of 401")
        page = visit.page
        page.goto(running.url)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("a-key-for-the-page-0123456789")
        page.keyboard.press("Tab")
        expect(page.locator("#model option")).to_have_count(1)
        page.keyboard.press("Escape")
        visit.ask("Hello")
        visit.answered()
        expect(page.locator(".stats")).to_contain_text("tokens")
        assert "a-key" not in page.evaluate("JSON.stringify(localStorage)")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Remember it in this browser").check()
        assert "a-key" in page.evaluate("localStorage['sampan.key']")
        visit.page.close()
