"""One memory budget: what fits into a number of bytes, and what is said of what does not.

Weights, KV cache and workspace count; the interpreter, its libraries and the tokenizer do not. No numerics
here: a backend says what a model takes.
"""

from dataclasses import dataclass

from sampan.core.errors import OutOfMemory, UsageError
from sampan.core.memory import available_memory, megabytes
from sampan.kernels.backend import PAGE, AdapterRoom, Needs

SCORE_ROWS = 128  # rows of logits that the engine holds while scoring
SUMMED_ROWS = 128  # rows that a step scores beside answers, whose next tokens wait for them
LEAST_CONTEXT = 512  # a shorter one must be asked for
_TOKENS_EACH = 1024  # tokens of cache for a sequence, where nobody sets a limit


@dataclass(frozen=True)
class Footprint(Needs):
    """What a model takes. `context`: the most tokens of a sequence that it was made for."""

    name: str = ""
    context: int = 0

    @classmethod
    def of(cls, needs: Needs, name: str, context: int) -> "Footprint":
        """A model's."""
        return cls(**vars(needs), name=name, context=context)

    def fixed(self, max_sequences: int) -> int:
        """Everything but the cache, with a state for one sequence."""
        rows = max(max_sequences, SCORE_ROWS)
        return self.weights + self.adapters + self.workspace + self.logits * rows + self.state

    def tokens(self, memory: int, max_sequences: int, dtype: str) -> int:
        """Tokens of a cache that fits into `memory` beside all else; negative when even that does not."""
        return ((memory - self.fixed(max_sequences)) // self.page[dtype] - 1) * PAGE


@dataclass(frozen=True)
class Wish:
    """What a user asks for; None leaves it to the machine. `memory`: bytes for everything together.

    `context`: tokens of the longest sequence. `cache_tokens`: of all sequences together. `cache`: "bf16",
    "int8", "f32", or "auto": int8 where bf16 does not fit. `adapters`: how many LoRA adapters there may be at
    once, of rank `adapter_rank` at most. `expert_memory`: bytes for experts, which otherwise stay on disk;
    None: all are in memory.
    """

    memory: int | None = None
    context: int | None = None
    max_sequences: int = 64
    cache_tokens: int | None = None
    cache: str | None = None
    adapters: int = 0
    adapter_rank: int = 64
    expert_memory: int | None = None

    @property
    def room(self) -> AdapterRoom | None:
        """For adapters."""
        return AdapterRoom(self.adapters, self.adapter_rank) if self.adapters else None

    def __post_init__(self) -> None:
        for name in ("context", "max_sequences", "cache_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} is {value!r:.40}: give a whole number, 1 or more")
        for name, most in (("adapters", 4096), ("adapter_rank", 4096)):
            value = getattr(self, name)
            least = int(name == "adapter_rank")
            if not isinstance(value, int) or not least <= value <= most:
                raise UsageError(f"{name} is {value!r:.40}: give a whole number from {least} to {most}")


@dataclass(frozen=True)
class Plan:
    """Sizes to load a model with, and the bytes that it then takes; those of the cache are for pages and
    `states`, slots for what sequences carry besides their pages. `expert_bytes`: the part of `weights_bytes`
    that experts on disk are read into. `left_bytes`: of the memory that was given; None where none was."""

    context: int
    pages: int
    cache: str
    weights_bytes: int
    workspace_bytes: int
    cache_bytes: int
    adapter_bytes: int = 0
    states: int = 0
    expert_bytes: int = 0
    left_bytes: int | None = None

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache holds."""
        return self.pages * PAGE


def plan(model: Footprint, wish: Wish) -> Plan:
    """The best that fits. Raises `UsageError` for what the model has not, `OutOfMemory` with the numbers and
    what would fit."""
    most = model.context
    if wish.context is not None and wish.context > most:
        raise UsageError(f"a context of {wish.context} tokens was asked for: {model.name} holds {most}")
    limit = wish.memory or available_memory()
    room = None if limit is None else limit - model.fixed(wish.max_sequences)
    needed = _pages(wish.cache_tokens or wish.context or min(LEAST_CONTEXT, most))
    dtypes = _dtypes(model, wish)
    states = _states(model, wish, room, [needed * model.page[d] for d in dtypes])
    if room is not None and states:
        room -= (states - 1) * model.state
    fitting = [d for d in dtypes if room is None or needed * model.page[d] <= room]
    if not fitting:
        assert limit is not None
        raise OutOfMemory(_refusal(model, wish, limit, needed, dtypes[-1]))
    wanted = _pages(wish.cache_tokens or wish.context or most)
    whole = [d for d in fitting if room is None or wanted * model.page[d] <= room]
    dtype = (whole or fitting[::-1])[0]
    pages = _size(model, wish, room, needed, dtype)
    context = min(wish.context or most, most, wish.cache_tokens or most, (pages - 1) * PAGE)
    cache = pages * model.page[dtype] + states * model.state
    taken = model.fixed(wish.max_sequences) - model.state + cache
    return Plan(
        context=context,
        pages=pages,
        cache=dtype,
        weights_bytes=model.weights,
        workspace_bytes=model.fixed(wish.max_sequences) - model.weights - model.adapters - model.state,
        cache_bytes=cache,
        adapter_bytes=model.adapters,
        states=states,
        expert_bytes=model.experts,
        left_bytes=None if wish.memory is None else max(wish.memory - taken, 0),
    )


def _states(model: Footprint, wish: Wish, room: int | None, pages: list[int]) -> int:
    """Slots for states: two of each sequence, one to write and one to keep, in a quarter of the room, where
    that leaves enough for the first of these caches that fits beside one."""
    if not model.state:
        return 0
    most = 2 * wish.max_sequences
    if room is None:
        return most
    left = room - next((size for size in pages if size <= room), room)
    return max(1, min(most, room // 4 // model.state, 1 + left // model.state))


def _dtypes(model: Footprint, wish: Wish) -> list[str]:
    """Types of the cache to try, in this order."""
    if wish.cache == "auto":
        return [kind for kind in (model.dtype, "int8") if kind in model.page]
    dtype = wish.cache or model.dtype
    if dtype not in model.page:
        raise UsageError(f"a cache of type {dtype!r:.40} is not known: {', '.join(model.page)} and auto are")
    return [dtype]


def _size(model: Footprint, wish: Wish, room: int | None, needed: int, dtype: str) -> int:
    """Pages of the cache: as asked, as many as a given memory holds, or a share of what is free."""
    if wish.cache_tokens is not None:
        return needed
    context = wish.context or model.context
    if wish.memory is not None:
        useful = wish.max_sequences * _pages(context)
    else:
        useful = _pages(max(context, min(context, _TOKENS_EACH) * wish.max_sequences))
        room = None if room is None else max(room // 2, needed * model.page[dtype])
    return useful if room is None else min(useful, room // model.page[dtype])


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE) + 1  # one more, for the token that is sampled next


def _refusal(model: Footprint, wish: Wish, limit: int, needed: int, dtype: str) -> str:
    """One line: what is asked, what there is, and what would fit."""
    fixed, cache = model.fixed(wish.max_sequences), needed * model.page[dtype] + model.state
    fixed -= model.state
    sequences = "1 sequence" if wish.max_sequences == 1 else f"{wish.max_sequences} sequences"
    asked = f"{(needed - 1) * PAGE} tokens of {dtype} cache and {sequences}"
    adapters = f"{megabytes(model.adapters)} of adapters, " if model.adapters else ""
    parts = (
        f"{megabytes(model.weights)} of weights, {adapters}"
        f"{megabytes(fixed - model.weights - model.adapters)} of workspace, {megabytes(cache)} of cache"
    )
    there = "allowed" if wish.memory else "free"
    return (
        f"{model.name} with {asked} takes {megabytes(fixed + cache)} ({parts}), "
        f"{megabytes(limit)} are {there}: {_advice(model, wish, limit, needed, dtype)}"
    )


def _advice(model: Footprint, wish: Wish, limit: int, needed: int, dtype: str) -> str:
    """What would fit."""
    found = []
    for kind in [kind for kind in dict.fromkeys((dtype, "int8")) if kind in model.page]:
        tokens = model.tokens(limit, wish.max_sequences, kind)
        if tokens >= (needed - 1) * PAGE:
            found.append(f"an {kind} cache would fit")
        elif wish.cache_tokens and wish.context and tokens >= wish.context:
            found.append(f"{tokens // wish.context} sequences with {kind} cache would fit")
        elif tokens > 0:
            found.append(f"{min(tokens, model.context)} tokens of {kind} cache would fit")
    if found:
        return ", ".join(found)
    least = model.fixed(1) + _pages(1) * min(model.page.values())
    return f"the least is {-(-least // 10**6)}MB: allow that, or take a smaller model"
