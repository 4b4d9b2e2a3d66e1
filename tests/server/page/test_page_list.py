"""The list of kept conversations: several, renamed, deleted, taken out and in again."""

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import expect


def titles(page: Any) -> Any:
    return page.locator("#conversations .title")


def other(rich: dict[str, Any], name: str, **changes: Any) -> dict[str, Any]:
    return rich | {"id": name, "title": name} | changes


def test_conversations_are_kept_apart(visit: Any) -> None:
    page = visit.open()
    visit.ask("First question")
    visit.answered()
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    visit.ask("Second question")
    visit.answered()
    expect(titles(page)).to_have_text(["Second question", "First question"])
    page.get_by_role("button", name="First question", exact=True).click()
    expect(page.locator(".bubble")).to_have_text(["First question"])
    expect(page.locator("#conversations [aria-current=true]")).to_have_text("First question")


def test_an_answer_goes_on_while_another_conversation_is_open(visits: Any, service: Any) -> None:
    visit = visits(service.url, settings={"max_tokens": 120})
    page = visit.open()
    visit.ask("Tell me about rivers.")
    visit.until("document.querySelector('.growing .prose')?.textContent")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.get_by_role("button", name="Tell me about rivers.", exact=True).click()
    visit.answered()
    expect(page.locator(".stats")).to_contain_text("tokens/s")


def test_renaming(visit: Any, rich: dict[str, Any]) -> None:
    page = visit.put(rich)
    page.locator("#conversations li").hover()
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New name").fill("Roots")
    page.keyboard.press("Enter")
    expect(titles(page)).to_have_text(["Roots"])
    expect(page.get_by_role("heading", level=1)).to_have_text("Roots")
    page.reload()
    expect(titles(page)).to_have_text(["Roots"])


def test_deleting_can_be_undone(visit: Any, rich: dict[str, Any]) -> None:
    page = visit.put(rich, other(rich, "other"))
    expect(titles(page)).to_have_count(2)
    page.locator("#conversations li").filter(has_text="quadratic").hover()
    page.get_by_role("button", name="Delete The quadratic formula").click()
    expect(titles(page)).to_have_text(["other"])
    expect(page.locator("#messages article")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(titles(page)).to_have_count(2)
    page.locator("#conversations li").filter(has_text="other").hover()
    page.get_by_role("button", name="Delete other").click()
    page.reload()
    expect(titles(page)).to_have_text(["The quadratic formula"])


def test_export_and_import(visits: Any, service: Any, rich: dict[str, Any], tmp_path: Path) -> None:
    page = visits(service.url).put(rich, other(rich, "other"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    download.value.save_as(file)
    assert {each["id"] for each in json.loads(file.read_text())["conversations"]} == {"rich", "other"}

    page = visits(service.url).open()
    page.locator("#import-file").set_input_files(file)
    expect(page.locator("#toast")).to_contain_text("2 conversations imported")
    page.locator("#import-file").set_input_files(file)  # a second time adds none
    page.wait_for_timeout(100)
    expect(titles(page)).to_have_count(2)
    page.get_by_role("button", name="The quadratic formula", exact=True).click()
    expect(page.locator(".answer math").first).to_be_visible()


def test_a_file_of_another_kind_is_refused(visit: Any) -> None:
    page = visit.open()
    for text, said in (("{", "no JSON"), ('{"conversations": []}', "no file of conversations")):
        page.locator("#import-file").set_input_files(
            {"name": "x.json", "mimeType": "application/json", "buffer": text.encode()}
        )
        expect(page.locator("#toast")).to_contain_text(said)


def test_what_a_file_brings_is_not_trusted(visit: Any, rich: dict[str, Any]) -> None:
    bad = other(rich, "bad", title="<img src=x onerror=alert(1)>", settings={"model": "x", "stream": False})
    bad["messages"] = [
        {"role": "system", "content": "hidden"},
        {"role": "assistant", "content": 5},
        {"role": "assistant", "content": "fine", "stats": {"tokens": "<b>"}, "model": {}},
    ]
    file = {"format": "sampan-conversations", "version": 1, "conversations": [bad, {"id": "../x"}, None]}
    page = visit.open()
    page.locator("#import-file").set_input_files(
        {"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(file).encode()}
    )
    expect(page.locator("#toast")).to_contain_text("1 conversation imported")
    expect(titles(page)).to_have_text([bad["title"]])
    titles(page).click()
    expect(page.locator("#messages article")).to_have_count(1)
    expect(page.locator(".prose")).to_have_text("fine")
