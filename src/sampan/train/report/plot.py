"""Plots as SVG, in the colours of the page around them. What is drawn is also told: to screen readers by a
label, and to anybody by a table below."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import floor, isfinite, log10

from sampan.train.report.compare import smoothed

_WIDTH, _HEIGHT = 560, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 10, 34
_MANY = 40  # points from which on a line is drawn smoothed, over itself
_ROWS = 12  # of the table

Point = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """`series`: points (step, value) by name. `unit`: how a value is written, see `written`. `errors`: of
    the points of a series. `stacked`: shares that come to 1, one upon the other."""

    title: str
    series: Mapping[str, Sequence[Point]]
    unit: str = ""
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    stacked: bool = False

    @property
    def label(self) -> str:
        """The plot in words."""
        parts = [
            f"{name} from {self.written(points[0][1])} to {self.written(points[-1][1])}"
            for name, points in self.series.items()
        ]
        return f"{self.title}: {'; '.join(parts)}"

    def written(self, value: float) -> str:
        """A value with its unit."""
        if self.unit == "%":
            return f"{100 * value:.3g}%"
        return f"{value:,.0f}{self.unit}" if abs(value) >= 1000 else f"{value:.3g}{self.unit}"

    def svg(self) -> str:
        """The picture."""
        frame = _Frame.around(self)
        body = [*self._grid(frame), *(self._areas(frame) if self.stacked else self._lines(frame))]
        view = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        return f'<svg class="plot" role="img" {view} aria-label="{escape(self.label)}">{"".join(body)}</svg>'

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and some rows of figures: first and last steps, and steps at even distances."""
        steps = sorted({x for points in self.series.values() for x, _ in points})
        last = len(steps) - 1
        chosen = [steps[round(i * last / (_ROWS - 1))] for i in range(_ROWS)] if last >= _ROWS else steps
        by_step = [dict(points) for points in self.series.values()]
        rows = [[f"{x:g}", *(self.written(own[x]) if x in own else "–" for own in by_step)] for x in chosen]
        return ["step", *self.series], rows

    def _grid(self, frame: "_Frame") -> Iterator[str]:
        for value in frame.ticks:
            y = frame.y(value)
            yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
            yield f'<text class="from" x="{_LEFT - 8}" y="{y + 4:.1f}">{self.written(value)}</text>'
        for step, end in ((frame.first, "start"), (frame.last, "end")):
            name = f"step {step:g}" if end == "start" else f"{step:g}"
            yield f'<text class="{end}" x="{frame.x(step):.1f}" y="{_HEIGHT - 10}">{name}</text>'

    def _lines(self, frame: "_Frame") -> Iterator[str]:
        for place, (name, points) in enumerate(self.series.items()):
            look = f"s{place % 6}"
            good = [point for point in points if isfinite(point[1])]
            for (x, y), error in zip(points, self.errors.get(name, ()), strict=False):
                low, high = frame.y(y - error), frame.y(y + error)
                yield f'<path class="bar {look}" d="M{frame.x(x):.1f} {low:.1f}V{high:.1f}"/>'
            if len(good) < _MANY:
                yield from (
                    f'<circle class="{look}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5"/>'
                    for x, y in good
                )
                yield f'<path class="line {look}" d="{frame.path(good)}"/>'
                continue
            yield f'<path class="line raw {look}" d="{frame.path(good)}"/>'
            means = smoothed([y for _, y in good])
            path = frame.path([(x, mean) for (x, _), mean in zip(good, means, strict=True)])
            yield f'<path class="line {look}" d="{path}"/>'

    def _areas(self, frame: "_Frame") -> Iterator[str]:
        names = list(self.series)
        steps = [x for x, _ in self.series[names[0]]]
        below = [0.0] * len(steps)
        for place, name in enumerate(names):
            above = [low + y for low, (_, y) in zip(below, self.series[name], strict=True)]
            up = frame.path(list(zip(steps, above, strict=True)))
            down = frame.path(list(zip(steps, below, strict=True))[::-1]).replace("M", "L", 1)
            yield f'<path class="area s{place % 6}" d="{up}{down}Z"/>'
            below = above


@dataclass(frozen=True)
class _Frame:
    """From steps and values to places in the picture."""

    first: float
    last: float
    low: float
    high: float
    ticks: Sequence[float]

    @classmethod
    def around(cls, plot: Plot) -> "_Frame":
        steps = [x for points in plot.series.values() for x, _ in points]
        if plot.stacked:
            return cls(min(steps), max(steps), 0.0, 1.0, (0.0, 0.5, 1.0))
        values = [y for points in plot.series.values() for _, y in points if isfinite(y)] or [0.0]
        ticks = _ticks(min(0.0, *values), max(0.0, *values))
        return cls(min(steps), max(steps), ticks[0], ticks[-1], ticks)

    def x(self, step: float) -> float:
        return _LEFT + (step - self.first) / ((self.last - self.first) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        part = (min(self.high, max(self.low, value)) - self.low) / (self.high - self.low)
        return _TOP + (1 - part) * (_HEIGHT - _TOP - _BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        return "".join(
            f"{'L' if place else 'M'}{self.x(x):.1f} {self.y(y):.1f}" for place, (x, y) in enumerate(points)
        )


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers at even distances around both, four or five of them."""
    if high - low <= 0:
        return [0.0, 1.0]
    raw = (high - low) / 4
    scale = 10.0 ** floor(log10(raw))
    step = next(s * scale for s in (1, 2, 2.5, 5, 10) if s * scale >= raw * 0.999)
    first, last = floor(low / step), -floor(-high / step)
    return [step * place for place in range(first, last + 1)]
