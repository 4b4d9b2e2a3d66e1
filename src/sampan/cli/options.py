"""Arguments and options that several commands share. The bounds are those of `sampan.engine.engine`."""

from typing import Annotated

import typer

from sampan.core.errors import UsageError

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="An alias (`sampan models`), a .gguf file, a folder, hf:… or pypi:…"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; every core unless given.")]
Context = Annotated[
    int | None, typer.Option(min=2, help="Tokens of the longest sequence; the model's unless given.")
]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="What weights, cache and workspace stay under: 4GiB, 800MB."),
]
ExpertMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Leave a mixture's experts on disk, but for so much: 4GiB. Answers are the same."
    ),
]
CacheType = Annotated[
    str | None,
    typer.Option("--cache", metavar="TYPE", help="bf16, int8 (half as large) or auto; bf16 unless given."),
]
Backend = Annotated[
    str, typer.Option(metavar="NAME", help="What computes: cpu (the native kernels) or torch.")
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="With --backend torch: cuda, mps, xpu, npu …")
]
System = Annotated[str | None, typer.Option(help="The system message.")]

MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens of the answer; up to the context unless given.")
]
MaxReasoningTokens = Annotated[
    int | None,
    typer.Option(min=0, help="Tokens of reasoning, after which the answer begins; no limit unless given."),
]
Temperature = Annotated[float | None, typer.Option(min=0, max=100, help="0 takes the most probable token.")]
TopP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Keep the best tokens that have this probability.")
]
TopK = Annotated[int | None, typer.Option(min=0, help="Keep this many best tokens; 0 keeps all.")]
MinP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Keep tokens with this share of the best one's.")
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(help="A text that ends the answer. Repeatable.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(min=1e-3, max=100, help="Above 1: fewer repetitions (CTRL).")
]
PresencePenalty = Annotated[
    float | None, typer.Option(min=-2, max=2, help="Against tokens already there (OpenAI).")
]
FrequencyPenalty = Annotated[
    float | None, typer.Option(min=-2, max=2, help="The same, by how often (OpenAI).")
]
LogitBias = Annotated[
    list[str] | None, typer.Option(metavar="ID=VALUE", help="Add VALUE to a token's logit. Repeatable.")
]


def parse_logit_bias(texts: list[str]) -> dict[int, float]:
    """`ID=VALUE` as token id and bias; `UsageError` for anything else."""
    bias: dict[int, float] = {}
    for text in texts:
        token, _, value = text.partition("=")
        try:
            bias[int(token)] = float(value)
        except ValueError as error:
            raise UsageError(f"--logit-bias {text!r}: write ID=VALUE, e.g. 42=-100") from error
    return bias
