"""What one training step reads: prompts with their continuations, and where each token stands in it.

A prompt's rows are computed once, however many continuations it has: all prompts in a first step, then all
continuations, each on a copy of the page that its prompt left incomplete.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from sampan.kernels.backend import PAGE, Span

ROWS_OF_A_PAGE = 8
"""The cache of a training step has a page for so many of its rows: short answers have pages of their own."""


@dataclass(frozen=True)
class Group:
    """A prompt of one token or more, and continuations of one or more each."""

    prompt: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]

    @property
    def before(self) -> int:
        """Tokens of the prompt that are computed once: all but the last, which each continuation begins
        with."""
        return len(self.prompt) - 1

    @property
    def rows(self) -> int:
        """That it takes of a training step: its own, or those that its pages of the cache stand for."""
        return max(self.before + sum(map(len, self.continuations)), self.pages * ROWS_OF_A_PAGE)

    @property
    def pages(self) -> int:
        """Of the cache, while it is computed."""
        return -(-self.before // PAGE) + sum(map(len, self._own_pages(0)))

    def prompt_span(self, first_page: int, slot: int) -> Span:
        """What the engine's kernels run first."""
        pages = np.arange(first_page, first_page - (-self.before // PAGE), dtype=np.int32)
        return Span(list(self.prompt[:-1]), 0, pages, 0, slot)

    def copies(self, first_page: int) -> list[tuple[int, int]]:
        """The page that the prompt leaves incomplete, for each continuation to go on with."""
        if self.before % PAGE == 0:
            return []
        last = first_page + self.before // PAGE
        return [(last, own.start) for own in self._own_pages(first_page)]

    def spans(self, first_page: int, slot: int) -> list[Span]:
        """What they run then. The rows before each token of a continuation are sampled."""
        whole = np.arange(first_page, first_page + self.before // PAGE, dtype=np.int32)
        spans = []
        for tokens, own in zip(self.continuations, self._own_pages(first_page), strict=True):
            pages = np.concatenate((whole, np.array(own, np.int32)))
            ids = [self.prompt[-1], *tokens[:-1]]
            spans.append(Span(ids, self.before, pages, len(tokens), slot))
        return spans

    def _own_pages(self, first_page: int) -> list[range]:
        """Of each continuation, behind the whole pages of the prompt."""
        counts = [-(-(self.before % PAGE + len(tokens)) // PAGE) for tokens in self.continuations]
        starts = accumulate(counts, initial=first_page - (-self.before // PAGE))
        return [range(start, start + count) for start, count in zip(starts, counts, strict=False)]


@dataclass(frozen=True, eq=False)
class Padding:
    """Continuations side by side, [continuations, longest]: `rows` at each place in turn, the first one
    behind an end; `places` of the rows. `allowed`: where each may look among the prompt's and its own,
    [longest, prompt + longest]."""

    longest: int
    rows: Tensor
    places: Tensor
    allowed: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], prompt: int) -> "Padding":
        """Rows of continuations of these lengths, one after another."""
        longest = max(lengths)
        rows = torch.zeros(len(lengths), longest, dtype=torch.long)
        there = torch.arange(longest) < torch.tensor(lengths)[:, None]
        rows[there] = torch.arange(sum(lengths))
        own = torch.ones(longest, longest, dtype=torch.bool).tril()
        allowed = torch.cat((torch.ones(longest, prompt, dtype=torch.bool), own), 1)
        return cls(longest, rows.flatten(), there.flatten().nonzero()[:, 0], allowed)


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

    @cached_property
    def padding(self) -> Padding:
        """Of the continuations' rows."""
        return Padding.of([len(rows) for rows in self.continuations], len(self.group.prompt))


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

    def prompts(self, slot: int) -> list[Span]:
        """Of all prompts but their last tokens, on pages from 0 on: the first step."""
        each = zip(self.groups, self._first_pages, strict=True)
        return [group.prompt_span(page, slot) for group, page in each if group.before]

    @property
    def copies(self) -> list[tuple[int, int]]:
        """Pages to copy between the steps."""
        each = zip(self.groups, self._first_pages, strict=True)
        return [pair for group, page in each for pair in group.copies(page)]

    def spans(self, slot: int) -> list[Span]:
        """Of all continuations: the second step."""
        each = zip(self.groups, self._first_pages, strict=True)
        return [span for group, page in each for span in group.spans(page, slot)]

    @cached_property
    def _first_pages(self) -> list[int]:
        return list(accumulate((group.pages for group in self.groups), initial=0))[:-1]

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
    def of_prompts(self) -> list[int]:
        """Which of them the rows of the first step are."""
        return [row for place in self.places for row in range(place.prompt.start, place.prompt.stop - 1)]

    @cached_property
    def of_continuations(self) -> tuple[list[int], list[int]]:
        """The others, and which row of the second step each is: of the prompt's last token, which every
        continuation computes, the first."""
        rows: list[int] = []
        taken: list[int] = []
        first = 0
        for place in self.places:
            rows.append(place.prompt.stop - 1)
            taken.append(first)
            for own in place.continuations:
                rows += own
                taken += range(first + 1, first + 1 + len(own))
                first += 1 + len(own)
        return rows, taken

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
