"""Writes `sampan/kernels/codebooks.npz`: the grids of GGUF's codebook types, as the `gguf` package has them.

`python tests/kernels/codebooks.py` makes the file again. IQ1_M has the grid of IQ1_S.
"""

from pathlib import Path

import numpy as np
from gguf import quants

NAMES = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")


def grids() -> dict[str, np.ndarray]:
    """By type, int8 [entries, values of one entry]."""
    found = {}
    for name in NAMES:
        kind = getattr(quants, name)
        kind.init_grid()
        found[name] = kind.grid.reshape(kind.grid_shape).astype(np.int8)
    return found


if __name__ == "__main__":
    here = Path(__file__).parents[2] / "src" / "sampan" / "kernels" / "codebooks.npz"
    np.savez_compressed(here, **grids())
