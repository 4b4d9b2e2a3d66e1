"""Licence texts and source code that every machine has: the licences and the standard library that come with
Python and its packages."""

import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

MODULES = ("argparse.py", "json/decoder.py", "heapq.py", "textwrap.py", "queue.py", "statistics.py")


def texts() -> Iterator[str]:
    """Licence texts of installed packages and modules of the standard library, in turn."""
    packages, library = Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib"))
    licences = {
        text[:500]: text[:12000]
        for path in sorted(
            {*packages.glob("*.dist-info/**/LICENSE*"), *packages.glob("*.dist-info/**/COPYING*")}
        )
        if path.is_file() and len(text := path.read_text(errors="ignore")) > 4000
    }
    modules = [(library / name).read_text()[:16000] for name in MODULES]
    for licence, module in zip(licences.values(), modules, strict=False):
        yield licence
        yield module


def windows(encode: Callable[[str], list[int]], context: int, tokens: int) -> Iterator[list[int]]:
    """The texts in pieces of `context` tokens, whole texts until there are as many as `tokens`."""
    done = 0
    for text in texts():
        ids = encode(text)
        for start in range(0, len(ids) - 1, context):
            window = ids[start : start + context]
            if len(window) > 1:
                yield window
                done += len(window)
        if done >= tokens:
            return
    raise SystemExit(f"only {done} tokens of licences and modules are here, {tokens} were asked for")
