"""`sampan run [MODEL] PROMPT`: one answer, streamed to stdout."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sampan.catalog.catalog import DEFAULT
from sampan.cli import options as o
from sampan.cli.main import INTERRUPTED
from sampan.cli.session import Answer, Screen, given_over, open_model, read_answer, statistics
from sampan.cli.terminal import note, read_stdin
from sampan.core.errors import UsageError
from sampan.core.types import TokenLogprob

if TYPE_CHECKING:
    from sampan.llm import LLM


def command(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] PROMPT", help="A model (see `sampan models`) and a prompt; - is stdin."
        ),
    ],
    max_tokens: o.MaxTokens = None,
    max_reasoning_tokens: o.MaxReasoningTokens = None,
    temperature: o.Temperature = None,
    top_p: o.TopP = None, top_k: o.TopK = None, min_p: o.MinP = None,
    seed: o.Seed = None,
    stop: o.Stop = None,
    repetition_penalty: o.RepetitionPenalty = None,
    presence_penalty: o.PresencePenalty = None, frequency_penalty: o.FrequencyPenalty = None,
    logit_bias: o.LogitBias = None,
    logprobs: Annotated[
        int | None, typer.Option(min=0, help="With --json: log-probabilities, and of this many alternatives.")
    ] = None,
    system: o.System = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    threads: o.Threads = None, context: o.Context = None, memory: o.Memory = None,
    expert_memory: o.ExpertMemory = None,
    cache: o.CacheType = None, backend: o.Backend = "cpu", device: o.Device = None,
    draft: o.Draft = "auto", draft_model: o.DraftModel = None,
    draft_tokens: o.DraftTokens = None, draft_confidence: o.DraftConfidence = None,
    as_json: o.AsJson = False,
) -> None:  # fmt: skip
    """Answer one prompt. Sampling options that are not given are the model's own."""
    if raw and system is not None:
        raise UsageError("--system needs the chat template, which --raw skips: leave one of them out")
    if logprobs is not None and not as_json:
        raise UsageError("--logprobs is a part of the JSON: add --json")
    chosen: dict[str, Any] = {
        "max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p,
        "seed": seed, "stop": tuple(stop) if stop else None, "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty, "frequency_penalty": frequency_penalty,
        "logit_bias": o.parse_logit_bias(logit_bias or []), "logprobs": logprobs,
        "max_reasoning_tokens": max_reasoning_tokens,
    }  # fmt: skip
    model, prompt = _model_and_prompt(words, raw)
    with open_model(
        model, threads=threads, context=context, memory=memory, expert_memory=expert_memory, cache=cache,
        backend=backend, device=device, draft=draft, draft_model=draft_model, draft_tokens=draft_tokens,
        draft_confidence=draft_confidence,
    ) as llm:  # fmt: skip
        sampling = given_over(llm.defaults, chosen)
        screen = Screen()
        stream = llm.stream(prompt if raw else _messages(system, prompt), sampling)
        try:
            answer = read_answer(stream, (lambda _delta: None) if as_json else screen.show)
        finally:
            screen.end()
        if as_json:
            print(json.dumps(_row(llm, answer, logprobs is not None), ensure_ascii=False))
        note(statistics(answer, llm.load_seconds))
    if answer.finish_reason == "abort":
        raise typer.Exit(INTERRUPTED)


def _model_and_prompt(words: list[str], raw: bool) -> tuple[str, str]:
    if len(words) > 2:
        raise UsageError(
            f"`sampan run` takes [MODEL] PROMPT, not {len(words)} words: put the prompt in quotes"
        )
    model, prompt = words if len(words) == 2 else (DEFAULT, words[0])
    if prompt == "-":
        text = read_stdin()
        prompt = text if raw else text.removesuffix("\n")
    if not (prompt if raw else prompt.strip()):
        raise UsageError("the prompt is empty: give some text")
    return model, prompt


def _messages(system: str | None, prompt: str) -> list[dict[str, str]]:
    user = {"role": "user", "content": prompt}
    return [user] if system is None else [{"role": "system", "content": system}, user]


def _row(llm: "LLM", answer: Answer, with_logprobs: bool) -> dict[str, Any]:
    """The object of `--json`. Times in seconds; null for what needs more tokens than there are."""
    row: dict[str, Any] = {
        "text": answer.text,
        "reasoning": answer.reasoning,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": len(answer.tokens),
        "load_s": llm.load_seconds,
        "ttft_s": answer.ttft_s,
        "decode_tps": answer.decode_tps,
    }
    if with_logprobs:
        row["logprobs"] = [_logprob_row(llm, token) for token in answer.tokens]
    return row


def _logprob_row(llm: "LLM", chosen: TokenLogprob) -> dict[str, Any]:
    alternatives = [_token_row(llm, token, logprob) for token, logprob in chosen.top]
    return {**_token_row(llm, chosen.token, chosen.logprob), "top": alternatives}


def _token_row(llm: "LLM", token: int, logprob: float) -> dict[str, Any]:
    """`text` is what the token alone decodes to: half a character becomes U+FFFD."""
    return {
        "id": token,
        "text": llm.tokenizer.token_bytes(token).decode("utf-8", "replace"),
        "logprob": logprob,
    }
