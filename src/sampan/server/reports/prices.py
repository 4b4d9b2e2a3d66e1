"""What tokens cost at published APIs: a table of facts, each with its source and the date it held."""

from dataclasses import dataclass

_DEEPSEEK = "DeepSeek API documentation"
_SECOND_HAND = "second-hand listing"


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens. `cached`: of a prompt's that were not computed again; None: as others.

    `date`: when it held, None where the source does not say.
    """

    model: str
    input: float
    cached: float | None
    output: float
    source: str
    date: str | None

    def of(self, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> float:
        """US dollars; `cached_tokens` are part of `prompt_tokens`."""
        cached = self.input if self.cached is None else self.cached
        fresh = prompt_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * cached + completion_tokens * self.output) / 1e6


PRICES = (
    Price("DeepSeek-V3", 0.27, 0.07, 1.10, _DEEPSEEK, "until 2025-09-05"),
    Price("DeepSeek-R1", 0.55, 0.14, 2.19, _DEEPSEEK, "until 2025-09-05"),
    Price("GPT-4o", 2.50, None, 10.0, _SECOND_HAND, "2025-03"),
    Price("o1", 15.0, None, 60.0, _SECOND_HAND, None),
    Price("Claude 3.5 Sonnet", 3.0, None, 15.0, _SECOND_HAND, None),
)
