"""`sampan quantize MODEL OUT`: a folder of packed weights, which loads at once.

Without `--bits` every tensor keeps the file's own precision. `--json` prints one object: `path`, `bytes` (of
the folder), `bits` and `group` (null without `--bits`), `seconds`.
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sampan.catalog.catalog import resolve
from sampan.cli.options import AsJson, ModelName, Threads
from sampan.cli.progress import TerminalProgress
from sampan.cli.terminal import say
from sampan.core.errors import UnsupportedModel, UsageError
from sampan.core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.kernels.cpu.machine import Machine
    from sampan.kernels.cpu.pieces import Piece
    from sampan.kernels.cpu.rounding import Scheme
    from sampan.kernels.ops import Weight
    from sampan.weights.checkpoint import Checkpoint

_GROUP = 32


def command(
    model: ModelName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    bits: Annotated[
        int | None, typer.Option(metavar="4|8", help="Round the weights; without it they stay as they are.")
    ] = None,
    group: Annotated[
        int | None, typer.Option(metavar="32|64|128", help="Inputs that share a scale; 32 unless given.")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Write packed weights that load at once.

    With --bits 4 the embedding, the head, and the value and down projections are rounded to 8 bits.
    """
    if bits not in (None, 4, 8):
        raise UsageError(f"--bits is {bits}: give 4 or 8, or leave it out to keep the weights as they are")
    if group not in (None, 32, 64, 128):
        raise UsageError(f"--group is {group}: give 32, 64 or 128")
    if group is not None and bits is None:
        raise UsageError("--group says how to round: add --bits 4 or --bits 8")
    group = None if bits is None else group or _GROUP
    settings = Settings.from_env()
    from sampan.kernels.cpu.machine import machine
    from sampan.weights.checkpoint import open_checkpoint
    from sampan.weights.save import free_place

    place = free_place(out)
    files = resolve(model, settings, TerminalProgress())
    started = time.perf_counter()
    with open_checkpoint(files) as checkpoint:
        if checkpoint.packed:
            raise UnsupportedModel(f"{model} is packed already: take the model that it was made from")
        pieces = _pieces(checkpoint, bits, group)
        size = _write(checkpoint, pieces, place, machine(settings, threads))
    seconds = time.perf_counter() - started
    if as_json:
        row = {"path": str(place), "bytes": size, "bits": bits, "group": group, "seconds": seconds}
        print(json.dumps(row, ensure_ascii=False))
    else:
        print(f"{place}: {size / 1e6:.1f} MB in {seconds:.1f} s")


def _pieces(checkpoint: "Checkpoint", bits: int | None, group: int | None) -> "list[Piece]":
    """What is to be written; what the user may not expect of it is said."""
    from sampan.kernels.cpu.limits import check
    from sampan.kernels.cpu.pieces import pieces
    from sampan.kernels.cpu.rounding import scheme_for
    from sampan.kernels.graph import LOGITS
    from sampan.llm.load import graph_of, output_of
    from sampan.models.registry import describe

    graphs = [graph_of(checkpoint.config, output_of(checkpoint.purpose))]
    if checkpoint.drafts and (layer := describe(checkpoint.config).draft()):
        graphs.append(layer.graph(LOGITS))
    for graph in graphs:
        check(graph, checkpoint.where)

    def whole(scheme_of: "Callable[[Weight], Scheme | None]") -> "list[Piece]":
        each = [piece for graph in graphs for piece in pieces(graph, checkpoint, scheme_of)]
        return list({piece.name: piece for piece in each}.values())  # what both read is written once

    if bits is None or group is None:
        return whole(lambda _weight: None)
    found = whole(lambda weight: scheme_for(weight, bits, group))
    sizes = Counter(piece.scheme.group for piece in found if piece.scheme)
    for size, count in sorted(sizes.items()):
        if size != group:
            say(f"group {size} instead of {group} for {count} matrices: {group} does not divide their inputs")
    before = [checkpoint.rounded(part.name) for piece in found for part in piece.parts]
    for name, count in Counter(filter(None, before)).items():
        say(
            f"{count} tensors were rounded before, to {name}, and are rounded again: "
            "the original weights give a better model"
        )
    return found


def _write(checkpoint: "Checkpoint", pieces: "list[Piece]", place: Path, here: "Machine") -> int:
    """Make the folder at `place`; returns its bytes."""
    from sampan.text.export import export_gguf
    from sampan.weights import purpose, save

    weights = save.PackedFile(checkpoint, pieces)
    save.check_room(place, weights.bytes)
    progress = TerminalProgress()
    with save.staged(place) as folder:
        if checkpoint.path.is_dir():
            save.copy_companions(checkpoint.path, folder)
        else:
            ids = export_gguf(checkpoint.metadata, folder)
            save.write_json(folder / "config.json", save.hf_config(checkpoint) | ids)
        purpose.write(checkpoint.purpose, folder)
        progress.start(weights.bytes, f"packing {place.name}")
        try:
            weights.write(folder / "model.safetensors", here, progress.advance)
        finally:
            progress.finish()
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
