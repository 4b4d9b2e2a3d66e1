"""What answers look like: mathematics, code, tables, thoughts; and that nothing in them runs."""

from typing import Any

from playwright.sync_api import expect


def test_mathematics_and_code_are_rendered(visit: Any, rich: dict[str, Any]) -> None:
    page = visit.put(rich)
    expect(page.locator(".prose math")).to_have_count(8)
    expect(page.locator(".prose .math mfrac msqrt")).to_have_count(1)
    boxes = page.locator(".prose math").evaluate_all("all => all.map(m => m.getBoundingClientRect().height)")
    assert all(height > 5 for height in boxes)
    expect(page.locator(".prose h4")).to_have_text("The quadratic formula")
    expect(page.locator(".code figcaption")).to_contain_text("python")
    keyword = page.locator(".code .t-k").first
    assert keyword.evaluate("e => getComputedStyle(e).color") != page.locator(".code code").evaluate(
        "e => getComputedStyle(e).color"
    )
    expect(page.locator(".prose td.right")).to_have_text(["2", "1"])


def test_nothing_in_an_answer_runs_or_is_fetched(visit: Any, rich: dict[str, Any]) -> None:
    page = visit.put(rich)
    expect(page.locator(".prose")).to_contain_text("<script>document.title = 'broken'</script>")
    expect(page).to_have_title("The quadratic formula – Sampan")
    expect(page.locator(".prose :is(script, img, iframe, style)")).to_have_count(0)
    links = page.locator(".prose a")
    expect(links).to_have_text(["the article", "a plot"])
    for link in links.all():
        assert "noopener" in (link.get_attribute("rel") or "")


def test_a_policy_stops_what_the_renderer_would_let_through(visit: Any) -> None:
    visit.expected.append("Content Security Policy")
    page = visit.open()
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', `<img src='data:,' onerror='document.title = 1'>`)"
    )
    page.wait_for_timeout(100)
    expect(page).to_have_title("Sampan")
    assert visit.errors


def test_copying(visits: Any, service: Any, rich: dict[str, Any]) -> None:
    visit = visits(service.url, permissions=["clipboard-read", "clipboard-write"])
    page = visit.put(rich)
    page.get_by_role("button", name="Copy code").click()
    expect(page.locator(".code button")).to_have_text("Copied")
    clipboard = "navigator.clipboard.readText()"
    assert page.evaluate(clipboard).startswith("from math import sqrt\n")
    page.get_by_role("button", name="Copy answer").click()
    visit.until(f"{clipboard}.then(text => text.startsWith('## The'))")
    assert page.evaluate(clipboard) == rich["messages"][1]["content"]


def test_thoughts_are_folded_and_rendered_when_opened(visit: Any, rich: dict[str, Any]) -> None:
    page = visit.put(rich)
    summary = page.locator(".thinking summary")
    expect(summary).to_have_text("Thought for 3.4 s")
    expect(page.locator(".thoughts")).to_be_hidden()
    summary.click()
    expect(page.locator(".thoughts em")).to_have_text("formula")
    expect(page.locator(".thoughts math")).to_have_count(1)


def test_thoughts_are_shown_folded_while_they_come(visit: Any) -> None:
    page = visit.open()
    page.evaluate(
        """async () => {
            const { Answer } = await import('/page/assets/message.js');
            const message = { role: 'assistant', content: '', reasoning: 'Let me <b>see</b>' };
            const answer = new Answer(message, {});
            document.querySelector('#messages').append(answer.element);
            answer.begin();
            answer.grow();
            window.goOn = async content => {
                Object.assign(message, { content, seconds: 12 });
                answer.grow();
                await answer.settle();
            };
        }"""
    )
    summary = page.locator(".thinking summary")
    expect(summary).to_have_text("Thinking…")
    expect(page.locator(".thoughts")).to_be_hidden()
    summary.click()
    expect(page.locator(".thoughts")).to_have_text("Let me <b>see</b>")
    page.evaluate("window.goOn('It is **so**.')")
    expect(summary).to_have_text("Thought for 12 s")
    expect(page.locator(".prose strong")).to_have_text("so")
    expect(page.locator(".thoughts")).to_be_visible()


def test_thoughts_are_not_sent_back(visit: Any, rich: dict[str, Any]) -> None:
    page = visit.put(rich)
    with page.expect_request("**/v1/chat/completions") as request:
        visit.ask("Thanks")
    visit.answered()
    assert [message["role"] for message in request.value.post_data_json["messages"]] == [
        "user",
        "assistant",
        "user",
    ]
    assert "I recall" not in request.value.post_data


def test_a_growing_text_ends_as_the_whole_text_is_rendered(visit: Any, rich: dict[str, Any]) -> None:
    """The page renders the last block only; fed in pieces, the same text must come out the same."""
    page = visit.put(rich)
    grown = page.evaluate(
        """async text => {
            const { Markdown } = await import('/page/assets/markdown.js');
            const root = document.createElement('div');
            const seen = [];
            const markdown = new Markdown(root);
            for (let end = 0; end <= text.length; end += 40) {
                markdown.update(text.slice(0, end));
                await new Promise(done => setTimeout(done, 20));
                seen.push(root.textContent.length);
            }
            markdown.update(text);
            for (let i = 0; i < 100 && root.querySelectorAll('a').length < 2; i++) {
                await new Promise(done => setTimeout(done, 50));
            }
            const live = root.textContent.replace(/Copy/g, '').replace(/\\s+/g, '');
            await markdown.finish(text);
            const whole = root.textContent.replace(/Copy/g, '').replace(/\\s+/g, '');
            return { live, whole, seen };
        }""",
        rich["messages"][1]["content"],
    )
    assert grown["live"] == grown["whole"]
    assert grown["seen"][-1] > grown["seen"][5] > 0
