"""The ratios as a picture: SVG in colours that read on light and on dark pages."""

from html import escape
from typing import Any

from report import NAMES, Row
from scenarios import LLAMA_CPP, OPENVINO, VLLM

COLOURS = {LLAMA_CPP: "#4c78a8", OPENVINO: "#e0883a", VLLM: "#72a276"}
INK = "#808890"
MOST = 8.0
LEFT, WIDTH, BAR, GAP = 250, 460, 11, 12


def picture(found: dict[str, Any], rows: list[Row]) -> str:
    """How many times a peer's figure ours is, one bar a peer, cut at MOST; a tick marks a target."""
    rows = [row for row in rows if any(name in COLOURS for name in row.ratios)]
    ratios = [ratio for row in rows for ratio in row.ratios.values()]
    most = max([2.0, *ratios, *(target.number for row in rows for target, _, _ in row.verdicts)])
    scale = WIDTH / min(most, MOST)
    body: list[str] = []
    y = 40
    for model in found["models"]:
        mine = [row for row in rows if row.model == model]
        if mine:
            body.append(_text(10, y, NAMES[model], weight="bold"))
            y += 14
        for row in mine:
            drawn = _bars(row, y, scale)
            body += drawn
            y += BAR * sum(name in COLOURS for name in row.ratios) + GAP
        y += 14 * bool(mine)
    one = LEFT + scale
    body.append(
        f'<line x1="{one:.1f}" y1="30" x2="{one:.1f}" y2="{y - 16}" stroke="{INK}" stroke-dasharray="3 3"/>'
    )
    legend = _legend({name for row in rows for name in row.ratios})
    size = f'width="{LEFT + WIDTH + 60}" height="{y}" viewBox="0 0 {LEFT + WIDTH + 60} {y}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>', *legend, *body, "</svg>"]
    return "\n".join(lines) + "\n"


def _bars(row: Row, top: int, scale: float) -> list[str]:
    targets = {target.against: target.number for target, _, _ in row.verdicts}
    ratios = {name: ratio for name, ratio in row.ratios.items() if name in COLOURS}
    drawn = [_text(LEFT - 8, top + BAR * len(ratios) / 2 + 4, row.scenario.label, anchor="end")]
    for place, (name, ratio) in enumerate(ratios.items()):
        y, end = top + BAR * place, min(ratio, MOST) * scale
        size = f'width="{end:.1f}" height="{BAR - 1}"'
        drawn.append(f'<rect x="{LEFT}" y="{y}" {size} fill="{COLOURS[name]}"/>')
        if name in targets:
            x = LEFT + targets[name] * scale
            end = max(end, targets[name] * scale)
            drawn.append(f'<path d="M{x:.1f} {y - 1}v{BAR + 1}" stroke="{INK}" stroke-width="2.5"/>')
        drawn.append(_text(LEFT + end + 5, y + 9, f"{ratio:.1f} ×", size=10))
    return drawn


def _legend(names: set[str]) -> list[str]:
    drawn = [_text(10, 16, "Sampan: how many times better than", weight="bold")]
    x = LEFT
    for name, colour in COLOURS.items():
        if name not in names:
            continue
        drawn.append(f'<rect x="{x}" y="7" width="10" height="10" fill="{colour}"/>')
        drawn.append(_text(x + 15, 16, name))
        x += 30 + 8 * len(name)
    return [*drawn, _text(x, 16, "| target")]


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", size: int = 12
) -> str:
    look = f'fill="{INK}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(words)}</text>'
