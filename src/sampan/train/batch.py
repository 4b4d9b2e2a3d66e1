"""What one training step reads: prompts with their continuations, and where each token stands in it.

A prompt's rows are there once, however many continuations it has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from sampan.kernels.backend import PAGE, Span


@dataclass(frozen=True)
class Group:
    """A prompt of one token or more, and continuations of one or more each."""

    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    @property
    def shared(self) -> int:
        """Tokens of the prompt in pages that all continuations read: whole pages, but for the last token,
        which each continuation computes for itself."""
        return (len(self.prompt) - 1) // PAGE * PAGE

    @property
    def rows(self) -> int:
        """Of the step that computes it."""
        own = len(self.prompt) - self.shared - 1
        return self.shared + sum(own + len(tokens) for tokens in self.continuations)

    @property
    def pages(self) -> int:
        """Of the cache, while it is computed."""
        first = self.shared // PAGE
        return first + sum(len(own) for own in self._own_pages(0))

    def spans(self, first_page: int, slot: int) -> list[Span]:
        """What the engine's kernels run. The rows before each token of a continuation are
        sampled."""
        common = np.arange(first_page, first_page + self.shared // PAGE, dtype=np.int32)
        spans = []
        if self.shared:
            spans.append(Span(list(self.prompt[: self.shared]), 0, common, 0, slot))
        tail = list(self.prompt[self.shared :])
        for tokens, own in zip(self.continuations, self._own_pages(first_page), strict=True):
            pages = np.concatenate((common, np.array(own, np.int32)))
            ids = [*tail, *tokens[:-1]]
            spans.append(Span(ids, self.shared, pages, len(tokens), slot))
        return spans

    def _own_pages(self, first_page: int) -> list[range]:
        tail = len(self.prompt) - self.shared
        counts = [-(-(tail + len(tokens) - 1) // PAGE) for tokens in self.continuations]
        starts = accumulate(counts, initial=first_page + self.shared // PAGE)
        return [range(start, start + count) for start, count in zip(starts, counts, strict=False)]


@dataclass(frozen=True)
class Places:
    """Where a group's rows stand among those of the backward pass: the prompt's, then each continuation's
    but for its last token."""

    group: Group
    first: int

    @property
    def prompt(self) -> slice:
        """Rows of the prompt."""
        return slice(self.first, self.first + len(self.group.prompt))

    @cached_property
    def continuations(self) -> list[range]:
        """Rows of each continuation."""
        lengths = [len(tokens) - 1 for tokens in self.group.continuations]
        starts = accumulate(lengths, initial=self.prompt.stop)
        return [range(start, start + n) for start, n in zip(starts, lengths, strict=False)]

    @property
    def stop(self) -> int:
        """Behind its last row."""
        return self.continuations[-1].stop


@dataclass(frozen=True)
class Batch:
    """Groups that are computed in one step."""

    groups: Sequence[Group]

    @cached_property
    def places(self) -> list[Places]:
        """Of each group."""
        found: list[Places] = []
        for group in self.groups:
            found.append(Places(group, found[-1].stop if found else 0))
        return found

    @property
    def rows(self) -> int:
        """Of the step."""
        return sum(group.rows for group in self.groups)

    @property
    def pages(self) -> int:
        """Of the cache."""
        return sum(group.pages for group in self.groups)

    def spans(self, slot: int) -> list[Span]:
        """Of all groups, on pages from 0 on."""
        firsts = accumulate((group.pages for group in self.groups), initial=0)
        return [
            span for group, page in zip(self.groups, firsts, strict=False) for span in group.spans(page, slot)
        ]

    @cached_property
    def ids(self) -> list[int]:
        """Tokens of the backward pass's rows."""
        return [
            token
            for group in self.groups
            for part in (group.prompt, *(tokens[:-1] for tokens in group.continuations))
            for token in part
        ]

    @cached_property
    def positions(self) -> list[int]:
        """Of the same rows."""
        found: list[int] = []
        for group in self.groups:
            found += range(len(group.prompt))
            for tokens in group.continuations:
                found += range(len(group.prompt), len(group.prompt) + len(tokens) - 1)
        return found

    @cached_property
    def taken(self) -> list[int]:
        """Which row of the step each of them is: what a continuation computed of the prompt again is
        passed over."""
        found: list[int] = []
        first = 0
        for group in self.groups:
            tail = len(group.prompt) - group.shared
            found += range(first, first + group.shared + tail)
            first += group.shared
            for tokens in group.continuations:
                found += range(first + tail, first + tail + len(tokens) - 1)
                first += tail + len(tokens) - 1
        return found

    @cached_property
    def sampled(self) -> list[int]:
        """Rows whose logits are of a target, one for each token of all continuations in turn."""
        found: list[int] = []
        for place in self.places:
            for rows in place.continuations:
                found += [place.prompt.stop - 1, *rows]
        return found

    @cached_property
    def targets(self) -> list[int]:
        """The tokens."""
        return [token for group in self.groups for tokens in group.continuations for token in tokens]
