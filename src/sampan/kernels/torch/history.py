"""Steps over sequences whose keys and values are kept as they are: the oracle, and the way to gradients.

Nothing is paged or rounded, and nothing is written in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sampan.kernels.ops import Attention, State
from sampan.kernels.torch.ops import Advance, Block, Step, attention, wide


@dataclass(eq=False)
class History:
    """One sequence's keys and values so far: for each layer, both [m, KV heads, size]; and its states.
    `tokens`: those that went through the model, from the next step on."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    states: dict[State, Tensor] = field(default_factory=dict)
    tokens: int = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds n tokens; gives all m."""
        if layer in self.layers:
            past_k, past_v = self.layers[layer]
            k, v = torch.cat((past_k, k)), torch.cat((past_v, v))
        self.layers[layer] = k, v
        return k, v


def step_of(
    work: Sequence[tuple[History, Sequence[int]]],
    *,
    sample_all: bool = False,
    device: torch.device | str = "cpu",
) -> Step:
    """A step that gives each sequence some more tokens; samples the last row of each, or every row. `device`:
    where the weights are."""
    ids = [token for _, tokens in work for token in tokens]
    positions = [p for history, tokens in work for p in range(history.tokens, history.tokens + len(tokens))]
    ends, first = [], 0
    spans: list[tuple[History, int, int]] = []
    for history, tokens in work:
        spans.append((history, first, first + len(tokens)))
        history.tokens += len(tokens)
        first += len(tokens)
        ends.append(first - 1)

    def attend(shape: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = []
        for history, start, stop in spans:
            keys, values = history.append(shape.layer, k[start:stop], v[start:stop])
            n, m = stop - start, len(keys)
            allowed = torch.ones(1, n, m, dtype=torch.bool, device=q.device).tril(m - n)
            block = Block(keys[None], values[None], allowed)
            parts.append(attention(shape, q[None, start:stop], [block])[0])
        return torch.cat(parts)

    def carry(state: State, rows: Tensor, advance: Advance) -> Tensor:
        parts = []
        for history, start, stop in spans:
            before = history.states.get(state)
            if before is None:
                before = wide(rows[:0]).new_zeros(state.state)
            part, history.states[state] = advance(before, rows[start:stop])
            parts.append(part)
        return torch.cat(parts)

    sampled = list(range(len(ids))) if sample_all else ends
    index = torch.tensor(sampled, device=device)
    return Step(torch.tensor(ids, device=device), torch.tensor(positions), index, attend, carry)
