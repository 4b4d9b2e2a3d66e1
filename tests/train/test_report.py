"""The report and the card of a run: all of it in one file, in words and numbers that are the run's."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from huggingface_hub import ModelCard
from playwright.sync_api import Page, expect

from sampan.cli.main import main
from sampan.core.rows import write_lines
from sampan.core.types import ModelFiles
from sampan.train.about import write_about
from sampan.train.card import card_of, write_card
from sampan.train.facts import licence
from sampan.train.log import Log
from sampan.train.report.compare import paired, unpaired
from sampan.train.report.page import duration, write_report
from sampan.train.report.plot import Plot
from sampan.train.report.read import read_run

HOSTILE = '</pre><script>document.title = "broken"</script><img src="https://example.org/x.png">'
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Page]]:
    """Opens a file; fails where it asks for anything, or complains."""
    contexts, wrong = [], []

    def open_file(path: Path, **context: Any) -> Page:
        contexts.append(chromium.new_context(**context))
        page = contexts[-1].new_page()
        page.on("request", lambda asked: wrong.append(asked.url) if asked.url != path.as_uri() else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.goto(path.as_uri())
        return page

    yield open_file
    for each in contexts:
        each.close()
    assert [each for each in wrong if each != "data:,"] == []


def test_the_page_has_everything_of_the_run(watched: Path, visit: Callable[..., Page]) -> None:
    page = visit(watched / "report.html")
    run = read_run(watched)
    expect(page.get_by_role("heading", level=1)).to_have_text("tiny")
    expect(page.locator("#gap")).to_have_text("0.0")
    expect(page.get_by_text("6 of 6", exact=True)).to_be_visible()
    for test in run.tests:
        row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=test.name, exact=True))
        for own in (test.rows[0], test.rows[-1]):
            unit = 100 if test.name == "e's" else 1
            expect(row).to_contain_text(f"{unit * own['accuracy']:.3g}")
    headings = page.get_by_role("heading", level=2).all_text_contents()
    assert [each for each in headings if each.startswith("Stage")] == [
        "Stage 1: samples, 1 of 1 steps",
        "Stage 2: sft, 2 of 2 steps",
        "Stage 3: grpo, 3 of 3 steps",
    ]
    labels = [plot.get_attribute("aria-label") or "" for plot in page.get_by_role("img").all()]
    for title in ("Accuracy", "Reward", "Length", "Loss", "Entropy", "Where time went"):
        assert any(label.startswith(title) for label in labels), title
    expect(page.locator("pre").filter(has_text="A <b>tiny</b> recipe | for tests.")).to_have_count(1)
    assert page.locator(".pair").count() == 6 + 4
    before = run.tests[0].before
    first = page.locator(".pair").first.locator("pre").all_text_contents()
    assert [each for each in before.values() if each.question == first[0] and each.answer == first[1]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(watched: Path, visit: Callable[..., Page], scheme: str) -> None:
    page = visit(watched / "report.html", color_scheme=scheme)
    for each in page.locator("summary").all():
        each.click()
    found = [
        each for each in Axe().run(page).response["violations"] if each["impact"] in ("serious", "critical")
    ]
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found] == []


def test_a_phone_needs_no_scrolling_sideways(watched: Path, visit: Callable[..., Page]) -> None:
    page = visit(watched / "report.html", **PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]


def test_colours_follow_the_system(watched: Path, visit: Callable[..., Page]) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark, light = (
        visit(watched / "report.html", color_scheme=each).evaluate(ground) for each in ("dark", "light")
    )
    assert dark != light


def test_what_a_model_says_is_text(copied: Callable[[], Path], visit: Callable[..., Page]) -> None:
    run = copied()
    rows = Log(run).rows()
    for row in rows:
        if "sample" in row:
            row["sample"]["answers"][0] = HOSTILE
            row["parts"] = {HOSTILE: 1.0, "other": 0.5}
        if "test" in row:
            row["test"] = HOSTILE
    write_lines(run / "log.jsonl", rows)
    write_about(run, replace(read_run(run).about, text=HOSTILE, recipe=HOSTILE))
    page = visit(write_report(run))
    assert page.title().endswith("a training run")
    assert page.locator("script, img").count() == 0
    shown = page.locator("pre").filter(has_text=HOSTILE)
    assert shown.count() >= 4


def test_a_run_that_is_half_done_has_a_report(copied: Callable[[], Path], visit: Callable[..., Page]) -> None:
    run = copied()
    rows = Log(run).rows()
    write_lines(run / "log.jsonl", rows[: [row["stage"] for row in rows].index(1) + 1])
    write_about(run, replace(read_run(run).about, ended=None))
    assert main(["train", "report", str(run)]) == 0
    page = visit(run / "report.html")
    expect(page.get_by_text("has not come to its end yet")).to_be_visible()
    expect(page.get_by_text("2 of 6", exact=True)).to_be_visible()


def test_a_report_needs_no_torch(copied: Callable[[], Path]) -> None:
    run = copied()
    (run / "report.html").unlink()
    script = "import sys; sys.modules['torch'] = None; from sampan.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", script, "train", "report", str(run)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(run / "report.html")), done.stderr


def test_a_folder_without_a_run_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "report", str(tmp_path)]) == 2
    assert f"{tmp_path}: holds no run" in capsys.readouterr().err


def test_the_interval_of_the_same_problems_is_narrower() -> None:
    before = {str(i): float(i % 10 < 3) for i in range(100)}
    after = before | {str(i): 1.0 for i in range(100) if i % 10 == 5} | {"0": 0.0}
    found = paired(before, after)
    assert found is not None
    assert found.value == pytest.approx(0.09)
    # d is +1 ten times, -1 once, else 0: its variance is (11 - 100 * 0.09 ** 2) / 99.
    assert found.error == pytest.approx(sqrt((11 - 0.81) / 99 / 100))
    assert (found.gained, found.lost) == (10, 1)
    assert (found.low, found.high) == pytest.approx(
        (0.09 - 1.959964 * found.error, 0.09 + 1.959964 * found.error)
    )
    alone = unpaired((0.30, 0.046), (0.39, 0.049))
    assert alone.error == pytest.approx(sqrt(0.046**2 + 0.049**2))
    assert found.error < alone.error
    assert paired(before, dict(list(after.items())[1:])) is None


def test_a_plot_draws_what_it_is_given() -> None:
    plot = Plot("Reward", {"all": [(1, 0.0), (2, 1.0), (3, 0.5)], "part": [(1, -1.0), (3, 0.25)]})
    svg = plot.svg()
    points = [tuple(map(float, each)) for each in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(points) == 5
    (x0, y0), (x1, y1), (x2, y2) = points[:3]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.11)
    assert y1 < y0 < points[3][1]
    assert unescape(plot.label) == "Reward: all from 0 to 0.5; part from -1 to 0.25"
    heads, rows = plot.table()
    assert heads == ["step", "all", "part"]
    assert rows == [["1", "0", "-1"], ["2", "1", "–"], ["3", "0.5", "0.25"]]


def test_long_lines_are_smoothed_and_shares_are_stacked() -> None:
    long = Plot("Reward", {"all": [(i, float(i % 2)) for i in range(100)]})
    assert len(re.findall('class="line ', long.svg())) == 2
    assert len(long.table()[1]) == 12
    shares = Plot("Time", {"a": [(1, 0.25), (2, 0.5)], "b": [(1, 0.75), (2, 0.5)]}, "%", stacked=True)
    assert len(re.findall('class="area ', shares.svg())) == 2
    assert "a from 25% to 50%" in shares.label


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (89.4, "89 s"), (100, "2 min"), (5400, "1 h 30 min"), (7260, "2 h 01 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_card_is_one_that_hubs_read(watched: Path) -> None:
    text = (watched / "adapter" / "README.md").read_text()
    card = ModelCard(text)
    card.data.to_dict()
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "peft"
    assert {"lora", "samples", "sft", "grpo"} <= set(card.data.tags)
    run = read_run(watched)
    results = {each.dataset_type: each.metric_value for each in card.data.eval_results}
    assert results == {test.name: round(test.rows[-1]["accuracy"], 4) for test in run.tests}
    assert run.about.text in text
    assert "Apache-2.0" in text
    assert "Seed 0; 6 of 6 steps" in text
    assert "sampan serve smollm2-135m --adapter tiny=adapter --max-adapters 1" in text
    for test in run.tests:
        assert f"| {test.name} | {test.rows[-1]['problems']} | {test.mean(test.rows[0])} | " in text


def test_the_card_names_models_of_ones_own(copied: Callable[[], Path]) -> None:
    run = copied()
    write_about(run, replace(read_run(run).about, model="hf:some/model@v1", text="```\nx\n```", licence=None))
    write_card(run, run / "adapter")
    text = (run / "adapter" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.base_model == "some/model"
    assert card.data.license is None
    assert "The licence of `hf:some/model@v1` is not told by its files: it holds" in text
    assert "````python\n```\nx\n```\n````" in text
    assert text == card_of(read_run(run))


def test_a_models_own_card_tells_its_licence(tmp_path: Path) -> None:
    files = ModelFiles(tmp_path, "folder", str(tmp_path), str(tmp_path))
    assert licence(files) is None
    (tmp_path / "README.md").write_text("---\nlicense: openrail\ntags: []\n---\n# A model\n")
    assert licence(files) == "openrail"
