"""The few largest of many values, and a draw from them all, without sorting or copying a vocabulary.

A row is looked at as a table of `_LINES` lines: the maximum of each column is one pass at memory speed, and
the n-th largest of those maxima is a bound that at least n values reach, and few columns.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

_LINES = 64
_FLAT = 4  # columns for each value asked for, below which a table does not help


def largest(values: Floats, count: int) -> Indices:
    """Indices of the `count` largest values, best first; ties go to the lower index."""
    table = _table(values, -np.inf)
    if count * _FLAT > table.shape[1]:
        index = _reaching(values, count)
    else:
        tops = table.max(axis=0)
        bound = np.partition(tops, tops.size - count)[tops.size - count]
        columns = np.flatnonzero(tops >= bound)
        line, place = np.nonzero(table[:, columns] >= bound)
        index = line * tops.size + columns[place]  # ascending
    return index[np.argsort(-values[index], kind="stable")][:count]


def at_least(values: Floats, bound: float) -> Indices:
    """Indices of the values that reach a bound, best first; ties go to the lower index."""
    index = np.flatnonzero(values >= np.float32(bound))
    return index[np.argsort(-values[index], kind="stable")]


def draw(weights: Floats, uniform: float) -> int:
    """An index, drawn in proportion to its weight by a number in [0, 1)."""
    table = _table(weights, 0.0)
    column, rest = _locate(table.sum(axis=0), uniform)
    line, _ = _locate(table[:, column], rest)
    columns: int = table.shape[1]
    return line * columns + column


def _locate(weights: Floats, uniform: float) -> tuple[int, float]:
    """Whose share of the total holds `uniform`, and how far into the share it lies, in [0, 1)."""
    ends = np.cumsum(weights, dtype=np.float64)
    point = min(uniform * ends[-1], np.nextafter(ends[-1], 0.0))  # so that no share of nothing is hit
    place = int(np.searchsorted(ends, point, side="right"))
    begin = ends[place - 1] if place else 0.0
    return place, float((point - begin) / (ends[place] - begin))


def _table(values: Floats, filler: float) -> Floats:
    """Values [lines, columns]; index = line * columns + column."""
    if values.size % _LINES:
        values = np.append(values, np.full(-values.size % _LINES, filler, np.float32))
    return values.reshape(_LINES, -1)


def _reaching(values: Floats, count: int) -> Indices:
    """Indices, ascending, of all values as large as the `count` largest."""
    if count >= values.size:
        return np.arange(values.size)
    bound = np.partition(values, values.size - count)[values.size - count]
    return np.flatnonzero(values >= bound)
