"""The figures of a row by the names that users of other trainers watch them under: TRL's, where it has
one."""

from collections.abc import Iterator, Mapping
from typing import Any

_NAMES = {
    "gradient": "grad_norm",
    "rate": "learning_rate",
    "still": "frac_reward_zero_std",
    "length": "completions/mean_length",
    "cut": "completions/clipped_ratio",
    "gap": "sampling/logp_difference_max",
    "figures/loss": "loss",
    "figures/kl": "kl",
    "figures/clipped_low": "clip_ratio/low_mean",
    "figures/clipped_high": "clip_ratio/high_mean",
    "figures/ratio_least": "sampling/importance_sampling_ratio/min",
    "figures/ratio_mean": "sampling/importance_sampling_ratio/mean",
    "figures/ratio_most": "sampling/importance_sampling_ratio/max",
}
_NO_FIGURES = frozenset(("stage", "number", "step", "time", "sample"))
_FOLDERS = {"parts": "rewards/{}/mean", "deviations": "rewards/{}/std", "seconds": "seconds/{}"}


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a step or of a measurement, by name. What is no number has no figure; of `excluded`
    answers it is how many they are."""
    if "test" in row:
        values = {name: row[name] for name in ("accuracy", "error")}
        return {f"eval/{row['test']}/{name}": value for name, value in values.items() if value is not None}
    found = dict(_numbers(row))
    if row.get("seconds"):
        found["step_time"] = float(sum(row["seconds"].values()))
    return found


def step_of(row: Mapping[str, Any]) -> int | None:
    """How many steps of its stage were done; None for what belongs to no step."""
    if "test" in row:
        return int(row["step"])
    return int(row["number"]) + 1 if "number" in row else None


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if name in _NO_FIGURES:
            continue
        if name == "excluded":
            yield name, float(len(value))
        elif isinstance(value, Mapping):
            for inner, own in value.items():
                if _is_number(own):
                    yield _named(name, inner), float(own)
        elif _is_number(value):
            yield _NAMES.get(name, name), float(value)


def _named(folder: str, name: str) -> str:
    if folder in _FOLDERS:
        return _FOLDERS[folder].format(name)
    return _NAMES.get(f"{folder}/{name}", f"{folder}/{name}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
