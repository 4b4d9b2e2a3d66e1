"""Which adapters are loaded, and where: requests name them by ids that are never used twice."""

from itertools import count

from sampan.core.errors import OutOfMemory
from sampan.kernels.backend import Adapter, AdapterRoom, Executable


class AdapterTable:
    """The adapters of one executable, each in a slot; id 0 is the model without any."""

    def __init__(self, executable: Executable, room: AdapterRoom | None) -> None:
        self._executable = executable
        self._slots: dict[int, int] = {}
        self._free = list(range(room.count))[::-1] if room else []
        self._room = room
        self._ids = count(1)

    def __contains__(self, adapter: int) -> bool:
        return adapter in self._slots

    @property
    def loaded(self) -> int:
        """How many there are."""
        return len(self._slots)

    def load(self, adapter: Adapter) -> int:
        """Give an adapter a slot, or refuse it with the numbers; returns its id."""
        if self._room is None:
            raise OutOfMemory(
                f"{adapter.where}: no room was made for adapters: load the model with adapters=1 or more"
            )
        if not self._free:
            raise OutOfMemory(
                f"{adapter.where}: {self._room.count} adapters are loaded, and there is no room for more: "
                "unload one, or load the model with more"
            )
        if adapter.rank > self._room.rank:
            raise OutOfMemory(
                f"{adapter.where}: has rank {adapter.rank}, and there is room for {self._room.rank}: "
                f"load the model with adapter_rank={adapter.rank}"
            )
        slot = self._free[-1]
        self._executable.set_adapter(slot, adapter)
        self._free.pop()
        found = next(self._ids)
        self._slots[found] = slot
        return found

    def unload(self, adapter: int) -> None:
        """Free its slot and its memory; no running request may use it."""
        slot = self._slots.pop(adapter)
        self._executable.clear_adapter(slot)
        self._free.append(slot)

    def slot(self, adapter: int) -> int:
        """Where an adapter is; -1 for none."""
        return self._slots.get(adapter, -1)
