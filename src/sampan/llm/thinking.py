"""What a request's tokens must obey beside a grammar: a budget for its reasoning."""

from sampan.catalog.catalog import find
from sampan.core.types import ModelFiles, SamplingParams
from sampan.engine.constraint import Constraint
from sampan.text.thinking import CLOSING, ThinkingBudget
from sampan.text.tokenizer import Tokenizer


def closing_of(files: ModelFiles) -> str:
    """The authors' wording that ends the reasoning of a model of the catalogue; the tag alone for others."""
    entry = find(files.source)
    return CLOSING if entry is None or entry.thought_end is None else entry.thought_end


def limited(
    tokenizer: Tokenizer,
    sampling: SamplingParams,
    constraint: Constraint | None,
    *,
    thinking: bool,
    closing: str,
) -> Constraint | None:
    """The constraint of one answer; `thinking`: the prompt has opened a block of reasoning."""
    if sampling.max_reasoning_tokens is None:
        return constraint
    budget = sampling.max_reasoning_tokens
    return ThinkingBudget(tokenizer, budget, inside=thinking, closing=closing, inner=constraint)
