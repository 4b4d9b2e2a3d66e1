"""`sampan embed`: texts as vectors, of a model that is made for it.

`--json` prints one object a text: `embedding`, its vector, and `tokens`.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sampan.catalog.catalog import DEFAULT
from sampan.cli.options import AsJson, Backend, CacheType, Context, Device, ExpertMemory, Memory, Threads
from sampan.cli.session import open_model
from sampan.cli.terminal import printable, read_stdin
from sampan.core.errors import RequestError

if TYPE_CHECKING:
    from sampan.llm.vectors import Embedding

_NUMBERS, _TEXT = 4, 40  # shown of a vector, and of a text


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] TEXT…",
            help="A model that is made for embeddings, and texts; - is stdin, one text a line.",
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="One of the model's prompts, to stand before each text: query."),
    ] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Keep the first numbers alone.")] = None,
    threads: Threads = None,
    context: Context = None,
    memory: Memory = None,
    expert_memory: ExpertMemory = None,
    cache: CacheType = None,
    backend: Backend = "cpu",
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Texts as vectors, and how alike they are."""
    model, texts = (DEFAULT, words) if len(words) == 1 else (words[0], words[1:])
    texts = [line for text in texts for line in (_lines() if text == "-" else [text])]
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
    ) as llm:
        found = llm.embed(texts, prompt=prompt, dimensions=dimensions)
    if as_json:
        for one in found:
            print(json.dumps({"embedding": one.vector.tolist(), "tokens": one.tokens}))
    else:
        _table(texts, found)


def _lines() -> list[str]:
    lines = [line for line in read_stdin().splitlines() if line]
    if not lines:
        raise RequestError("stdin holds no text: give one a line")
    return lines


def _table(texts: Sequence[str], found: Sequence["Embedding"]) -> None:
    """A line a text: its number, its tokens, how like it is to each before it (the cosine), and the text."""
    for place, (text, one) in enumerate(zip(texts, found, strict=True)):
        numbers = " ".join(f"{value:+.4f}" for value in one.vector[:_NUMBERS])
        shown = printable(text if len(text) <= _TEXT else f"{text[:_TEXT]}…")
        print(f"{place:>4}  {one.tokens:>6} tokens  {numbers} … ({len(one.vector)})  {shown}")
    if len(found) > 1:
        print("\nhow alike (cosine)")
    for place, one in enumerate(found[1:], 1):
        print(f"{place:>4}  {' '.join(f'{_cosine(one, other):+.3f}' for other in found[:place])}")


def _cosine(one: "Embedding", other: "Embedding") -> float:
    lengths = float(one.vector @ one.vector) * float(other.vector @ other.vector)
    return float(one.vector @ other.vector) / lengths**0.5 if lengths else 0.0
