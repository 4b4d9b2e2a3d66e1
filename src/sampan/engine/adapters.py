"""Which adapters are loaded, and where: requests name them by ids that are never used twice."""

from itertools import count
from typing import TYPE_CHECKING, Any

from sampan.core.errors import OutOfMemory
from sampan.kernels.adapted import AdaptedRecorder
from sampan.kernels.native import Machine

if TYPE_CHECKING:
    from sampan.weights.lora import Lora


class AdapterTable:
    """The adapters of one program, each in a slot; id 0 is the model without any."""

    def __init__(self, recorder: AdaptedRecorder | None) -> None:
        self._program: Any = recorder.program if recorder else None
        self._parts = recorder.parts if recorder else {}
        self._slots: dict[int, int] = {}
        self._free = list(range(recorder.room.count))[::-1] if recorder else []
        self._room = recorder.room if recorder else None
        self._ids = count(1)

    def __contains__(self, adapter: int) -> bool:
        return adapter in self._slots

    @property
    def loaded(self) -> int:
        """How many there are."""
        return len(self._slots)

    def load(self, adapter: "Lora", machine: Machine) -> int:
        """Give an adapter a slot, or refuse it with the numbers; returns its id."""
        if self._room is None:
            raise OutOfMemory(
                f"{adapter.path}: no room was made for adapters: load the model with adapters=1 or more"
            )
        if not self._free:
            raise OutOfMemory(
                f"{adapter.path}: {self._room.count} adapters are loaded, and there is no room for more: "
                "unload one, or load the model with more"
            )
        if adapter.rank > self._room.rank:
            raise OutOfMemory(
                f"{adapter.path}: has rank {adapter.rank}, and there is room for {self._room.rank}: "
                f"load the model with adapter_rank={adapter.rank}"
            )
        slot, packed = self._free[-1], adapter.pack(machine)
        self._program.set_adapter(slot, [(self._parts[name], a, b) for name, (a, b) in packed.items()])
        self._free.pop()
        found = next(self._ids)
        self._slots[found] = slot
        return found

    def unload(self, adapter: int) -> None:
        """Free its slot and its memory; no running request may use it."""
        slot = self._slots.pop(adapter)
        self._program.clear_adapter(slot)
        self._free.append(slot)

    def slot(self, adapter: int) -> int:
        """Where an adapter is; -1 for none."""
        return self._slots.get(adapter, -1)
