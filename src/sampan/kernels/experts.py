"""Experts that stay on disk: the memory that they may take, and what reading them has taken."""

from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class ExpertRoom:
    """Memory for experts that otherwise stay on disk, in bytes. `source`: names the state of the checkpoint's
    files, under which their experts are kept as they are read. `without`: what reading does without, to
    measure it (`core/settings.py`)."""

    memory: int
    source: str
    without: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ExpertReads:
    """Experts on disk since the start. `slots`: experts that the memory holds, of `bytes_each`. `asked`: uses
    of an expert by a layer of a step; `found`: those whose expert was in memory. `reads`, and their
    `bytes_read`; `read_ahead` of them before anybody asked, of which `read_ahead_used` were asked for later.
    `tokens`: that went through the model. `waited_s`: seconds that steps had nothing to do but to wait.
    `direct`: whether reads go past the page cache."""

    slots: int
    bytes_each: int
    asked: int
    found: int
    reads: int
    bytes_read: int
    read_ahead: int
    read_ahead_used: int
    tokens: int
    waited_s: float
    direct: bool

    @property
    def hit_rate(self) -> float | None:
        """Part of the uses that waited for no read; None before the first."""
        return self.found / self.asked if self.asked else None

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes read for each token; None before the first."""
        return self.bytes_read / self.tokens if self.tokens else None

    def since(self, before: "ExpertReads") -> "ExpertReads":
        """What has been added to what there was before."""
        added = {name: getattr(self, name) - getattr(before, name) for name in _COUNTED}
        return replace(self, **added)

    def row(self) -> dict[str, object]:
        """For JSON, with the two rates."""
        return asdict(self) | {"hit_rate": self.hit_rate, "bytes_per_token": self.bytes_per_token}


_COUNTED = ("asked", "found", "reads", "bytes_read", "read_ahead", "read_ahead_used", "tokens", "waited_s")
