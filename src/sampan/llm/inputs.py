"""What users hand in, checked and made one list: one thing or many, several samples, sampling for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypeVar

from sampan.core.errors import RequestError, quoted
from sampan.core.types import SamplingParams
from sampan.llm.answer import Prompt

T = TypeVar("T")
_MOST_SAMPLES = 2**16
Ids = Sequence[int]
Messages = Sequence[Mapping[str, Any]]
One = str | Ids
Many = list[str] | list[list[int]]
Sampling = SamplingParams | Sequence[SamplingParams] | None


@dataclass(frozen=True)
class Inputs:
    """`items`: what was handed in, as a list. `single`: it was one item, not a list. `n`: samples of each."""

    items: Sequence[Any]
    single: bool
    n: int | None

    def spread(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Every prompt `n` times; seeds count up, so that the samples differ."""
        return [replace(p, sampling=sample_of(p.sampling, i)) for p in prompts for i in range(self.n or 1)]

    def shaped(self, results: list[T]) -> Any:
        """The results of `spread` as they were asked for: one for an item, or a list of `n`."""
        if self.n is not None:
            grouped = [results[at : at + self.n] for at in range(0, len(results), self.n)]
            return grouped[0] if self.single else grouped
        return results[0] if self.single else results


def prompts_of(value: object, n: int | None = None) -> Inputs:
    """One text or list of token ids, or a list of such prompts."""
    _check_n(n)
    if _is_prompt(value):
        return Inputs([value], True, n)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        wrong = next((place for place, item in enumerate(value) if not _is_prompt(item)), None)
        if wrong is None:
            return Inputs(value, False, n)
        if _is_whole(value[0]):
            odd = next(place for place, item in enumerate(value) if not _is_whole(item))
            raise RequestError(f"token {odd} of the prompt is {quoted(value[odd])}: give whole numbers")
        raise RequestError(
            f"prompt {wrong} is {_kind(value[wrong])}: a prompt is a text or a list of token ids"
        )
    raise RequestError(
        f"the prompt is {_kind(value)}: give a text, a list of token ids, or a list of such prompts"
    )


def conversations_of(value: object, n: int | None = None) -> Inputs:
    """One list of messages, or a list of such lists."""
    _check_n(n)
    if is_conversation(value):
        return Inputs([value], True, n)
    if isinstance(value, Sequence) and not isinstance(value, str) and all(map(is_conversation, value)):
        return Inputs(value, False, n)
    raise not_a_conversation(value)


def not_a_conversation(value: object) -> RequestError:
    """The error for what is no list of messages."""
    return RequestError(
        'messages are a list of objects such as {"role": "user", "content": "Hello"}, '
        f"or a list of such lists, not {_kind(value)}"
    )


def is_conversation(value: object) -> bool:
    """Whether it is a list of messages, and not an empty one."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return False
    return all(isinstance(message, Mapping) and "role" in message for message in value)


def samplings(value: Sampling, count: int, default: SamplingParams) -> list[SamplingParams]:
    """Sampling for each of `count` prompts: the same for all, or one each."""
    if value is None or isinstance(value, SamplingParams):
        return [value or default] * count
    if not isinstance(value, Sequence) or not all(isinstance(each, SamplingParams) for each in value):
        raise RequestError(f"sampling is {_kind(value)}: give SamplingParams, or a list of them")
    if len(value) != count:
        raise RequestError(f"{len(value)} SamplingParams for {count} prompts: give one, or one each")
    return list(value)


def sample_of(sampling: SamplingParams, sample: int) -> SamplingParams:
    """The sampling of one of several samples: where a seed is given, it takes seed + `sample`."""
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + sample)


def _check_n(n: int | None) -> None:
    if n is not None and not (_is_whole(n) and 1 <= n <= _MOST_SAMPLES):
        raise RequestError(f"n is {quoted(n)}: ask for 1 sample or more, {_MOST_SAMPLES} at most")


def _is_prompt(value: object) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray) or not value:
        return False
    return all(map(_is_whole, value))


def _is_whole(value: object) -> bool:
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _kind(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        inside = f" of {type(value[0]).__name__}" if len(value) else ""
        return f"a{'n empty' if not inside else ''} {type(value).__name__}{inside}"
    return f"of type {type(value).__name__}"
