"""`sampan bench [MODEL]`: speed on random token ids, one measurement for each batch size.

Every request is there from the start, with `--prompt-tokens` seeded random ids, and gives exactly
`--decode-tokens` tokens: greedy, the end of sequence ignored. Figures of one batch size:
`prefill_tps`: prompt tokens / seconds until every sequence has its first token;
`decode_tps`: tokens given after that moment / the seconds they took (null for one token each);
`total_tps`: prompt and given tokens / all seconds; `ttft_s`: mean seconds to a sequence's first token;
`peak_rss_bytes`: of the process so far; `load_s`: seconds to load the model, once for all sizes;
`experts`: with `--expert-memory`, `ExpertReads` of the whole measurement with its `hit_rate` and
`bytes_per_token`, otherwise null.
Reuse of prefixes and speculation are off: random ids would not gain by them, and the figures should not.
With `--draft` or `--draft-model` there are drafts, and `drafts`: by who drafts, for each depth the tokens
that were drafted and those that held.
With `--serve URL` the load is on a running service (`load.py`).
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sampan.catalog.catalog import DEFAULT
from sampan.cli.options import (
    AsJson,
    Backend,
    CacheType,
    Device,
    Draft,
    DraftConfidence,
    DraftModel,
    DraftTokens,
    ExpertMemory,
    Memory,
    ModelName,
    Seed,
    Threads,
)
from sampan.cli.session import open_model
from sampan.cli.terminal import is_terminal, token_bar
from sampan.core.errors import RequestError, UsageError
from sampan.core.types import SamplingParams

if TYPE_CHECKING:
    from sampan.engine.engine import Engine
    from sampan.kernels.experts import ExpertReads
    from sampan.llm import LLM

Row = dict[str, Any]

_COLUMNS = {
    "batch": "batch",
    "prefill_tps": "prefill t/s",
    "decode_tps": "decode t/s",
    "total_tps": "total t/s",
}


def command(
    model: ModelName = DEFAULT,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 512,
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens given to each prompt.")] = 128,
    batch: Annotated[str, typer.Option(metavar="N,N…", help="Sequences side by side.")] = "1,8,32,64",
    threads: Threads = None, seed: Seed = 0,
    backend: Backend = "cpu", device: Device = None,
    memory: Memory = None, cache: CacheType = None, expert_memory: ExpertMemory = None,
    draft: Draft = "none", draft_model: DraftModel = None,
    draft_tokens: DraftTokens = None, draft_confidence: DraftConfidence = None,
    serve: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Measure a running service instead, as its clients see it."),
    ] = None,
    clients: Annotated[int, typer.Option(min=1, help="With --serve: clients at once.")] = 64,
    requests: Annotated[
        int | None, typer.Option(min=1, help="With --serve: requests in all; four a client unless given.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="With --serve.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure prefill and decoding for each batch size, or a running service."""
    if serve is not None:
        from sampan.cli.load import Load, show

        count = requests or 4 * clients
        show(Load(serve, clients, count, prompt_tokens, decode_tokens, api_key, seed=seed or 0), as_json)
        return
    sizes = _sizes(batch)
    length = prompt_tokens + decode_tokens
    from sampan.kernels.backend import PAGE

    pages = -(-length // PAGE) * max(sizes)
    with open_model(
        model, threads=threads, context=length, max_sequences=max(sizes), cache_tokens=pages * PAGE,
        memory=memory, expert_memory=expert_memory, cache=cache, backend=backend, device=device,
        prefix_cache=False, draft="auto" if draft_model and draft == "none" else draft,
        draft_model=draft_model, draft_tokens=draft_tokens, draft_confidence=draft_confidence,
    ) as llm:  # fmt: skip
        prompts = _prompts(max(sizes), prompt_tokens, llm.config.vocab, seed or 0)
        _measure(llm.engine, [prompts[0][:64]], min(decode_tokens, 2), lambda _tokens: None)  # warms up
        for place, size in enumerate(sizes):
            shown = not (as_json and is_terminal(sys.stdout))
            before = llm.expert_reads
            with token_bar(f"batch {size}", size * length, shown=shown) as advance:
                llm.engine.counters.depths.clear()
                row = _measure(llm.engine, prompts[:size], decode_tokens, advance)
            if drafts := llm.engine.counters.by_depth():
                row["drafts"] = drafts
            row |= {"prompt_tokens": prompt_tokens, "decode_tokens": decode_tokens} | _setting(llm)
            row |= {"experts": None if before is None else _experts(llm, before)}
            print(json.dumps(row) if as_json else _lines(row, header=place == 0), flush=True)


def _setting(llm: "LLM") -> Row:
    """What the figures were measured with."""
    return {
        "peak_rss_bytes": _peak_rss(),
        "load_s": llm.load_seconds,
        "threads": llm.tuning.threads,
        "tuning": asdict(llm.tuning),
        "cache": llm.plan.cache,
        "cache_tokens": llm.plan.cache_tokens,
        "weights_bytes": llm.plan.weights_bytes,
        "workspace_bytes": llm.plan.workspace_bytes,
        "cache_bytes": llm.plan.cache_bytes,
    }


def _experts(llm: "LLM", before: "ExpertReads") -> Row:
    """What reading experts from disk took."""
    now = llm.expert_reads
    assert now is not None
    return now.since(before).row()


def _sizes(text: str) -> list[int]:
    sizes = text.split(",")
    if not all(size.strip().isdecimal() and 0 < int(size) <= 4096 for size in sizes):
        raise UsageError(f"--batch {text!r}: write whole numbers from 1 to 4096 with commas, e.g. 1,8,32")
    return [int(size) for size in sizes]


def _prompts(count: int, tokens: int, vocabulary: int, seed: int) -> list[list[int]]:
    import random

    source = random.Random(seed)
    return [source.choices(range(vocabulary), k=tokens) for _ in range(count)]


def _measure(
    engine: "Engine", prompts: list[list[int]], decode_tokens: int, advance: Callable[[int], None]
) -> Row:
    """All prompts at once through the engine, until it is idle."""
    sampling = SamplingParams(max_tokens=decode_tokens, temperature=0, ignore_eos=True)
    first: dict[int, float] = {}
    filled = after = 0.0
    given = before = 0
    start = time.perf_counter()
    for prompt in prompts:
        engine.add(prompt, sampling)
    while not engine.idle:
        events = engine.step()
        after = time.perf_counter() - start
        for event in events:
            if event.error is not None:
                raise RequestError(event.error)
        fresh = {event.request: after for event in events if event.request not in first}
        first |= fresh
        given += len(events)
        if fresh:
            filled, before = after, given
        advance(len(events) + len(fresh) * len(prompts[0]))
    prompted = sum(len(prompt) for prompt in prompts)
    return {
        "batch": len(prompts),
        "prefill_tps": prompted / filled,
        "decode_tps": (given - before) / (after - filled) if given > before else None,
        "total_tps": (prompted + given) / after,
        "ttft_s": sum(first.values()) / len(first),
    }


def _peak_rss() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _lines(row: Row, *, header: bool) -> str:
    names = [*_COLUMNS.values(), "first token s", "peak memory"]
    speeds = [
        f"{row['batch']}",
        *("-" if row[name] is None else f"{row[name]:.1f}" for name in list(_COLUMNS)[1:]),
    ]
    cells = [*speeds, f"{row['ttft_s']:.3f}", f"{row['peak_rss_bytes'] / 1e6:.0f} MB"]
    if experts := row["experts"]:
        names += ["experts found", "read / token", "waited s"]
        found, read = experts["hit_rate"] or 0.0, experts["bytes_per_token"] or 0.0
        cells += [f"{found:.1%}", f"{read / 1e6:.2f} MB", f"{experts['waited_s']:.2f}"]
    lines = [names] * header + [cells]
    return "\n".join("  ".join(f"{cell:>13}" for cell in line) for line in lines)
