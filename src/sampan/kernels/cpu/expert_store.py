"""The native store of experts on disk, over the file that has them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from sampan.core.errors import WeightsError
from sampan.core.settings import Settings
from sampan.kernels.cpu import _native  # type: ignore[attr-defined]
from sampan.kernels.cpu.machine import out_of_memory
from sampan.kernels.cpu.plan import Plan
from sampan.kernels.cpu.stored import ExpertStore, in_place

Telling = Callable[[], AbstractContextManager[object]]
"""Says that experts are being packed."""


def open_store(plan: Plan, weights: Any, settings: Settings, telling: Telling) -> ExpertStore:
    """Of a plan whose experts stay on disk: in the folder of packed weights, or in a file of their own, which
    is made at the first load. `weights`: `PackedWeights`."""
    tensors, room = weights.tensors, weights.layout.experts
    records = in_place(plan.stored, tensors)
    if records is None:
        from sampan.kernels.cpu.expert_file import expert_file

        folder = settings.home / "experts"
        path, records = expert_file(folder, room.source, plan.stored, tensors, weights.machine, telling)
    else:
        path = Path(tensors.info(plan.stored[0].experts[0][0].parts[0].name).file)
    try:
        native = _native.ExpertStore(
            str(path),
            [np.array(layer, np.int64) for layer in records],
            [layer.label for layer in plan.stored],
            plan.expert_slots,
            readers=1 if "second-reader" in room.without else 2,
            recency_only="frequency" in room.without,
            direct="direct" not in room.without,
        )
    except MemoryError as e:
        raise out_of_memory(f"{plan.expert_slots} experts") from e
    except RuntimeError as e:
        raise WeightsError(f"{e}: the experts cannot be read") from e
    return ExpertStore(
        native, tuple(layer.label for layer in plan.stored), plan.expert_slots, plan.expert_bytes
    )
