"""Settings read from the environment, once, by whoever starts a command."""

import os
from dataclasses import dataclass
from pathlib import Path

from sampan.core.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """`home`: the cache folder. `isa`: forced kernel level or None. `threads`: None lets the machine decide.

    `hf_endpoint`: another hub than the default. `hf_cache`: the hub client's cache, never written. `tune`:
    measure at a model's first load what is fastest, and use what was measured.
    """

    home: Path
    isa: str | None = None
    threads: int | None = None
    offline: bool = False
    hf_token: str | None = None
    hf_endpoint: str | None = None
    hf_cache: Path | None = None
    tune: bool = True

    @classmethod
    def from_env(cls, env: dict[str, str] | None = None) -> "Settings":
        """Read `SAMPAN_HOME`, `_ISA`, `_THREADS`, `_OFFLINE` and `_TUNE`, and the hub's `HF_*`."""
        values = dict(os.environ) if env is None else env
        home = values.get("SAMPAN_HOME")
        return cls(
            home=Path(home).expanduser() if home else _default_home(),
            isa=values.get("SAMPAN_ISA") or None,
            threads=_threads(values.get("SAMPAN_THREADS")),
            offline=_flag(values.get("SAMPAN_OFFLINE")) or _flag(values.get("HF_HUB_OFFLINE")),
            hf_token=values.get("HF_TOKEN") or None,
            hf_endpoint=values.get("HF_ENDPOINT") or None,
            hf_cache=_hf_cache(values),
            tune=_flag(values.get("SAMPAN_TUNE") or "1"),
        )


def _flag(value: str | None) -> bool:
    return (value or "").strip().lower() in {"1", "true", "yes", "on"}


def _threads(value: str | None) -> int | None:
    if not value:
        return None
    if not value.isdigit() or int(value) < 1:
        raise UsageError(f"SAMPAN_THREADS is {value!r}: give a whole number of threads, 1 or more")
    return int(value)


def _default_home() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("sampan"))


def _hf_cache(values: dict[str, str]) -> Path:
    # The order of huggingface_hub/constants.py, which is too slow to import for this.
    for name, below in (("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub")):
        if values.get(name):
            return Path(values[name]).expanduser() / below
    return Path(values.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"
