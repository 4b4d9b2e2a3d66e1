"""Markdown to HTML: what it becomes."""

from collections.abc import Callable

import pytest

from sampan.server.markdown.formula import mathml
from sampan.server.markdown.render import MAX_CHARS, render

Html = Callable[[str], str]


def test_html_is_shown_as_text(html: Html) -> None:
    assert html("a <script>alert(1)</script>") == "<p>a &lt;script&gt;alert(1)&lt;/script&gt;</p>\n"


def test_links_open_apart_and_images_are_links(html: Html) -> None:
    assert html("[a](https://e.org/?x=1&y=2)") == (
        '<p><a href="https://e.org/?x=1&amp;y=2" rel="noopener noreferrer nofollow" target="_blank">'
        "a</a></p>\n"
    )
    assert 'href="https://e.org/i.png"' in html("![a picture](https://e.org/i.png)")
    assert "<img" not in html("![a picture](https://e.org/i.png)")
    assert html("<me@e.org>").startswith('<p><a href="mailto:me@e.org"')


@pytest.mark.parametrize(
    "text",
    [
        r"$a^2$",
        r"\(a^2\)",
        r"x \[a^2\] y",
        "\\[\na^2\n\\]",
        "$$a^2$$",
        "$$\na^2\n$$",
        r"- \(a^2\)",
        "> \\[\n> a^2\n> \\]",
    ],
)
def test_every_way_to_write_mathematics(text: str, html: Html) -> None:
    assert "<msup><mi>a</mi><mn>2</mn></msup>" in html(text)


def test_money_is_no_mathematics(html: Html) -> None:
    assert "<math" not in html("It costs $5, and then $6.")
    assert "<math" not in html(r"`\(a\)` and `$a$`")
    assert "<math" not in html("```\n$a$\n```")


def test_environments_that_models_write(html: Html) -> None:
    aligned = html("\\[\n\\begin{aligned} a &= b \\\\\n- c &= d \\end{aligned}\n\\]")
    assert aligned.count("<mtr>") == 2
    assert "&amp;" not in aligned
    assert html("\\begin{align*}\na &= b\\\\\nc &= d\n\\end{align*}").count("<mtr>") == 2
    assert html(r"$$\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}$$").count("<mtd>") == 4
    assert 'class="boxed"' in html(r"$\boxed{5}$")
    assert "ℝ" in html(r"$\mathbb{R}$")
    assert "<mo>±</mo>" in html(r"$a \pm b$")


def test_latex_that_cannot_be_parsed_is_shown_as_code(html: Html) -> None:
    assert html(r"$\frac{a}$") == '<p><code class="latex">\\frac{a}</code></p>\n'


@pytest.mark.parametrize(
    "command", ["newcommand", "renewcommand", "def", "let", "newenvironment", "DeclareMathOperator"]
)
def test_definitions_could_grow_without_bound_and_are_refused(command: str) -> None:
    assert mathml(rf"\{command}{{\a}}{{x}} \a", block=False) is None
    assert mathml(r"\left( x \right) \leftarrow \deg", block=False) is not None


def test_a_long_formula_is_not_tried() -> None:
    assert mathml("x" * 4001, block=True) is None


def test_code_is_coloured_by_class_and_only_in_known_languages(html: Html) -> None:
    known = html("```python\ndef f(): pass\n```")
    assert '<span class="t-k">def</span>' in known
    assert "style=" not in known
    unknown = html("```brainfuck\ndef f(): pass\n```")
    assert "<code>def f(): pass\n</code>" in unknown


def test_headings_stand_below_those_of_the_page(html: Html) -> None:
    assert html("# a\n\n## b\n\n##### c") == "<h3>a</h3>\n<h4>b</h4>\n<h6>c</h6>\n"


def test_alignment_is_a_class(html: Html) -> None:
    assert '<td class="right">' in html("|a|\n|-:|\n|1|")


def test_blocks_say_where_they_begin() -> None:
    text = "para\n\n- a\n- b\n\n```\nx\n\ny\n```\n\n$$\nz\n$$\nend"
    lines = [block.line for block in render(text)]
    assert lines == [0, 2, 5, 11, 14]
    whole = text.split("\n")
    for start, end in zip(lines, [*lines[1:], len(whole)], strict=True):
        alone = render("\n".join(whole[start:end]))
        assert alone[0].html == next(block.html for block in render(text) if block.line == start)


def test_too_long_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        render("x" * (MAX_CHARS + 1))
