"""What sequences carry besides their pages, on a device: slots of states in float32."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sampan.kernels.backend import Span
from sampan.kernels.ops import State
from sampan.kernels.torch.ops import Advance, Carry


class StateSlots:
    """`count` slots for the states of a graph."""

    def __init__(self, states: Sequence[State], count: int, device: torch.device) -> None:
        self.count = count if states else 0
        self._device = device
        self._slots = {
            state: torch.zeros(self.count, *state.state, dtype=torch.float32, device=device)
            for state in states
        }

    def check(self, spans: Sequence[Span], require: Callable[[bool, str], None]) -> None:
        """Nobody writes what another reads or writes."""
        if not self._slots:
            return
        written = [span.writes for span in spans]
        for span in spans:
            known = -1 <= span.reads < self.count and 0 <= span.writes < self.count
            require(known, f"states {span.reads} and {span.writes}, and there are {self.count}")
            shared = span.reads != span.writes and span.reads in written
            require(not shared and written.count(span.writes) == 1, "spans share a state that is written")

    def step(self, spans: Sequence[Span]) -> Carry:
        """What lets the states of these spans go over their rows."""
        counts = [len(span.ids) for span in spans]

        def carry(state: State, rows: Tensor, advance: Advance) -> Tensor:
            slots, parts = self._slots[state], []
            for span, some in zip(spans, torch.split(rows, counts), strict=True):
                before = slots[span.reads] if span.reads >= 0 else torch.zeros_like(slots[0])
                part, after = advance(before, some)
                slots[span.writes] = after
                parts.append(part)
            return torch.cat(parts)

        return carry
