"""Pages of the KV cache: who holds which, and which hold a prefix that others may share.

A page is empty, held by one or more sequences, or idle: held by nobody, but findable by its tokens until
it is needed for something else. Idle pages go least recently used first, a sequence's last page before its
first, so a findable page's predecessors are findable too.

The last page of a prompt, which the prompt does not fill, is found by the tokens that begin it: its tail. Its
holder goes on writing behind them, so that others do not share it but copy it.
"""

from collections import OrderedDict
from collections.abc import MutableSequence, Sequence
from itertools import count as counter

Key = tuple[int, bytes]
"""Serial of the page before (0: none) and the page's own tokens: equal only for equal prefixes."""


class BlockPool:
    """`count` pages of `size` tokens. `reuse`: full pages can be found again and shared."""

    def __init__(self, count: int, size: int, *, reuse: bool = True) -> None:
        self.count = count
        self.size = size
        self.reuse = reuse
        self._empty = list(range(count - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * count
        self._found: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._serials = [0] * count
        self._next_serial = counter(1)
        self._notes: dict[int, object] = {}
        self._tails: dict[Key, int] = {}
        self._tail_keys: dict[int, Key] = {}

    @property
    def free(self) -> int:
        """Pages nobody holds."""
        return len(self._empty) + len(self._idle)

    @property
    def cached(self) -> int:
        """Pages that can be found by their tokens."""
        return len(self._found)

    def needed(self, tokens: int) -> int:
        """Pages that hold this many tokens."""
        return -(-tokens // self.size)

    def extend(self, pages: MutableSequence[int], tokens: int) -> bool:
        """Grow `pages` in place until it holds `tokens`; False, and nothing taken, when they are not free."""
        missing = self.needed(tokens) - len(pages)
        if missing <= 0:
            return True
        if missing > self.free:
            return False
        for _ in range(missing):
            page = self._empty.pop() if self._empty else self._evict()
            self._holders[page] = 1
            pages.append(page)
        return True

    def release(self, pages: MutableSequence[int]) -> None:
        """Give all of `pages` back, and empty the list. What can be found stays so."""
        for page in reversed(pages):
            self._let_go(page)
        del pages[:]

    def match(self, blocks: Sequence[bytes]) -> list[int]:
        """The pages that hold the longest known prefix of `blocks`."""
        pages: list[int] = []
        serial = 0
        for block in blocks:
            page = self._found.get((serial, block))
            if page is None:
                break
            pages.append(page)
            serial = self._serials[page]
        return pages

    def free_without(self, pages: Sequence[int]) -> int:
        """Pages that nobody would hold if `pages` were held."""
        return self.free - sum(not self._holders[page] for page in pages)

    def hold(self, pages: Sequence[int]) -> None:
        """Become one more holder of each of these known pages."""
        for page in pages:
            if self._holders[page] == 0:
                del self._idle[page]
            self._holders[page] += 1

    def serial(self, page: int) -> int:
        """Of a page that is known: no other has it or will."""
        return self._serials[page]

    def key(self, pages: Sequence[int], index: int, block: bytes) -> Key:
        """What a page with these tokens would be known by as page `index` of `pages`."""
        return (self._serials[pages[index - 1]] if index else 0), block

    def publish(self, pages: MutableSequence[int], index: int, block: bytes) -> None:
        """Let others find page `index`, just filled with the tokens `block`; those before it are known.

        If another page is known by the same key, that one takes its place in `pages`.
        """
        if not self.reuse:
            return
        key, page = self.key(pages, index, block), pages[index]
        known = self._found.setdefault(key, page)
        if known != page:
            self.hold([known])
            pages[index] = known
            self._let_go(page)
        else:
            self._keys[page] = key
            self._serials[page] = next(self._next_serial)

    def publish_tail(self, pages: Sequence[int], index: int, block: bytes) -> None:
        """Let others find page `index` by the tokens `block` that begin it, fewer than a page has."""
        key, page = self.key(pages, index, block), pages[index]
        if self.reuse and key not in self._tails and page not in self._tail_keys:
            self._tails[key] = page
            self._tail_keys[page] = key

    def tail(self, key: Key) -> int | None:
        """The page that begins with these tokens, if one is known."""
        return self._tails.get(key)

    def note(self, page: int, value: object) -> None:
        """Keep something with a page for as long as it can be found."""
        if page in self._keys:
            self._notes[page] = value

    def noted(self, page: int) -> object:
        """What was kept with a page, or None."""
        return self._notes.get(page)

    def forget(self, salt: bytes = b"") -> None:
        """Nobody finds any more what begins with `salt`; pages that are held stay so until their release."""
        lost: set[int] = set()
        for key, page in list(self._found.items()):  # a page stands behind the one before it
            before, block = key
            if before in lost or (before == 0 and block.startswith(salt)):
                lost.add(self._serials[page])
                del self._found[key], self._keys[page]
                self._notes.pop(page, None)
        for key, page in list(self._tails.items()):
            before, block = key
            if before in lost or (before == 0 and block.startswith(salt)):
                del self._tails[key], self._tail_keys[page]
        for page in [page for page in self._idle if not self._findable(page)]:
            del self._idle[page]
            self._empty.append(page)

    def _let_go(self, page: int) -> None:
        self._holders[page] -= 1
        if self._holders[page] == 0:
            if self._findable(page):
                self._idle[page] = None
            else:
                self._empty.append(page)

    def _findable(self, page: int) -> bool:
        return page in self._keys or page in self._tail_keys

    def _evict(self) -> int:
        page, _ = self._idle.popitem(last=False)
        if page in self._keys:
            del self._found[self._keys.pop(page)]
        if page in self._tail_keys:
            del self._tails[self._tail_keys.pop(page)]
        self._notes.pop(page, None)
        return page
