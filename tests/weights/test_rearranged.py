"""A tensor whose rows or columns GGUF keeps in another order is read in Hugging Face's, bit for bit: as
values and as codes, also where one block of the file holds columns that part."""

from pathlib import Path

import numpy as np
import pytest

from sampan.kernels.formats import TensorType, dequantise
from sampan.models.family import Stored
from sampan.weights.files import MappedFile, TensorInfo
from sampan.weights.rearranged import Rearranged

ROWS, COLUMNS, HEAD = 16, 768, 64


def heads(count: int, size: int) -> np.ndarray:
    """Heads of `size` that change places."""
    order = np.random.default_rng(1).permutation(count)
    return (order[:, None] * size + np.arange(size)).reshape(-1)


def bytes_of(type: TensorType) -> np.ndarray:
    """Any bytes whose numbers are finite: no float16 among them has all bits of its exponent."""
    raw = np.random.default_rng(2).integers(0, 256, type.nbytes((ROWS, COLUMNS)), np.uint8)
    return raw & np.uint8(0xBF)


@pytest.mark.parametrize("name", ["Q4_1", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "F16", "F32"])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_codes_and_values_are_those_of_the_file_in_order(name: str, axis: str, tmp_path: Path) -> None:
    type = TensorType[name]
    raw = bytes_of(type)
    (tmp_path / "file").write_bytes(raw.tobytes())
    info = TensorInfo("blk.0.x", (ROWS, COLUMNS), type, tmp_path / "file", 0, raw.size)
    order = heads(ROWS // 4, 4) if axis == "rows" else heads(COLUMNS // HEAD, HEAD)
    whole = dequantise(raw, type, (ROWS, COLUMNS))
    expected = whole[order] if axis == "rows" else whole[:, order]
    here = Rearranged(MappedFile(tmp_path / "file"), info, Stored(**{axis: order}))
    assert np.array_equal(here.values(3, 11), expected[3:11])
    form = here.form_at(0)
    assert (form is not None) == type.quantised
    if form is not None:
        codes = here.codes(3, 11)
        q = codes.q.reshape(8, -1, codes.group).astype(np.float32) - codes.zero
        values = q * codes.scale[..., None]
        if codes.minimum is not None:
            values += codes.minimum[..., None]
        assert np.array_equal(values.reshape(8, -1), expected[3:11])
        assert (form.bits, form.group, form.zero) == (codes.bits, codes.group, codes.zero)


def test_columns_that_part_inside_of_a_group_come_out_as_floats(tmp_path: Path) -> None:
    raw = bytes_of(TensorType.Q8_0)
    (tmp_path / "file").write_bytes(raw.tobytes())
    info = TensorInfo("blk.0.x", (ROWS, COLUMNS), TensorType.Q8_0, tmp_path / "file", 0, raw.size)
    order = heads(COLUMNS // 16, 16)
    here = Rearranged(MappedFile(tmp_path / "file"), info, Stored(columns=order))
    assert here.form_at(0) is None
    whole = dequantise(raw, TensorType.Q8_0, (ROWS, COLUMNS))
    assert np.array_equal(here.values(0, ROWS), whole[:, order])
