"""`sampan score [MODEL] (--ids FILE | --text FILE)`: teacher-forced log-probabilities.

A sequence longer than the context is cut into windows, each scored on its own. `--json` prints one object
a window: `ids`; `logprobs`, the natural-log probability of each id after those before it (first null);
`nll`, minus their sum, in nats; `perplexity`, exp(nll / scored ids), null where nothing is scored.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sampan.catalog.catalog import DEFAULT
from sampan.cli.options import (
    AsJson,
    Backend,
    CacheType,
    Context,
    Device,
    ExpertMemory,
    Memory,
    ModelName,
    Threads,
)
from sampan.cli.session import open_model
from sampan.cli.terminal import is_terminal, token_bar
from sampan.core.errors import RequestError, UsageError

if TYPE_CHECKING:
    from sampan.llm import LLM

Row = dict[str, Any]
_SHOWN = ("ids", "logprobs", "nll", "perplexity")


def command(
    model: ModelName = DEFAULT,
    ids: Annotated[
        Path | None, typer.Option(help="A JSON list of token ids, or a list of such lists.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text, which is tokenized.")] = None,
    context: Context = None,
    threads: Threads = None,
    memory: Memory = None,
    expert_memory: ExpertMemory = None,
    cache: CacheType = None,
    backend: Backend = "cpu",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Log-probabilities of given tokens or text, and their perplexity.

    What is longer than the context is cut into windows of that many tokens, each scored on its own.
    """
    if (ids is None) == (text is None):
        raise UsageError("give either --ids FILE or --text FILE")
    sequences = _read_ids(ids) if ids is not None else []
    prose = _read_text(text) if text is not None else ""
    with open_model(
        model,
        threads=threads,
        context=context,
        memory=memory,
        expert_memory=expert_memory,
        cache=cache,
        backend=backend,
        device=device,
        max_sequences=16,
        speculation=False,
    ) as llm:
        if ids is not None:
            _check_ids(ids, sequences, llm.config.vocab)
        else:
            sequences = [llm.encode(prose, templated=False)]
        windows = [window for sequence in sequences for window in _windows(sequence, llm.context)]
        rows = _score(llm, windows, shown=not (as_json and is_terminal(sys.stdout)))
        if as_json:
            for row in rows:
                print(json.dumps(row), flush=True)
        else:
            _table(list(rows))


def _score(llm: "LLM", windows: list[list[int]], *, shown: bool) -> Iterator[Row]:
    with token_bar("scoring", sum(len(window) for window in windows), shown=shown) as advance:
        for score in llm.score_telling(windows, {}, advance):
            yield {name: value for name, value in vars(score).items() if name in _SHOWN}


def _windows(sequence: list[int], size: int) -> Iterable[list[int]]:
    return (sequence[at : at + size] for at in range(0, len(sequence), size))


def _read(path: Path) -> bytes:
    try:
        if path.is_char_device() or path.is_block_device():
            raise RequestError(f"{path} is a device: give a file")
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def _read_text(path: Path) -> str:
    data = _read(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from error
    if "\0" in text:
        raise RequestError(f"{path} is no text: a zero byte at character {text.index(chr(0))}")
    if not text:
        raise RequestError(f"{path} is empty: there is nothing to score")
    return text


def _read_ids(path: Path) -> list[list[int]]:
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not JSON ({error}): it should hold a list of token ids") from error
    if not isinstance(value, list) or not value:
        raise RequestError(
            f"{path} should hold a JSON list of token ids, or a list of such lists, and not be empty"
        )
    sequences = value if isinstance(value[0], list) else [value]
    for place, sequence in enumerate(sequences):
        if not isinstance(sequence, list) or not sequence:
            raise RequestError(f"{path}: sequence {place} is no list of token ids, or is empty")
        wrong = next((i for i, token in enumerate(sequence) if type(token) is not int), None)
        if wrong is not None:
            raise RequestError(f"{path}: item {wrong} of sequence {place} is no whole number, so no token id")
    return sequences


def _check_ids(path: Path, sequences: list[list[int]], vocabulary: int) -> None:
    for place, sequence in enumerate(sequences):
        wrong = next((token for token in sequence if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise RequestError(
                f"{path}: sequence {place} holds the id {str(wrong)[:30]}; the vocabulary has {vocabulary}"
            )


def _table(rows: list[Row]) -> None:
    """One line a window, and one for all of them together."""
    print(f"{'sequence':>8}  {'tokens':>8}  {'nll':>12}  {'perplexity':>12}")
    for place, row in enumerate(rows):
        _line(str(place), len(row["ids"]), row["nll"], row["perplexity"])
    scored = sum(len(row["ids"]) - 1 for row in rows)
    if len(rows) > 1 and scored:
        nll = math.fsum(row["nll"] for row in rows)
        _line("all", sum(len(row["ids"]) for row in rows), nll, math.exp(nll / scored))


def _line(name: str, tokens: int, nll: float, perplexity: float | None) -> None:
    print(f"{name:>8}  {tokens:>8}  {nll:>12.4f}  {'-' if perplexity is None else f'{perplexity:.4f}':>12}")
