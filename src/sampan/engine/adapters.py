"""Which adapters are loaded, and where: requests name them by ids that are never used twice.

The plan sets memory aside for adapters of every linear but the experts'. What an adapter really takes is
counted when it is loaded; what goes beyond the plan must be free, or allowed and left over.
"""

from itertools import count
from typing import NamedTuple

from sampan.core.errors import OutOfMemory
from sampan.core.memory import available_memory, megabytes
from sampan.kernels.backend import Adapter, AdapterRoom, Executable


class AdapterMemory(NamedTuple):
    """Bytes for adapters: those of the plan, and what it leaves of a limit. `left`: None without one."""

    planned: int
    left: int | None


class AdapterTable:
    """The adapters of one executable, each in a slot; id 0 is the model without any."""

    def __init__(self, executable: Executable, room: AdapterRoom | None) -> None:
        self._executable = executable
        self._slots: dict[int, int] = {}
        self._free = list(range(room.count))[::-1] if room else []
        self.room = room
        self._ids = count(1)
        self._bytes: dict[int, int] = {}
        self.memory: AdapterMemory | None = None

    def __contains__(self, adapter: int) -> bool:
        return adapter in self._slots

    @property
    def loaded(self) -> int:
        """How many there are."""
        return len(self._slots)

    def load(self, adapter: Adapter) -> int:
        """Give an adapter a slot, or refuse it with the numbers; returns its id."""
        if self.room is None:
            raise OutOfMemory(
                f"{adapter.where}: no room was made for adapters: load the model with adapters=1 or more"
            )
        if not self._free:
            raise OutOfMemory(
                f"{adapter.where}: {self.room.count} adapters are loaded, and there is no room for more: "
                "unload one, or load the model with more"
            )
        if adapter.rank > self.room.rank:
            raise OutOfMemory(
                f"{adapter.where}: has rank {adapter.rank}, and there is room for {self.room.rank}: "
                f"load the model with adapter_rank={adapter.rank}"
            )
        size = self._fitting(adapter)
        slot = self._free[-1]
        self._executable.set_adapter(slot, adapter)
        self._free.pop()
        found = next(self._ids)
        self._slots[found], self._bytes[found] = slot, size
        return found

    def _fitting(self, adapter: Adapter) -> int:
        """Its bytes, if they fit beside the others'."""
        size, memory = self._executable.adapter_bytes(adapter), self.memory
        taken = sum(self._bytes.values())
        if memory is None or taken + size <= memory.planned:
            return size
        left = available_memory() if memory.left is None else memory.planned + memory.left - taken
        if left is not None and size > left:
            raise OutOfMemory(
                f"{adapter.where}: takes {megabytes(size)}, and {megabytes(left)} are left for adapters: "
                "unload one, or load the model with more adapters, a higher adapter_rank or more memory"
            )
        return size

    def unload(self, adapter: int) -> None:
        """Free its slot and its memory; no running request may use it."""
        slot = self._slots.pop(adapter)
        del self._bytes[adapter]
        self._executable.clear_adapter(slot)
        self._free.append(slot)

    def slot(self, adapter: int) -> int:
        """Where an adapter is; -1 for none."""
        return self._slots.get(adapter, -1)
