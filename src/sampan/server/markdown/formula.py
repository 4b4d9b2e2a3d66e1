"""LaTeX to MathML that is safe to put into a page: known elements and attributes, everything else escaped.

`latex2mathml` parses; its own text output is not used, since it undoes the escaping (`\\text{<b>}` would be
an element). Its tree is written here instead.
"""

import re
import unicodedata
from html import escape, unescape
from xml.etree.ElementTree import Element

MAX_CHARS = 4000

_TAGS = re.compile(
    "math|mrow|mi|mn|mo|mtext|ms|mspace|mfrac|msqrt|mroot|msub|msup|msubsup|munder|mover|munderover|"
    "mmultiscripts|mprescripts|none|mtable|mtr|mtd|mstyle|mpadded|mphantom|merror"
)
_VALUES = {
    "display": r"block|inline",
    "displaystyle|stretchy|fence|movablelimits|largeop|accent|accentunder|symmetric": r"true|false",
    "form": r"prefix|infix|postfix",
    "scriptlevel": r"[+-]?\d",
    "mathvariant": r"[a-z-]{1,24}",
    "columnalign": r"left|right|center",
    "mathcolor|mathbackground": r"#[0-9a-fA-F]{3,6}|[a-zA-Z]{3,20}",
    "width|height|depth|lspace|rspace|voffset|minsize|maxsize|mathsize|linethickness": (
        r"[+-]?\d{0,2}(?:\.\d{1,3})?(?:em|ex|px|pt|mu)?"
    ),
}
_CHILDREN = dict.fromkeys(("mfrac", "mroot", "msub", "msup", "munder", "mover"), 2)
_CHILDREN |= {"msubsup": 3, "munderover": 3}
_ATTRIBUTES = {name: re.compile(value) for names, value in _VALUES.items() for name in names.split("|")}

# Definitions could expand without bound.
_REFUSED = re.compile(r"\\(?:(?:re)?new|def|[egx]def|let|provide|Declare|require)")
# Environments that latex2mathml does not know, as those it does.
_ALIASES = re.compile(
    r"\\(begin|end)\{(?:aligned|alignedat|gathered|gather|flalign|eqnarray|align|multline)\*?\}"
)
_OPERANDS = frozenset("∞∂∇√∀∃∄∅¬")


def mathml(latex: str, *, block: bool) -> str | None:
    """The formula as one `<math>` element.

    None: it cannot be parsed, is longer than `MAX_CHARS` or defines commands of its own.
    """
    from latex2mathml.converter import convert_to_element

    if len(latex) > MAX_CHARS or _REFUSED.search(latex):
        return None
    source = _ALIASES.sub(r"\\\1{align*}", latex)
    try:
        tree = convert_to_element(source, display="block" if block else "inline")
        return _written(tree)
    except Exception:  # its parser fails on bad input with whatever comes first, RecursionError too
        return None


def _written(node: Element) -> str:
    tag = node.tag if _TAGS.fullmatch(node.tag) else "mrow"
    if len(node) != _CHILDREN.get(tag, len(node)):
        raise ValueError(f"{tag} has {len(node)} parts")
    text = unescape(node.text or "")  # latex2mathml writes references such as &#x02212; as text
    if tag == "mi" and _is_operator(text):
        tag = "mo"
    attributes = "".join(
        f' {name}="{escape(value)}"'
        for name, value in node.attrib.items()
        if name in _ATTRIBUTES and _ATTRIBUTES[name].fullmatch(value)
    )
    if node.tag == "menclose":  # \boxed; not in MathML Core, drawn by the style sheet
        attributes = ' class="boxed"'
    return f"<{tag}{attributes}>{escape(text)}{''.join(map(_written, node))}</{tag}>"


def _is_operator(text: str) -> bool:
    return len(text) == 1 and unicodedata.category(text) == "Sm" and text not in _OPERANDS
