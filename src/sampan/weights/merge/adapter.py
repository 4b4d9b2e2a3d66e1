"""An adapter for merging: what it makes of each of a model's tensors."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from sampan.weights.files import MappedFile
from sampan.weights.merge.changes import Change, Residual, Rows


@dataclass(eq=False)
class Adapter:
    """An adapter, mapped, as changes of the model's tensors. `parts`: by name, in the order in which they are
    made. `base`: tensors that stand in the place of the model's before any change, in a tied model of both
    its ends; `brought`: those that stand there in the end. `residuals`: by tensor. `additive`: all of it are
    sums, which can be had in part. `ranks`: of its products. `passed`: what was passed over."""

    where: str
    files: list[MappedFile]
    scale: float = 1.0
    parts: dict[str, list[Change]] = field(default_factory=lambda: defaultdict(list))
    base: dict[str, Rows] = field(default_factory=dict)
    brought: dict[str, Rows] = field(default_factory=dict)
    residuals: dict[str, Residual] = field(default_factory=dict)
    additive: bool = True
    ranks: set[int] = field(default_factory=set)
    passed: list[str] = field(default_factory=list)
    config: Mapping[str, object] = field(default_factory=dict)

    def close(self) -> None:
        """Unmap the files."""
        for file in self.files:
            file.close()
