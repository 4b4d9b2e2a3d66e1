"""The typed values of a GGUF header, read one after another (ggml docs/gguf.md).

Every count and length is checked against what is left of the header before anything of that size is made;
what does not fit, or is not what it says, is a `WeightsError` naming file, field and byte offset.
"""

import struct
from array import array

from sampan.core.errors import WeightsError
from sampan.weights.files import MappedFile, damaged

# Metadata and tensor list together; the largest vocabularies need about 20 MiB.
_MAX_HEADER = 64 * 2**20
_MAX_NAME = 65535  # gguf.md: keys are at most 2^16 - 1 bytes
_MAX_DEPTH = 4

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_BOOL, _STRING, _ARRAY = 7, 8, 9
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_NUMBERS = {kind: struct.Struct("<" + code) for kind, code in _CODES.items()}
# The fewest bytes that an element of each kind takes: a string or an array is at least its length.
_LEAST = {kind: form.size for kind, form in _NUMBERS.items()} | {_BOOL: 1, _STRING: 8, _ARRAY: 12}


class Values:
    """A position in a file's header, and one method for each kind of thing that can stand there."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.position = 0
        self._data = file.data
        self._limit = min(file.size, _MAX_HEADER)

    def fail(self, field: str, at: int, problem: str) -> WeightsError:
        """The error of the field at byte `at`; the caller raises it."""
        return damaged(self.file.path, field, at, problem)

    def u32(self, field: str) -> int:
        """An unsigned 32-bit number."""
        return int(self._number(_U32, field))

    def u64(self, field: str) -> int:
        """An unsigned 64-bit number."""
        return int(self._number(_U64, field))

    def count(self, field: str, least: int) -> int:
        """A count of things of at least `least` bytes each, which must fit in what follows."""
        at = self.position
        count = self.u64(field)
        if count * least > self._limit - self.position:
            raise self.fail(field, at, f"is {count}: the {self._limit} bytes of header cannot hold so much")
        return count

    def name(self, field: str) -> str:
        """A string that is neither empty nor absurdly long."""
        at = self.position
        text = self._strings(1, field)[0]
        if not 0 < self.position - at - 8 <= _MAX_NAME:
            raise self.fail(field, at, f"must have 1 to {_MAX_NAME} bytes")
        return text

    def value(self, field: str) -> object:
        """A type number and the value that it announces: number, bool, str or array."""
        at = self.position
        kind = self.u32(f"{field} type")
        if kind == _ARRAY:
            return self._array(field, 1)
        if kind == _STRING:
            return self._strings(1, field)[0]
        if kind == _BOOL:
            return self._bools(1, field)[0]
        if kind not in _NUMBERS:
            raise self.fail(f"{field} type", at, f"is {kind}, which GGUF does not define")
        return self._number(_NUMBERS[kind], field)

    def _array(self, field: str, depth: int) -> object:
        at = self.position
        kind = self.u32(f"{field} element type")
        if kind not in _LEAST:
            raise self.fail(f"{field} element type", at, f"is {kind}, which GGUF does not define")
        count = self.count(f"{field} length", _LEAST[kind])
        if kind == _STRING:
            return self._strings(count, field)
        if kind == _BOOL:
            return self._bools(count, field)
        if kind == _ARRAY:
            if depth == _MAX_DEPTH:
                raise self.fail(field, at, f"nests arrays more than {_MAX_DEPTH} deep")
            return [self._array(field, depth + 1) for _ in range(count)]
        values: array[int] | array[float] = array(_CODES[kind])
        values.frombytes(self._take(count * _LEAST[kind]))
        return values

    def _cut(self, field: str, at: int) -> WeightsError:
        """The error of a field that does not fit before the end."""
        if self._limit < self.file.size:
            return self.fail(field, at, f"ends past the {self._limit} bytes that a header may have")
        return self.fail(
            field, at, f"ends past the file's {self.file.size} bytes: it is cut short or damaged"
        )

    def _number(self, form: struct.Struct, field: str) -> int | float:
        at = self.position
        if form.size > self._limit - at:
            raise self._cut(field, at)
        self.position = at + form.size
        value: int | float = form.unpack_from(self._data, at)[0]
        return value

    def _take(self, size: int) -> bytes:
        self.position += size
        return self._data[self.position - size : self.position]

    def _bools(self, count: int, field: str) -> list[bool]:
        at = self.position
        if count > self._limit - at:
            raise self._cut(field, at)
        taken = self._take(count)
        if taken.strip(b"\0\1"):
            raise self.fail(field, at, "is neither true (1) nor false (0)")
        return [byte == 1 for byte in taken]

    def _strings(self, count: int, field: str) -> list[str]:
        """`count` strings. Vocabularies have 100,000 of them, so the loop has only locals and one check."""
        data, limit, length_at = self._data, self._limit, _U64.unpack_from
        strings: list[str] = []
        append = strings.append
        start = end = self.position
        try:
            for _ in range(count):
                (length,) = length_at(data, end)
                start = end + 8
                end = start + length
                if end > limit:
                    raise self._cut(field, start - 8)
                append(data[start:end].decode())
        except struct.error:
            raise self._cut(field, end) from None
        except UnicodeDecodeError:
            raise self.fail(field, start, "is not UTF-8") from None
        self.position = end
        return strings
