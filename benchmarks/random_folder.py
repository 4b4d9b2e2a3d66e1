"""A random checkpoint of a catalogue model's published shape: `python benchmarks/random_folder.py ALIAS OUT`.

bf16 safetensors with values of the deviation of trained weights; the vocabulary is padded by the default
model's tokens. For speeds and sizes, which do not depend on values.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from bf16 import safetensors_header
from sampan.catalog.catalog import DEFAULT, configuration, resolve
from sampan.core.settings import Settings
from sampan.models import registry
from sampan.text.export import export_gguf
from sampan.weights.gguf import read_gguf


def write(alias: str, out: Path) -> None:
    """The folder."""
    config = configuration(alias)
    assert config is not None, f"{alias} has no known configuration"
    out.mkdir(parents=True)
    metadata = read_gguf(resolve(DEFAULT, Settings.from_env()).path).metadata
    ids = export_gguf(metadata, out)
    (out / "config.json").write_text(json.dumps(config | ids))
    shapes = {
        name: weight.shape for name, weight in registry.describe(registry.from_hf(config)).weights().items()
    }
    draw = np.random.default_rng(0)
    with (out / "model.safetensors").open("wb") as file:
        file.write(safetensors_header(shapes))
        for shape in shapes.values():
            for rows in np.array_split(np.arange(shape[0]), max(1, shape[0] // 4096)):
                size = (len(rows), *shape[1:])
                values = (
                    draw.standard_normal(size, np.float32) * np.float32(shape[-1] ** -0.5)
                    if len(shape) > 1
                    else np.ones(size, np.float32)
                )
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("alias")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write(options.alias, options.out)
