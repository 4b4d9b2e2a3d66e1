"""Nothing dangerous comes out of the renderer, whatever goes in, and nothing takes it long."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.server.markdown import render as renderer
from sampan.server.markdown.code import _LEXERS
from sampan.server.markdown.code import MAX_CHARS as MOST_CODE
from sampan.server.markdown.render import MAX_CHARS, render

Html = Callable[[str], str]
MARKS = ["`", "```", "$", "$$", r"\(", r"\]", "\n", "\n\n", "*", "> ", "- ", "|", "a"]

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<style>*{display:none}</style>",
    "<!-- <script> -->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php ?>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](data:image/png;base64,AAAA)",
    "[x](//example.org)",
    "[x](/v1/usage)",
    "[x](#top)",
    "[x](blob:https://e/1)",
    "<javascript:alert(1)>",
    '<https://example.org/?a="onmouseover=alert(1)>',
    '[x](https://e "onmouseover=alert(1) x=")',
    '[x](https://e/"onmouseover="alert(1))',
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml,<svg onload=alert(1)>)",
    '![" onerror="alert(1)](https://e/x.png)',
    "[![x](https://e/i.png)](javascript:alert(1))",
    "[a]: javascript:alert(1)\n\n[a]",
    '```"><script>alert(1)</script>\nx\n```',
    "```python\n</code></pre><script>alert(1)</script>\n```",
    "```html\n<script>alert(1)</script>\n```",
    "~~~<img/src=x>\n~~~",
    "|<script>|\n|-|\n|<img src=x onerror=alert(1)>|",
    r"$\text{<script>alert(1)</script>}$",
    r"$\text{&lt;script&gt;alert(1)&lt;/script&gt;}$",
    r"$\text{&#60;img src=x onerror=alert(1)&#62;}$",
    r"$\mbox{</math><img src=x onerror=alert(1)>}$",
    r"$\href{javascript:alert(1)}{x}$",
    r"$\href{https://example.org}{x}$",
    r"$\style{background:url(https://e)}{x}$",
    r'$\class{"><script>}{x}$',
    r'$\color{red" onclick="alert(1)}{x}$',
    r"$\textcolor{url(https://e)}{x}$",
    r'$\mathcolor{"}$',
    r'$\hspace{1em" onclick="alert(1)}$',
    r"$\hspace{999999em}$",
    r"$\rule{99999px}{99999px}$",
    r"$\unicode{x3c}script\unicode{x3e}$",
    r"$\operatorname{<script>}$",
    r"$<script>alert(1)</script>$",
    r"\[ <img src=x onerror=alert(1)> \]",
    r"\begin{align}<script>&\\</script>\end{align}",
    "$$\n</math><script>alert(1)</script>\n$$",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_become_text(text: str, html: Html) -> None:
    for wrapped in (text, f"> {text}", f"- {text}", f"**{text}**", f"# {text}"):
        html(wrapped)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from([*ATTACKS, *MARKS])))
def test_attacks_in_any_mixture_become_text(pieces: list[str], html: Html) -> None:
    html("".join(pieces))


MALFORMED = [
    r"\frac{",
    r"\frac",
    r"\left(",
    r"\right)",
    r"\begin{matrix}",
    r"\end{matrix}",
    "{{{",
    "}}}",
    "a__b",
    "a^^b",
    r"\sqrt[",
    r"\sqrt[3",
    "&&&",
    r"\\",
    "^",
    "_",
    r"\hspace{x}",
    r"\begin{array}{xyz}a\end{array}",
    "\\",
    r"\textcolor",
    r"\genfrac{}{}{}{}{}{}",
    r"\limits",
    "'" * 50,
    r"\mathchoice",
    r"\operatorname",
    "%",
    "a%b",
    r"\verb|",
    "\x00",
]


@pytest.mark.parametrize("latex", MALFORMED)
def test_malformed_latex_is_shown_as_it_is_or_as_it_can_be(latex: str, html: Html) -> None:
    for text in (f"${latex}$", f"$${latex}$$", rf"\[{latex}\]", rf"$\frac{{{latex}}}{{\sqrt{{{latex}}}}}$"):
        html(text)


N = MAX_CHARS
SLOW = {
    "brackets": "[" * N,
    "images": "![[" * (N // 3),
    "links": "[a](" * (N // 4),
    "emphasis": "*a_" * (N // 3),
    "stars": "**a *" * (N // 5),
    "ticks": "".join("`" * (i % 200) + "a" for i in range(1000))[:N],
    "quotes": ">" * N,
    "lists": "- " * (N // 2),
    "nested lists": "\n".join(" " * i * 2 + "- a" for i in range(300)),
    "open formulas": r"\(" * (N // 2),
    "open blocks": "\\[\n" * (N // 3),
    "open environments": "\\begin{align}\n" * (N // 14),
    "dollars": "$a " * (N // 3),
    "double dollars": "$$a\n" * (N // 4),
    "formulas": "$x^2$ " * (N // 6),
    "braces": "$" + "{" * 1900 + "}" * 1900 + "$",
    "roots": "$" + r"\sqrt" * 700 + "x$",
    "brackets in formulas": "$" + r"\left(" * 300 + r"\right)" * 300 + "$",
    "matrices": "$$" + r"\begin{matrix}" * 120 + r"\end{matrix}" * 120 + "$$",
    "styles": "$$" + r"\displaystyle " * 250 + "$$",
    "table": ("|a" * 500 + "\n" + "|-" * 500 + "\n" + "|\n" * 20000)[:N],
    "references": "".join(f"[a{i}]: x\n" for i in range(9000))[:N],
    "one line": "x" * N,
    "entities": "&#x" * (N // 3),
    "angles": "<a " * (N // 3),
    "lines": "\n" * N,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", SLOW)
def test_no_text_takes_for_ever(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its time is up, it comes back plain and complete."""
    monkeypatch.setattr(renderer, "SECONDS", 0.2)
    blocks = render(SLOW[name])
    if blocks and blocks[0].html.startswith('<pre class="plain"'):
        assert unescape(blocks[0].html.split(">", 1)[1].removesuffix("</pre>")) == SLOW[name]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("language", sorted(set(_LEXERS.values())))
def test_no_code_takes_for_ever(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "SECONDS", 0.05)
    for piece in (
        "(",
        '"',
        "'",
        "\\",
        "/*",
        "<!--",
        "<a ",
        "a=",
        '"""\\',
        "# ",
        "${",
        "{{",
        "`",
        "- a: ",
        "::",
    ):
        render(f"```{language}\n{piece * (MOST_CODE // len(piece))}\n```")


def test_a_line_of_a_hundred_thousand_letters_is_one_paragraph(html: Html) -> None:
    assert re.fullmatch("<p>x{100000}</p>\n", html("x" * MAX_CHARS))
