"""Mixtures of experts where a row is damaged: nobody else's row changes, and it is told which."""

from array import array
from pathlib import Path

import numpy as np

from sampan.kernels.backend import CacheSize, Span
from sampan.kernels.recorder import record
from sampan.models.registry import load_file

graphs = load_file(Path(__file__).parent / "test_graph.py")


def test_a_row_of_no_numbers_reaches_no_other() -> None:
    graph = record(graphs.mixtures)
    memory = graphs.Memory(graph)
    found = []
    for damage in (0.0, np.nan):
        memory.arrays["embed.weight"][5] += np.float32(damage)
        program = graphs.BACKEND.compile(graph, graphs.BACKEND.place(memory), CacheSize(3, "f32"), 48)
        here, other = Span([1, 2, 3], 0, array("i", [0]), 3), Span([5, 5], 0, array("i", [2]), 2)
        rows = program.run([here, other])
        found.append(rows.logits[:3].copy())
    assert np.array_equal(*found)
    assert rows.unsound == {3: "before one", 4: "before one"}
