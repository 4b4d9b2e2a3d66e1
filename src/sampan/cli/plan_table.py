"""A plan as people read it: one line a precision."""

from typing import Any

from sampan.catalog.disk import gigabytes

Row = dict[str, Any]

_WIDTHS = (9, 9, 10, 9, 4, 8, 8)


def lines(row: Row) -> list[str]:
    """Below the other lines of `models show`."""
    plan, machine = row["plan"], row["machine"]
    if plan is None:
        return [f"planned     not yet: {row['plan_missing']}"]
    about = (
        f"for one sequence of {plan['context']} tokens on {machine['threads']} threads with "
        f"{machine['read_gbps']:.1f} GB/s and {machine['int8_tops']:.2f} TOPS, measured now"
    )
    free = plan["memory_bytes"]
    memory = "" if free is None else f"; {gigabytes(free)} of memory are free"
    names = ("weights", "a token", "cache/1000", "whole", "fits", "decode", "prompt")
    head = f"{'':<9} " + " ".join(f"{name:>{width}}" for name, width in zip(names, _WIDTHS, strict=True))
    found = [f"planned     {about}{memory}", head]
    for each in plan["precisions"]:
        found.append(_line(each))
        if each["experts_on_disk"]:
            found.append(_disk(each["experts_on_disk"]))
    return found


def _line(row: Row) -> str:
    cache = row["cache_bytes_per_1000_tokens"]["bf16"]
    sizes = (row["weights_bytes"], row["active_bytes"], cache, row["whole_bytes"])
    weights, active, kept, whole = map(gigabytes, sizes)
    fits = "?" if row["fits"] is None else "yes" if row["fits"] else "no"
    return (
        f"{row['precision']:<9} {weights:>9} {active:>9} {kept:>10} {whole:>9} {fits:>4} "
        f"{rate(row['decode_tps']):>6}/s {rate(row['prefill_tps']):>6}/s"
    )


def _disk(row: Row) -> str:
    return (
        f"{'':<9} with experts on disk: {gigabytes(row['expert_memory_bytes'])} of them in memory "
        f"({row['cached_part']:.0%}), {row['hit_rate']:.0%} found there, "
        f"{gigabytes(row['read_bytes_per_token'])} read a token: {rate(row['decode_tps'])}/s"
    )


def rate(value: float) -> str:
    """Tokens a second, three figures."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def outlines(rows: list[Row]) -> list[str]:
    """Of every model, for `doctor`."""
    found = []
    for row in rows:
        fits = "?" if row["fits"] is None else "fits" if row["fits"] else "does not fit"
        found.append(
            f"{row['model']:<21} {row['precision']} {gigabytes(row['weights_bytes']):>8}, cache "
            f"{gigabytes(row['cache_bytes_per_1000_tokens']['bf16']):>8} for 1,000 tokens, {fits}: "
            f"{rate(row['decode_tps'])} tokens/s"
        )
    return found
