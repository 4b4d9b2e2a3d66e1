"""Pages of the KV cache: who holds which."""


class BlockPool:
    """A free list over `count` pages of `size` tokens."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        """Pages nobody holds."""
        return len(self._free)

    def needed(self, tokens: int) -> int:
        """Pages that hold this many tokens."""
        return -(-tokens // self.size)

    def extend(self, pages: list[int], tokens: int) -> bool:
        """Grow `pages` in place until it holds `tokens`; False, and nothing taken, when they are not free."""
        missing = self.needed(tokens) - len(pages)
        if missing > len(self._free):
            return False
        for _ in range(missing):
            pages.append(self._free.pop())
        return True

    def release(self, pages: list[int]) -> None:
        """Give all of `pages` back, and empty the list."""
        self._free.extend(reversed(pages))
        pages.clear()
