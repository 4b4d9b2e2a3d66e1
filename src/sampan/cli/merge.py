"""`sampan merge MODEL OUT --adapter A`: a model with adapters in its weights, as a folder or a GGUF file.

`--json` prints one object: `path`, `bytes`, `format`, `dtype`, `adapters` (path and scale), `seconds`.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sampan.catalog.catalog import find, resolve
from sampan.cli.options import AsJson, ModelName
from sampan.cli.progress import TerminalProgress
from sampan.cli.terminal import say
from sampan.core.errors import UnsupportedModel, UsageError, quoted, shortened
from sampan.core.settings import Settings

if TYPE_CHECKING:
    from sampan.core.types import ModelFiles
    from sampan.weights.merge.adapter import Adapter
    from sampan.weights.merge.card import Base
    from sampan.weights.merge.model import Merged

_FORMATS = ("safetensors", "gguf")
_DTYPES = ("keep", "bf16", "f16", "f32")


def command(
    model: ModelName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder, or the .gguf file, to make.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH[:SCALE]", help="A LoRA adapter, a folder or a GGUF file. Repeatable."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(metavar="keep|bf16|f16|f32", help="keep: the model's own; bf16 for quantised tensors."),
    ] = "keep",
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="safetensors|gguf", help="By the ending of OUT unless given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model with adapters merged into its weights, for other programs too.

    Without --adapter it is the model itself in another form.
    """
    form = _form(out, form)
    if dtype not in _DTYPES:
        raise UsageError(f"--dtype is {quoted(dtype)}: {', '.join(_DTYPES)} are written")
    wished = [_scaled(text) for text in adapter or []]
    from sampan.models.registry import describe
    from sampan.weights.checkpoint import open_checkpoint
    from sampan.weights.merge.model import Merged
    from sampan.weights.merge.read import read
    from sampan.weights.save import free_place

    place = free_place(out)
    files = resolve(model, Settings.from_env(), TerminalProgress())
    started = time.perf_counter()
    adapters: list[Adapter] = []
    with open_checkpoint(files) as checkpoint:
        if checkpoint.packed:
            raise UnsupportedModel(
                f"{model} is packed by sampan quantize: take the model that it was made from"
            )
        try:
            weights = describe(checkpoint.config).weights()
            for path, scale in wished:
                adapters.append(read(path, scale, checkpoint.config, weights))
            _tell(adapters, any(info.type.quantised for info in checkpoint.tensors.values()), dtype)
            size = _write(Merged(checkpoint, adapters), files, place, form, dtype)
        finally:
            for each in adapters:
                each.close()
    row = {
        "path": str(place), "bytes": size, "format": form, "dtype": dtype,
        "adapters": [{"path": str(path), "scale": scale} for path, scale in wished],
        "seconds": time.perf_counter() - started,
    }  # fmt: skip
    text = f"{place}: {size / 1e6:.1f} MB in {row['seconds']:.1f} s"
    print(json.dumps(row, ensure_ascii=False) if as_json else text)


def _form(out: Path, form: str | None) -> str:
    file = out.suffix == ".gguf"
    if form is None:
        return "gguf" if file else "safetensors"
    if form not in _FORMATS:
        raise UsageError(f"--format is {quoted(form)}: {' and '.join(_FORMATS)} are written")
    if file != (form == "gguf"):
        wants = (
            "a name that ends in .gguf" if form == "gguf" else "a folder, whose name does not end in .gguf"
        )
        raise UsageError(f"OUT is {shortened(out)}: --format {form} needs {wants}")
    return form


def _scaled(text: str) -> tuple[Path, float]:
    """A path, and how many times its adapter is merged."""
    path, _, scale = text.rpartition(":")
    try:
        value = float(scale)
    except ValueError:
        path, value = text, 1.0
    if not path or Path(text).exists():
        path, value = text, 1.0
    if not 0 < abs(value) <= 100:
        raise UsageError(f"--adapter {quoted(text)}: the scale is from -100 to 100, and not 0")
    return Path(path).expanduser(), value


def _tell(adapters: "list[Adapter]", quantised: bool, dtype: str) -> None:
    for adapter in adapters:
        for passed in adapter.passed:
            say(f"{adapter.where}: passed over {passed}")
    if quantised and dtype == "keep":
        say("quantised tensors are written as bf16, rounded: --dtype f32 keeps their values exactly")


def _write(merged: "Merged", files: "ModelFiles", place: Path, form: str, dtype: str) -> int:
    """Make OUT; returns its bytes."""
    base = _base(files)
    progress = TerminalProgress()
    try:
        make = _write_gguf if form == "gguf" else _write_folder
        make(merged, base, place, dtype, progress)
    finally:
        progress.finish()
    if place.is_file():
        return place.stat().st_size
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _write_folder(
    merged: "Merged", base: "Base", place: Path, dtype: str, progress: TerminalProgress
) -> None:
    from importlib.metadata import version

    from sampan.text.export import export_gguf
    from sampan.weights import purpose, save
    from sampan.weights.merge import write
    from sampan.weights.merge.card import card

    source = merged.checkpoint.path
    tensors = write.tensors_of(merged, dtype)
    save.check_room(place, write.total(tensors))
    with save.staged(place) as folder:
        config = write.config_of(merged, tensors)
        if source.is_dir():
            save.copy_companions(source, folder)
        else:
            config |= export_gguf(merged.checkpoint.metadata, folder)
        save.write_json(folder / "config.json", config)
        purpose.write(merged.checkpoint.purpose, folder)
        types = " and ".join(sorted({tensor.type.name for tensor in tensors}))
        text = card(place.name, base, merged.adapters, types, version("sampan"))
        (folder / "README.md").write_text(text, "utf-8")
        progress.start(write.total(tensors), f"writing {place.name}")
        write.write_folder(tensors, folder, progress.advance)


def _write_gguf(merged: "Merged", base: "Base", place: Path, dtype: str, progress: TerminalProgress) -> None:
    from sampan.text.vocab.to_gguf import gguf_keys
    from sampan.weights import save
    from sampan.weights.gguf_write import size_of, write_gguf
    from sampan.weights.merge.gguf import gguf_of

    source = merged.checkpoint.path
    tokenizer = gguf_keys(source, merged.config.vocab) if source.is_dir() else {}
    keys, tensors = gguf_of(merged, dtype, place.stem, base.licence.get("license"), tokenizer)
    save.check_room(place, size_of(tensors))
    progress.start(size_of(tensors), f"writing {place.name}")
    with save.staged_file(place) as file:
        write_gguf(file, keys, tensors, progress.advance)


def _base(files: "ModelFiles") -> "Base":
    """What the card says of the model that is merged into."""
    from sampan.weights.merge.card import Base, licence_of

    entry = find(files.name)
    name = files.source.split(":", 1)[-1] if ":" in files.name else Path(files.name).name
    if entry and entry.licence and entry.terms:
        both = {"license": "other", "license_name": entry.licence}
        licence = both if "+" in entry.licence else {"license": entry.licence}
        return Base(entry.alias, licence, f"{entry.terms.allows} {entry.terms.asks}")
    return Base(name, licence_of(files.path if files.path.is_dir() else files.path.parent))
